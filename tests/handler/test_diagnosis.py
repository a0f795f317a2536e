import pytest

from handler.diagnosis import CAUSES, End, diagnose

EXITED = {"stop_code": "EssentialContainerExited"}
NOT_STARTED = {"stop_code": "TaskFailedToStart"}
ROWS = [
    ("user", {"stop_code": "UserInitiated", "exit_code": 143}),
    ("spot", {"stop_code": "SpotInterruption", "exit_code": 143}),
    ("spot", {"stop_code": "TerminationNotice", "exit_code": 137}),
    ("spot", {"stop_code": None, "stopped_reason": "Your Spot Task was interrupted."}),
    ("infrastructure", {"stop_code": "InfrastructureHealth"}),
    ("pull", NOT_STARTED | {"stopped_reason": "CannotPullContainerError: not found"}),
    ("pull", NOT_STARTED | {"container_reason": "CannotPullImageManifestError: timeout"}),
    ("resources", NOT_STARTED | {"stopped_reason": "ResourceInitializationError: no route"}),
    ("architecture", EXITED | {"exit_code": 1, "log_lines": ("exec python: exec format error",)}),
    ("architecture", EXITED | {"exit_code": 255, "container_reason": "exec format error"}),
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
    ("exit", EXITED | {"exit_code": 1}),
    ("exit", EXITED | {"exit_code": 2, "log_lines": ("CannotPullContainerError",)}),
    ("stopped", {"stop_code": "ServiceSchedulerInitiated", "exit_code": 0}),
    ("stopped", {"stop_code": None}),
]


def end_of(facts):
    nothing = {"stopped_reason": "", "exit_code": None, "container_reason": "", "log_lines": ()}
    return End(**{**nothing, **facts})


@pytest.mark.parametrize(("name", "facts"), ROWS)
def test_each_cause_is_told_from_the_others(name, facts):
    (cause,) = [row for row in CAUSES if row.name == name]

    state, diagnosis = diagnose(end_of(facts))

    assert diagnosis["summary"] == cause.summary
    assert diagnosis["action"] == cause.action
    assert state == ("CANCELLED" if name == "user" else "FAILED")


def test_every_row_of_the_table_is_tried():
    assert {name for name, _ in ROWS} == {row.name for row in CAUSES}


def test_the_detail_holds_all_that_is_known():
    _, diagnosis = diagnose(
        End(
            stop_code="EssentialContainerExited",
            stopped_reason="Essential container in task exited",
            exit_code=1,
            container_reason="it fell",
            log_lines=("Traceback", "ValueError: no images"),
        )
    )
    facts = (
        "stop code EssentialContainerExited; reason Essential container in task exited; "
        "exit code 1; container: it fell"
    )

    assert diagnosis["detail"].splitlines() == [
        facts,
        "last log lines:",
        "Traceback",
        "ValueError: no images",
    ]
