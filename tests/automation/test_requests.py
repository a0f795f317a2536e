"""What the commands ask of the handlers: what is sent, and what becomes of each answer."""

import io
import json

import pytest

pytestmark = pytest.mark.localcloud

DIGEST = f"sha256:3f2a0c11d2e4{'0' * 52}"


class Lambda:
    """Takes invocations down, and answers as it was told."""

    def __init__(self):
        self.asked = []
        self.answers = []

    def invoke(self, FunctionName, InvocationType, Payload):  # noqa: N803 - boto3's
        assert InvocationType == "RequestResponse"
        self.asked.append((FunctionName, json.loads(Payload)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {
            "Payload": io.BytesIO(json.dumps(answer).encode()),
            **({"FunctionError": "Unhandled"} if "errorMessage" in answer else {}),
        }


class Registry:
    """The images of a repository, by tag and digest."""

    def __init__(self, client):
        self.exceptions = client.exceptions
        self.images = {"g-3f2a": DIGEST}
        self.untagged = set()

    def describe_images(self, repositoryName, imageIds):  # noqa: N803 - boto3's
        assert repositoryName == "dev-images"
        (asked,) = imageIds
        digest = asked.get("imageDigest") or self.images.get(asked["imageTag"])
        tags = [tag for tag, known in self.images.items() if known == digest]
        if digest in self.untagged:
            return {"imageDetails": [{"imageDigest": digest}]}
        if not tags:
            raise self.exceptions.ClientError(
                {"Error": {"Code": "ImageNotFoundException", "Message": "none"}}, "DescribeImages"
            )
        return {"imageDetails": [{"imageDigest": digest, "imageTags": tags}]}


@pytest.fixture
def functions(place, client_of):
    fake = Lambda()
    place.session.replaced["lambda"] = fake
    place.session.replaced["ecr"] = Registry(client_of("ecr"))
    place.outputs |= {
        "invokeFunction": "dev-invoke",
        "observeFunction": "dev-observe",
        "reconcileFunction": "dev-reconcile",
    }
    return fake


def test_cancel_asks_reconcile_and_says_who_and_why(place, functions, records):
    place.put(records.make(attempts=[records.attempt()]))
    functions.answers = [{"outcome": "cancelling", "run": "3f2a0c11d2e4", "state": "STARTED"}]
    code, out, err = place.pushtrain("cancel", "g-3f2a", "-s", "dev", "--reason", "wrong data")
    ((function, event),) = functions.asked

    assert (code, function) == (0, "dev-reconcile")
    assert (event["source"], event["detail-type"]) == ("pushtrain", "Cancel Request")
    assert event["detail"] == {"run": "3f2a0c11d2e4", "by": "root", "reason": "wrong data"}
    assert out == "cancelling: run 3f2a0c11d2e4, STARTED\n"
    assert "pushtrain runs show 3f2a0c11d2e4 -s dev" in err


def test_a_refusal_is_the_error(place, functions, records):
    place.put(records.succeeded())
    functions.answers = [{"outcome": "refused", "run": "3f2a0c11d2e4", "reason": "it has ended"}]

    assert place.pushtrain("cancel", "3f2a", "-s", "dev") == (1, "", "error: it has ended\n")


@pytest.mark.parametrize(("state", "code"), [("CANCELLED", 0), ("SUCCEEDED", 1)])
def test_a_run_that_is_over_is_cancelled_only_if_it_was(place, functions, records, state, code):
    place.put(records.make())
    functions.answers = [
        {"outcome": "known", "run": "3f2a0c11d2e4", "state": state, "reason": "the run is over"}
    ]

    assert place.pushtrain("cancel", "3f2a", "-s", "dev")[0] == code


def test_a_handler_that_fails_is_one_line(place, functions, records):
    place.put(records.make())
    functions.answers = [{"errorType": "KeyError", "errorMessage": "line one\nline two"}]
    code, out, err = place.pushtrain("cancel", "3f2a", "-s", "dev")

    assert (code, out) == (1, "")
    assert err == "error: dev-reconcile failed with KeyError: line one line two\n"


def test_who_may_not_invoke_is_told_which_permission_is_missing(
    place, functions, records, client_of
):
    place.put(records.make())
    functions.answers = [
        client_of("lambda").exceptions.ClientError(
            {"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "Invoke"
        )
    ]
    code, _, err = place.pushtrain("cancel", "3f2a", "-s", "dev")

    assert code == 1
    assert err.startswith("error: these AWS credentials must have lambda:InvokeFunction, got: ")


def test_a_stack_without_the_function_is_told_to_be_deployed(place, records):
    place.put(records.make())
    code, _, err = place.pushtrain("cancel", "3f2a", "-s", "dev")

    assert code == 1
    assert "must have an output reconcileFunction, got none" in err


@pytest.mark.parametrize("image", ["g-3f2a", DIGEST])
def test_train_prints_the_new_run_and_sends_what_was_set(place, functions, image):
    functions.answers = [{"outcome": "started", "run": "3f2a0c11d2e4-2", "state": "STARTED"}]
    code, out, err = place.pushtrain(
        "train", image, "-s", "dev", "--set", "epochs=5", "--set", "note=a=b"
    )
    ((function, event),) = functions.asked
    detail = event["detail"]

    assert (code, function, event["detail-type"]) == (0, "dev-invoke", "Train Request")
    assert (detail["digest"], detail["tag"]) == (DIGEST, "g-3f2a")
    assert detail["parameters"] == {"epochs": "5", "note": "a=b"}
    assert len(detail["token"]) == 32
    assert out == "3f2a0c11d2e4-2\n"
    assert "pushtrain logs 3f2a0c11d2e4-2 -f -s dev" in err


def test_an_image_that_has_lost_its_tag_is_trained_by_its_digest(place, functions):
    digest = f"sha256:{'a' * 64}"
    place.session.replaced["ecr"].untagged.add(digest)
    functions.answers = [{"outcome": "started", "run": "a" * 12, "state": "STARTED"}]
    code, _, _ = place.pushtrain("train", digest, "-s", "dev")
    detail = functions.asked[0][1]["detail"]

    assert code == 0
    assert (detail["digest"], detail["tag"]) == (digest, "a" * 12)


def test_two_asked_for_runs_have_two_tokens(place, functions):
    functions.answers = [{"outcome": "started", "run": "x", "state": "STARTED"} for _ in range(2)]
    place.pushtrain("train", "g-3f2a", "-s", "dev")
    place.pushtrain("train", "g-3f2a", "-s", "dev")

    assert len({event["detail"]["token"] for _, event in functions.asked}) == 2


def test_train_takes_a_run_for_its_image(place, functions, records):
    place.put(records.failed())
    functions.answers = [{"outcome": "started", "run": "3f2a0c11d2e4-2", "state": "STARTED"}]
    code, _, _ = place.pushtrain("train", "3f2a0c", "-s", "dev")

    assert code == 0
    assert functions.asked[0][1]["detail"]["digest"] == DIGEST


def test_an_image_that_is_gone_is_one_line(place, functions):
    code, out, err = place.pushtrain("train", "g-none", "-s", "dev")

    assert (code, out, functions.asked) == (1, "", [])
    assert err.startswith("error: 'g-none' must be a tag or digest in dev-images")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("pair", ["epochs", "=5"])
def test_what_is_no_pair_is_refused(place, functions, pair):
    code, _, err = place.pushtrain("train", "g-3f2a", "-s", "dev", "--set", pair)

    assert (code, functions.asked) == (1, [])
    assert err == f"error: a parameter must be NAME=VALUE, got {pair!r}\n"


def test_promote_asks_observe_and_names_the_champion_before(place, functions, records):
    place.put(records.succeeded())
    place.write("models/champion.json", {"run": "3f2a0c11d2e4", "previous": {"run": "a" * 12}})
    functions.answers = [{"outcome": "promoted", "run": "3f2a0c11d2e4", "state": "SUCCEEDED"}]
    code, out, _ = place.pushtrain("promote", "3f2a", "-s", "dev", "--reason", "smaller")
    ((function, event),) = functions.asked

    assert (code, function, event["detail-type"]) == (0, "dev-observe", "Promote Request")
    assert event["detail"] == {"run": "3f2a0c11d2e4", "by": "root", "reason": "smaller"}
    assert out == f"promoted: run 3f2a0c11d2e4, before it {'a' * 12}\n"


def test_train_follows_to_the_end_and_keeps_stdout_for_the_run(place, functions, records):
    run = records.failed("3f2a0c11d2e4-2")
    place.put(run)
    place.log(run["attempts"][0]["log_stream"], "epoch 1", "epoch 2")
    functions.answers = [{"outcome": "started", "run": run["run"], "state": "STARTED"}]
    code, out, err = place.pushtrain("train", "g-3f2a", "-s", "dev", "--follow")

    assert (code, out) == (1, "3f2a0c11d2e4-2\n")
    assert "epoch 1\nepoch 2\n" in err
    assert err.splitlines()[-1].startswith("error: run 3f2a0c11d2e4-2 FAILED: the trainer failed")
