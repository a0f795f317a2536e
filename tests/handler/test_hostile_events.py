"""Whatever arrives: a run starts only for a valid push of our repository, and nothing breaks.

Events are generated: any JSON, any shape of ECR's and ECS's events, hostile strings, wrong types,
a megabyte. Those that are right by an oracle of their own must be done; all others are refused with
a reason, or raise an error that says what is wrong with them.
"""

import dataclasses
import json
import re
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler.events import MalformedEventError
from handler.observe import UnknownTaskError
from handler.requests import TRAIN

FEW, MANY = 1_000, 10_000
DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
MEGABYTE = "x" * 1_000_000
OUTCOMES = {"refused", "started", "known", "waiting", "claimed"}
HOSTILE = [
    "",
    " ",
    "\x00",
    "null",
    "sha256:",
    "../../etc/passwd",
    "'; DROP TABLE runs; --",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "\u202egnp.exe",
    "\ud800",
    "\U0001d54a\U0001d559\U0001d552256:" + "0" * 64,
    "A" * 129,
    MEGABYTE,
    "trainer/../trainer",
    "TRAINER",
    DIGEST.upper(),
    DIGEST + "\n",
    "\uff11\uff12\uff13\uff14",
    "-1",
    "1e999",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(HOSTILE)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
digests = st.sampled_from([DIGEST, "sha256:" + "0" * 64]) | st.from_regex(
    r"sha256:[0-9a-f]{64}", fullmatch=True
)
tags = st.sampled_from(
    ["g-1", "latest", "v1.0_x", "sha256-" + "0" * 64 + ".sig", "sha256-" + "a" * 64, "c d", "-x"]
) | st.text(max_size=130)
media_types = st.sampled_from(
    [
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.in-toto+json",
        "application/vnd.cncf.helm.config.v1+json",
        "",
    ]
)
MISSING = object()


def either(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any] = scalars):
    """Mostly what is usual, now and then something odd or nothing."""
    return st.one_of(usual, usual, usual, usual, usual, usual, odd, st.just(MISSING))


def document(**fields):
    """An object of which any field may be odd or missing."""
    whole = st.fixed_dictionaries(fields)
    return whole.map(lambda made: {k: v for k, v in made.items() if v is not MISSING})


pushes = document(
    source=either(st.just("aws.ecr")),
    **{"detail-type": either(st.just("ECR Image Action"))},
    id=either(st.just("1")),
    time=either(st.just("2026-01-02T03:04:05Z")),
    account=either(st.just("123456789012")),
    region=either(st.just("us-east-1")),
    detail=either(
        document(
            **{
                "action-type": either(st.just("PUSH"), st.just("DELETE") | scalars),
                "result": either(st.just("SUCCESS"), st.just("FAILURE") | scalars),
                "repository-name": either(st.just("trainer"), st.sampled_from(HOSTILE)),
                "image-digest": either(digests),
                "image-tag": either(tags),
                "artifact-media-type": either(media_types),
            }
        ),
        anything,
    ),
)
containers = st.lists(
    either(
        document(
            name=either(st.just("trainer"), scalars),
            exitCode=either(st.integers(0, 255), scalars),
            reason=either(st.sampled_from(HOSTILE), scalars),
        )
    ).filter(lambda made: made is not MISSING),
    max_size=3,
)
ends = document(
    source=either(st.just("aws.ecs")),
    **{"detail-type": either(st.just("ECS Task State Change"))},
    detail=either(
        document(
            lastStatus=either(st.just("STOPPED"), st.just("RUNNING") | scalars),
            clusterArn=either(st.just("arn:aws:ecs:us-east-1:123456789012:cluster/dev")),
            startedBy=either(
                st.sampled_from(
                    [
                        "06ea17a8981d-a1",
                        "06ea17a8981d-a2",
                        "06ea17a8981d-2-a1",
                        "06ea17a8981d-a0",
                        "06ea17a8981d-a\uff11",
                        "ecs-svc/1",
                    ]
                )
            ),
            taskArn=either(st.sampled_from(["arn:aws:ecs:us-east-1:1:task/dev/1", *HOSTILE])),
            stopCode=either(st.sampled_from(["SpotInterruption", "UserInitiated", "", "New"])),
            stoppedReason=either(st.sampled_from(HOSTILE)),
            startedAt=either(st.sampled_from(["2026-01-02T03:04:05Z", "0001-01-01T00:00+14:00"])),
            stoppedAt=either(st.sampled_from(["2026-01-02T03:04:05.123Z", "9999-12-31T23:59-14"])),
            containers=either(containers, anything),
        ),
        anything,
    ),
)
names = st.sampled_from(
    ["06ea17a8981d", "06ea17a8981d-2", "000000000000", "06EA17A8981D", *HOSTILE]
)
requests = document(
    source=either(st.just("pushtrain")),
    **{
        "detail-type": either(
            st.sampled_from(
                ["Train Request", "Cancel Request", "Promote Request", "Reconcile Request"]
            )
        )
    },
    detail=either(
        document(
            run=either(names),
            digest=either(digests),
            tag=either(tags),
            parameters=either(
                st.dictionaries(
                    st.sampled_from(["epochs", "lr", *HOSTILE]),
                    st.sampled_from(["5", "\x00", MEGABYTE]) | scalars,
                    max_size=3,
                ),
                anything,
            ),
            by=either(st.sampled_from(["me", *HOSTILE])),
            reason=either(st.sampled_from(["enough", *HOSTILE])),
            token=either(st.sampled_from(["t", *HOSTILE])),
            pushes=either(st.booleans()),
        ),
        anything,
    ),
)
schedules = document(
    source=either(st.just("aws.events")),
    **{"detail-type": either(st.just("Scheduled Event"))},
    time=either(st.sampled_from(["2026-01-02T03:00:05Z", "2026-01-02T03:30:05Z", "", "noon"])),
)
events = st.one_of(anything, pushes, ends, requests, schedules)


