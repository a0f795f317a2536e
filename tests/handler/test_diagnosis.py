"""The table of causes, row by row: what is told from what, and what follows it."""

import pytest

from handler.diagnosis import CAUSES, End, diagnose, find_cause

EXITED = {"stop_code": "EssentialContainerExited"}
NOT_STARTED = {"stop_code": "TaskFailedToStart"}
USER = {"stop_code": "UserInitiated", "exit_code": 143}
QUOTA = "You've reached the limit on the number of vCPUs you can run concurrently"
REFUSED = "RunTask refused the request: An error occurred (ClientException): "
ROWS = [
    ("cancel", USER | {"we_stopped": "cancel"}),
    ("cancel", {"refusal": "RESOURCE:MEMORY", "we_stopped": "cancel"}),
    ("time", USER | {"we_stopped": "time"}),
    ("user", USER),
    ("limit", {"refusal": QUOTA}),
    ("limit", {"refusal": REFUSED + QUOTA}),
    ("limit", NOT_STARTED | {"stopped_reason": QUOTA}),
    ("refused", {"refusal": REFUSED + "TaskDefinition is inactive"}),
    ("capacity", {"refusal": "Capacity is unavailable at this time"}),
    ("capacity", {"refusal": "RESOURCE:MEMORY"}),
    ("capacity", {"refusal": "CAPACITY"}),
    ("capacity", {"refusal": "AGENT"}),
    ("capacity", {"refusal": "MISSING"}),
    ("capacity", NOT_STARTED | {"stopped_reason": "Capacity is unavailable at this time"}),
    ("spot", {"stop_code": "SpotInterruption", "exit_code": 143}),
    ("spot", {"stop_code": "TerminationNotice", "exit_code": 137}),
    ("spot", {"stop_code": None, "stopped_reason": "Your Spot Task was interrupted."}),
    ("infrastructure", {"stop_code": "InfrastructureHealth"}),
    ("platform", EXITED | {"exit_code": 1, "log_lines": ("exec python: exec format error",)}),
    ("platform", EXITED | {"exit_code": 255, "container_reason": "exec format error"}),
    (
        "platform",
        NOT_STARTED
        | {
            "stopped_reason": "CannotPullContainerError: image Manifest does not contain "
            "descriptor matching platform 'linux/amd64'"
        },
    ),
    ("image", NOT_STARTED | {"stopped_reason": "CannotPullContainerError: not found"}),
    ("image", NOT_STARTED | {"stopped_reason": "CannotPullContainerError: manifest unknown"}),
    ("pull", NOT_STARTED | {"stopped_reason": "CannotPullContainerError: i/o timeout"}),
    ("pull", NOT_STARTED | {"container_reason": "CannotPullImageManifestError: timeout"}),
    ("resources", NOT_STARTED | {"stopped_reason": "ResourceInitializationError: not found"}),
    ("command", NOT_STARTED | {"stopped_reason": "CannotStartContainerError: no such file"}),
    ("command", EXITED | {"exit_code": 127}),
    ("start", NOT_STARTED | {"stopped_reason": "Unexpected EC2 error"}),
    ("start", NOT_STARTED),
    ("start", EXITED),
    ("memory", EXITED | {"exit_code": 137, "container_reason": "OutOfMemoryError: killed"}),
    ("killed", EXITED | {"exit_code": 137}),
    ("crash", EXITED | {"exit_code": 139}),
    ("crash", EXITED | {"exit_code": 134}),
    ("terminated", EXITED | {"exit_code": 143}),
    ("terminated", {"stop_code": None, "exit_code": 143}),
    ("exit", EXITED | {"exit_code": 1}),
    ("exit", EXITED | {"exit_code": 2, "log_lines": ("CannotPullContainerError",)}),
    ("unpublished", EXITED | {"exit_code": 0, "fault": "nothing was published"}),
    ("lost", {"forgotten": True}),
    ("stopped", {"stop_code": "ServiceSchedulerInitiated", "exit_code": 0}),
    ("stopped", {"stop_code": None}),
]

# cause -> attempts that may end so, provider of the next one, what the run waits for, its end
FOLLOWS = {
    "cancel": (1, "same", None, "CANCELLED"),
    "time": (1, "same", None, "FAILED"),
    "user": (1, "same", None, "CANCELLED"),
    "limit": (100, "same", "limit", "FAILED"),
    "refused": (3, "same", "capacity", "FAILED"),
    "capacity": (100, "next", "capacity", "FAILED"),
    "spot": (5, "next", None, "FAILED"),
    "infrastructure": (3, "same", None, "FAILED"),
    "platform": (1, "same", None, "FAILED"),
    "image": (1, "same", None, "FAILED"),
    "pull": (3, "same", None, "FAILED"),
    "resources": (3, "same", None, "FAILED"),
    "command": (1, "same", None, "FAILED"),
    "start": (3, "same", None, "FAILED"),
    "memory": (1, "same", None, "FAILED"),
    "killed": (1, "same", None, "FAILED"),
    "crash": (1, "same", None, "FAILED"),
    "terminated": (3, "next", None, "FAILED"),
    "exit": (1, "same", None, "FAILED"),
    "unpublished": (1, "same", None, "FAILED"),
    "lost": (3, "same", None, "FAILED"),
    "stopped": (1, "same", None, "FAILED"),
}


@pytest.mark.parametrize(("name", "facts"), ROWS)
def test_each_cause_is_told_from_the_others(name, facts):
    assert find_cause(End(**facts)).name == name


@pytest.mark.parametrize(("name", "expected"), FOLLOWS.items())
def test_what_follows_each_cause(name, expected):
    (cause,) = [row for row in CAUSES if row.name == name]

    assert (cause.most, cause.provider, cause.waits_for, cause.state) == expected


def test_every_row_of_the_table_is_tried():
    assert {name for name, _ in ROWS} == FOLLOWS.keys() == {row.name for row in CAUSES}


def test_every_cause_says_what_to_do():
    assert all(row.summary and row.action.endswith(".") for row in CAUSES)


def test_the_table_is_in_the_docs(root):
    text = (root / "docs" / "run-record.md").read_text()
    section = text.split("## Causes", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]

    assert rows == [f"`{row.name}`" for row in CAUSES]


def test_the_detail_holds_all_that_is_known():
    end = End(
        stop_code="EssentialContainerExited",
        stopped_reason="Essential container in task exited",
        exit_code=1,
        container_reason="it fell",
        log_lines=("Traceback", "ValueError: no images"),
    )
    facts = (
        "stop code EssentialContainerExited; reason Essential container in task exited; "
        "exit code 1; container: it fell"
    )

    assert diagnose(find_cause(end), end)["detail"].splitlines() == [
        facts,
        "last log lines:",
        "Traceback",
        "ValueError: no images",
    ]


def test_the_detail_begins_with_what_is_wrong_with_the_publication():
    end = End(exit_code=0, fault="model.bin must be there, got nothing")

    detail = diagnose(find_cause(end), end)["detail"]

    assert detail.splitlines()[0] == "model.bin must be there, got nothing"


def test_the_detail_of_a_refusal_is_what_ecs_answered():
    end = End(refusal="RESOURCE:MEMORY")

    assert diagnose(find_cause(end), end)["detail"] == "RESOURCE:MEMORY"
