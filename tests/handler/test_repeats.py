"""`pushtrain train` asks for another run of an image; one token is one run."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from handler.runs import DigestClashError
from handler.wiring import WiringError

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]


def request(**detail):
    wanted = {"digest": DIGEST, "tag": "latest", "parameters": {}, "by": "ana", "token": "t1"}
    return {
        "source": "pushtrain",
        "detail-type": "Train Request",
        "detail": wanted | detail,
    }


def test_a_repeat_is_a_run_of_its_own(aws, event):
    aws.push(event("push-oci"))
    aws.parameters["/pushtrain/dev/training"] = '{"lr": "0.1"}'

    outcome = aws.push(request(parameters={"epochs": "9"}))

    first, second = aws.record(RUN), aws.record(f"{RUN}-2")
    (attempt,) = second["attempts"]
    assert outcome == {
        "outcome": "started",
        "run": f"{RUN}-2",
        "state": "STARTED",
        "attempt": 1,
        "task_arn": attempt["task_arn"],
    }
    assert second["repeat"] | {"at": ""} == {"of": RUN, "by": "ana", "at": "", "token": "t1"}
    assert second["parameters"] == {"epochs": "9", "seed": "0", "lr": "0.1"}
    assert second["image"] == first["image"] | {"tags": ["latest"]}
    assert attempt["request"]["startedBy"] == f"{RUN}-2-a1"
    assert attempt["request"]["taskDefinition"] == first["attempts"][0]["request"]["taskDefinition"]
    assert first["repeat"] is None
    assert len(aws.tasks) == 2
    assert f"open/{RUN}-2" in aws.objects


def test_the_same_token_is_the_same_run(aws, event):
    aws.push(event("push-oci"))
    first = aws.push(request())
    other = aws.push(request(token="t2"))

    assert aws.push(request()) == first | {"outcome": "known"}
    assert other["run"] == f"{RUN}-3"
    assert len(aws.tasks) == 3


def test_the_first_run_of_an_image_can_be_asked_for(aws, event):
    outcome = aws.push(request())

    assert outcome["run"] == RUN
    assert aws.record(RUN)["repeat"]["token"] == "t1"
    assert aws.push(request())["outcome"] == "known"
    assert aws.push(event("push-oci"))["outcome"] == "known"
    assert len(aws.tasks) == 1


def test_many_requests_at_once_with_two_tokens_are_two_runs(aws, event):
    aws.push(event("push-oci"))

    with ThreadPoolExecutor(10) as threads:
        outcomes = list(threads.map(lambda n: aws.push(request(token=f"t{n % 2}")), range(10)))

    assert {outcome["run"] for outcome in outcomes} == {f"{RUN}-2", f"{RUN}-3"}
    assert len(aws.tasks) == 3


def test_a_crash_after_any_call_of_a_repeat_is_made_good(new_account, event, crash):
    undisturbed = new_account()
    undisturbed.push(event("push-oci"))
    before = len(undisturbed.calls)
    undisturbed.push(request())

    for call in range(1, len(undisturbed.calls) - before + 1):
        aws = new_account()
        aws.push(event("push-oci"))
        aws.crash_after(call)
        with pytest.raises(crash):
            aws.push(request())
        aws.recover()

        aws.push(request())

        assert aws.record(f"{RUN}-2")["state"] == "STARTED"
        assert len(aws.tasks) == 2
        assert not [key for key in aws.objects if key.startswith(f"runs/{RUN}-3")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "latest"}, "64 hex digits"),
        ({"digest": None}, "digest must be a text"),
        ({"tag": "a b"}, "tag must be one that ECR can hold"),
        ({"token": ""}, "token must be a text"),
        ({"by": None}, "by must be a text"),
        ({"parameters": []}, "parameters must be an object"),
        ({"parameters": {"Epochs": "1"}}, "name must match"),
        ({"parameters": {"epochs": 1}}, "epochs must be a string"),
        ({"parameters": {"note": "x" * 9000}}, "must fit into 8192"),
    ],
)
def test_what_asks_for_nothing_sensible_is_refused(aws, changes, reason):
    outcome = aws.push(request(**changes))

    assert outcome["outcome"] == "refused"
    assert reason in outcome["reason"]
    assert not aws.tasks
    assert f"runs/{RUN}/run.json" not in aws.objects


@pytest.mark.parametrize("detail", [None, [], "x"])
def test_a_request_without_detail_is_refused(aws, detail):
    assert aws.push({**request(), "detail": detail})["outcome"] == "refused"


def test_parameters_of_the_stack_that_are_broken_are_an_error(aws):
    aws.parameters["/pushtrain/dev/training"] = json.dumps([])

    with pytest.raises(WiringError):
        aws.push(request())


def test_another_digest_of_the_same_name_is_an_error(aws, event):
    aws.push(event("push-oci"))

    with pytest.raises(DigestClashError):
        aws.push(request(digest=DIGEST[:19] + "0" * 52))