def is_ours(event):
    """Say whether this is a tagged push of an image to our repository, by the book."""
    if not isinstance(event, dict) or not isinstance(event.get("detail"), dict):
        return False
    detail = event["detail"]
    wanted = {"action-type": "PUSH", "result": "SUCCESS", "repository-name": "trainer"}
    digest, tag = detail.get("image-digest"), detail.get("image-tag")
    kind = detail.get("artifact-media-type")
    return (
        (event.get("source"), event.get("detail-type")) == ("aws.ecr", "ECR Image Action")
        and all(isinstance(event.get(key), str) and event[key] for key in ENVELOPE)
        and wanted.items() <= {key: detail.get(key) for key in wanted}.items()
        and isinstance(digest, str)
        and bool(re.fullmatch("sha256:[0-9a-f]{64}", digest))
        and isinstance(tag, str)
        and bool(re.fullmatch("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", tag))
        and not re.fullmatch(r"sha256-[0-9a-f]{64}(\..*)?", tag)
        and (kind is None or kind == "" or kind in IMAGES)
    )


ENVELOPE = ("id", "time", "account", "region")
IMAGES = {
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.oci.image.index.v1+json",
}


def given_events(count, kinds):
    """Run a test on that many events."""

    def decorate(test):
        healthy = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
        limits = settings(max_examples=count, database=None, suppress_health_check=healthy)
        return limits(given(kinds)(test))

    return decorate


def each_size(kinds, *, started=True):
    """Give the decorated check as a test of a thousand events, and as a slow one of ten.

    Each event meets an account of its own; `started`: one with a run whose task is at work.
    """

    def decorate(check):
        @pytest.mark.parametrize(
            "count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
        )
        def test(new_account, event, count):
            first = new_account()
            if started:
                first.push(event("push-oci"))
            given_events(count, kinds)(lambda hostile: check(copied(first), hostile))()

        test.__doc__ = check.__doc__
        return test

    return decorate


def copied(aws):
    """Give an account as that one is, which leaves that one as it is."""
    return dataclasses.replace(
        aws,
        objects={key: list(versions) for key, versions in aws.objects.items()},
        definitions={arn: dict(definition) for arn, definition in aws.definitions.items()},
        tasks={arn: dict(task) for arn, task in aws.tasks.items()},
        answers=dict(aws.answers),
        parameters=dict(aws.parameters),
        calls=[],
        lock=threading.RLock(),
    )


def deliver(handler, event, *typed):
    """Give the answer of a handler, or None where it raised an error of a kind that it may."""
    try:
        answer = handler(event)
    except (MalformedEventError, *typed):
        return None
    json.dumps(answer)
    if answer["outcome"] == "refused":
        assert answer["reason"]
    return answer


@each_size(events, started=False)
def test_a_run_starts_for_a_valid_push_and_for_nothing_else(aws, event):
    before = copied(aws).objects
    answer = deliver(aws.push, event)

    if is_ours(event):
        assert answer
        assert answer["outcome"] == "started"
        (task,) = aws.tasks.values()
        assert task["params"]["startedBy"] == f"{event['detail']['image-digest'][7:19]}-a1"
        return
    asked = isinstance(event, dict) and event.get("detail-type") == TRAIN
    assert not answer or answer["outcome"] == "refused" or asked
    if not asked:
        assert not aws.tasks
        assert aws.objects == before


@each_size(events)
def test_observe_starts_nothing_and_ends_only_what_is_on_record(aws, event):
    (arn,) = aws.tasks
    before = copied(aws).objects
    if isinstance(event, dict) and isinstance(event.get("detail"), dict):
        detail = event["detail"]
        if detail.get("taskArn") == "arn:aws:ecs:us-east-1:1:task/dev/1":
            event = {**event, "detail": {**detail, "taskArn": arn}}
    answer = deliver(aws.stop, event, UnknownTaskError)

    if not answer or answer["outcome"] == "refused":
        assert aws.objects == before
        assert list(aws.tasks) == [arn]
        return
    assert answer["outcome"] in {"ended", "known", "promoted", "kept"}
    assert len(aws.tasks) <= 2, "the next attempt, at most"


@each_size(events)
def test_reconcile_starts_nothing_on_a_healthy_day(aws, event):
    (arn,) = aws.tasks
    answer = deliver(aws.reconcile, event or {"nothing": 1})

    assert list(aws.tasks) == [arn]
    assert answer
    assert answer["outcome"] in {"refused", "reconciled", "stopping", "known"}
    if answer["outcome"] != "stopping":
        assert aws.tasks[arn]["status"] == "RUNNING"
