import json
import re
from typing import Any

import pytest

from handler.invoke import handler
from handler.runs import DigestClashError
from handler.store import RecordError
from handler.wiring import WiringError, clients

DIGEST = "sha256:06ea17a8981d25b0315ff17bd1ebad3d95c15a3f8b764eaadb93612d9b61a54e"
RUN = DIGEST[7:19]
URI = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/trainer@{DIGEST}"
RECORD = f"runs/{RUN}/run.json"


def environment(request):
    (override,) = request["overrides"]["containerOverrides"]
    assert override["name"] == "trainer"
    return {entry["name"]: entry["value"] for entry in override["environment"]}


def test_a_push_starts_one_task_and_is_recorded(aws, event, wires):
    outcome = aws.push(event("push-oci"))

    (arn,) = aws.running()
    record = aws.record(RUN)
    (attempt,) = record["attempts"]
    assert outcome == {
        "outcome": "started",
        "run": RUN,
        "state": "STARTED",
        "attempt": 1,
        "task_arn": arn,
    }
    assert record["state"] == "STARTED"
    assert record["image"] == {
        "repository": "trainer",
        "uri": URI,
        "digest": DIGEST,
        "tags": ["g-0123456789abcdef0123456789abcdef01234567"],
    }
    assert record["wiring"] == wires
    assert record["parameters"] == {"epochs": "5", "seed": "0"}
    data = aws.objects["data/dataset"][0]
    assert record["data"] == {
        "key": "data/dataset",
        "version_id": data.version_id,
        "etag": data.etag.strip('"'),
    }
    assert attempt["task_arn"] == arn
    assert attempt["log_stream"] == f"train/trainer/{arn.rsplit('/', 1)[1]}"


def test_the_request_says_all_that_the_task_needs(aws, event, wires):
    aws.push(event("push-oci"))

    request = aws.record(RUN)["attempts"][0]["request"]
    (task,) = aws.tasks.values()
    sent = task["params"] | {"clientToken": request["clientToken"]}
    assert sent == request
    assert request["cluster"] == wires["cluster"]
    assert request["count"] == 1
    assert request["capacityProviderStrategy"] == [
        {"capacityProvider": "FARGATE_SPOT", "weight": 1}
    ]
    assert request["networkConfiguration"]["awsvpcConfiguration"] == {
        "subnets": ["subnet-0a", "subnet-0b"],
        "securityGroups": ["sg-0a"],
        "assignPublicIp": "ENABLED",
    }
    assert re.fullmatch("[0-9a-f]{64}", request["clientToken"])
    assert request["startedBy"] == f"{RUN}-a1"
    assert request["enableECSManagedTags"] is True
    assert request["propagateTags"] == "TASK_DEFINITION"
    assert environment(request) == {
        "PUSHTRAIN_RUN": RUN,
        "PUSHTRAIN_ATTEMPT": "1",
        "PUSHTRAIN_BUCKET": "dev-models",
        "PUSHTRAIN_RUN_PREFIX": f"runs/{RUN}/",
        "PUSHTRAIN_CHECKPOINT_PREFIX": f"checkpoints/{RUN}/",
        "PUSHTRAIN_DATA_KEY": "data/dataset",
        "PUSHTRAIN_DATA_VERSION": aws.objects["data/dataset"][0].version_id,
        "PUSHTRAIN_IMAGE_DIGEST": DIGEST,
        "PUSHTRAIN_IMAGE_TAG": "g-0123456789abcdef0123456789abcdef01234567",
        "PUSHTRAIN_CHAMPION_KEY": "models/champion.json",
        "PUSHTRAIN_PARAM_EPOCHS": "5",
        "PUSHTRAIN_PARAM_SEED": "0",
    }
    names = [e["name"] for e in request["overrides"]["containerOverrides"][0]["environment"]]
    assert names == sorted(names)


def test_the_request_is_on_record_before_the_task_starts(aws, event):
    on_record = []

    def before(operation, params):
        if operation == "RunTask":
            on_record.append(aws.record(RUN)["attempts"][0]["request"] == params)

    aws.before = before

    aws.push(event("push-oci"))

    assert on_record == [True]


def test_the_definition_is_the_template_pinned_to_the_digest(aws, event):
    aws.push(event("push-oci"))

    (arn,) = aws.active()
    pinned, template = aws.definitions[arn], next(iter(aws.definitions.values()))
    assert arn.endswith(f":task-definition/dev-{RUN}:1")
    trainer, sidecar = pinned["containerDefinitions"]
    assert trainer == template["containerDefinitions"][0] | {"image": URI}
    assert sidecar == template["containerDefinitions"][1]
    for key in ("cpu", "memory", "executionRoleArn", "taskRoleArn", "runtimePlatform"):
        assert pinned[key] == template[key]
    assert aws.tags[arn] == [{"key": "pushtrain:stack", "value": "dev"}]


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("registry.example:5000/team/trainer:placeholder", "registry.example:5000/team/trainer"),
        ("registry.example:5000/trainer", "registry.example:5000/trainer"),
        ("registry.example/trainer@sha256:" + "0" * 64, "registry.example/trainer"),
        ("trainer:placeholder", "trainer"),
    ],
)
def test_the_image_lies_where_the_template_s_does(aws, event, template, uri):
    next(iter(aws.definitions.values()))["containerDefinitions"][0]["image"] = template

    aws.push(event("push-oci"))

    assert aws.record(RUN)["image"]["uri"] == f"{uri}@{DIGEST}"


def test_a_template_without_the_container_is_an_error(aws, event):
    next(iter(aws.definitions.values()))["containerDefinitions"][0]["name"] = "other"

    with pytest.raises(ValueError, match="must have a container trainer"):
        aws.push(event("push-oci"))


def test_a_definition_of_an_earlier_stack_is_not_used(aws, event):
    aws.push(event("push-oci"))
    (arn,) = aws.active()
    aws.definitions[arn]["taskRoleArn"] = "arn:aws:iam::123456789012:role/long-gone"
    aws.objects.pop(RECORD)
    aws.answers.clear()

    aws.push(event("push-oci"))

    assert aws.record(RUN)["attempts"][0]["request"]["taskDefinition"].endswith(f"dev-{RUN}:2")


def test_a_definition_that_is_there_is_used(aws, event):
    aws.push(event("push-oci"))
    aws.objects.pop(RECORD)
    aws.answers.clear()

    aws.push(event("push-oci"))

    assert len(aws.active()) == 1


def test_a_duplicate_starts_nothing(aws, event):
    first = aws.push(event("push-oci"))
    before = aws.get(RECORD)

    second = aws.push(event("push-oci"))

    assert second == first | {"outcome": "known"}
    assert len(aws.tasks) == 1
    assert aws.get(RECORD) == before


@pytest.mark.parametrize("state", ["STARTED", "SUCCEEDED", "FAILED", "CANCELLED"])
def test_another_tag_of_a_known_digest_is_noted_and_starts_nothing(aws, event, state):
    aws.push(event("push-oci"))
    aws.put(RECORD, json.dumps(aws.record(RUN) | {"state": state}).encode())

    outcome = aws.push(event("push-oci", detail={"image-tag": "latest"}))

    assert outcome["outcome"] == "known"
    assert aws.record(RUN)["state"] == state
    tags = ["g-0123456789abcdef0123456789abcdef01234567", "latest"]
    assert aws.record(RUN)["image"]["tags"] == tags
    assert len(aws.tasks) == 1


def test_two_digests_of_one_name_are_an_error_that_names_both(aws, event):
    aws.push(event("push-oci"))
    other = DIGEST[:19] + "0" * 52

    with pytest.raises(DigestClashError, match=f"{other} and {DIGEST}"):
        aws.push(event("push-oci", detail={"image-digest": other}))

    assert len(aws.tasks) == 1
    assert aws.record(RUN)["image"]["digest"] == DIGEST


def test_another_repository_is_refused(aws, event):
    outcome = aws.push(event("push-other-repository"))

    assert outcome == {"outcome": "refused", "reason": "repository website is not trainer"}
    assert not aws.tasks


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"version": 2}', "must have version 1, got 2"),
        (b"[]", "must have version 1, got None"),
        (b"{", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b'{"version": 1, "run": "x"}', "must have attempts, cost, created_at"),
    ],
)
def test_a_record_that_cannot_be_read_is_an_error(aws, event, body, fault):
    aws.put(RECORD, body)

    with pytest.raises(RecordError, match=fault):
        aws.push(event("push-oci"))

    assert not aws.tasks


def test_a_run_without_data_waits_and_goes_on_with_them(aws, event):
    dataset = aws.objects.pop("data/dataset")

    outcome = aws.push(event("push-oci"))
    again = aws.push(event("push-oci"))

    assert outcome["outcome"] == again["outcome"] == "waiting"
    assert aws.record(RUN)["state"] == "WAITING"
    assert aws.record(RUN)["waiting"] == {
        "why": "data",
        "detail": "nothing is at s3://dev-models/data/dataset",
        "not_before": None,
    }
    assert aws.record(RUN)["data"] is None
    assert not aws.tasks

    aws.objects["data/dataset"] = dataset

    assert aws.push(event("push-oci"))["outcome"] == "started"
    assert aws.record(RUN)["data"]["version_id"] == dataset[0].version_id
    assert aws.record(RUN)["waiting"] is None


def test_what_is_set_later_does_not_change_a_run(aws, event):
    aws.objects.pop("data/dataset")
    aws.push(event("push-oci"))
    aws.parameters["/pushtrain/dev/training"] = '{"epochs": "50"}'
    aws.put("data/dataset", b"images")

    aws.push(event("push-oci"))

    assert aws.record(RUN)["parameters"]["epochs"] == "5"
    request = aws.record(RUN)["attempts"][0]["request"]
    assert environment(request)["PUSHTRAIN_PARAM_EPOCHS"] == "5"


def test_the_user_s_parameters_are_merged_over_the_stack_s(aws, event):
    text = '{"epochs": 7, "lr": 1e-3, "augment": false, "note": ""}'
    aws.parameters["/pushtrain/dev/training"] = text

    aws.push(event("push-oci"))

    expected = {"epochs": "7", "seed": "0", "lr": "1e-3", "augment": "false", "note": ""}
    assert aws.record(RUN)["parameters"] == expected
    request = aws.record(RUN)["attempts"][0]["request"]
    assert environment(request)["PUSHTRAIN_PARAM_LR"] == "1e-3"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"Epochs": "1"}', "the name 'Epochs' must match"),
        ('{"epochs": null}', "epochs must be a string"),
        ('{"epochs": {"a": 1}}', "epochs must be a string"),
        ('{"epochs": NaN}', "must be JSON"),
    ],
)
def test_bad_parameters_are_refused_before_the_claim_with_the_fix(aws, event, text, fault):
    aws.parameters["/pushtrain/dev/training"] = text

    with pytest.raises(WiringError, match=fault) as caught:
        aws.push(event("push-oci"))

    assert "SSM parameter /pushtrain/dev/training" in str(caught.value)
    assert RECORD not in aws.objects


def test_parameters_that_do_not_fit_are_refused_before_the_claim(aws, event):
    aws.parameters["/pushtrain/dev/training"] = json.dumps({"note": "x" * 8000})

    with pytest.raises(ValueError, match=r"the parameters epochs, note, seed must fit into 8192"):
        aws.push(event("push-oci"))

    assert RECORD not in aws.objects


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "must be JSON"), ("3", "JSON object"), ('{"stack": "dev"}', "must have bucket")],
)
def test_wiring_that_cannot_be_used_is_an_error(aws, event, text, fault):
    aws.parameters["/pushtrain/dev/wiring"] = text

    with pytest.raises(WiringError, match=rf"/pushtrain/dev/wiring .*{fault}.*: run pulumi up"):
        aws.push(event("push-oci"))


def test_a_newer_program_s_wiring_does_not_spoil_the_record(aws, event, wires):
    aws.parameters["/pushtrain/dev/wiring"] = json.dumps(wires | {"later": 1})

    aws.push(event("push-oci"))

    assert aws.record(RUN)["wiring"] == wires


def test_without_capacity_the_next_attempt_takes_the_next_provider(aws, event):
    aws.failures = ["Capacity is unavailable at this time"]

    outcome = aws.push(event("push-oci"))

    first, second = aws.record(RUN)["attempts"]
    assert outcome["outcome"] == "started"
    assert first["failure"] == "Capacity is unavailable at this time"
    assert first["task_arn"] is None
    assert first["cause"] == "capacity"
    assert first["diagnosis"]["detail"] == "Capacity is unavailable at this time"
    assert (second["cause"], second["diagnosis"]) == (None, None)
    assert second["request"]["startedBy"] == f"{RUN}-a2"
    strategy = second["request"]["capacityProviderStrategy"]
    assert strategy == [{"capacityProvider": "FARGATE", "weight": 1}]
    assert second["request"]["clientToken"] != first["request"]["clientToken"]
    assert second["request"]["taskDefinition"] == first["request"]["taskDefinition"]
    assert aws.running() == [second["task_arn"]]


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException"])
def test_an_error_leaves_the_attempt_open_and_it_is_replayed(aws, event, code):
    aws.errors = {"RunTask": [code]}

    with pytest.raises(Exception, match=code):
        aws.push(event("push-oci"))
    request = aws.record(RUN)["attempts"][0]["request"]
    aws.parameters["/pushtrain/dev/training"] = '{"epochs": "50"}'
    aws.push(event("push-oci"))

    (attempt,) = aws.record(RUN)["attempts"]
    assert attempt["request"] == request
    assert aws.running() == [attempt["task_arn"]]


def test_a_conflict_adopts_the_task_that_the_token_started(aws, event, crash):
    aws.before = lambda operation, _: (
        (_ for _ in ()).throw(crash) if operation == "RunTask" else None
    )
    with pytest.raises(crash):
        aws.push(event("push-oci"))
    aws.before = lambda _operation, _params: None
    request = aws.record(RUN)["attempts"][0]["request"]
    client = aws.clients("invoke").ecs
    arn = client.run_task(**request | {"count": 2})["tasks"][0]["taskArn"]

    aws.push(event("push-oci"))

    assert aws.record(RUN)["attempts"][0]["task_arn"] == arn
    assert aws.running() == [arn]


def test_forbidden_data_is_an_error_and_not_their_absence(aws, event):
    aws.errors = {"HeadObject": ["403"]}

    with pytest.raises(Exception, match="403"):
        aws.push(event("push-oci"))

    assert RECORD not in aws.objects


def test_a_late_start_of_an_attempt_that_was_given_up_is_stopped(aws, event):
    """AWS does not say whether a token that failed fails again: two answers may differ."""
    aws.failures = ["Capacity is unavailable at this time"]
    aws.remembers_failures = False

    def overtake(operation, _params):
        # Before this delivery sends its request, another fails with it and makes the next attempt.
        if operation == "RunTask":
            aws.before = lambda _operation, _params: None
            aws.push(event("push-oci"))

    aws.before = overtake

    outcome = aws.push(event("push-oci"))

    assert outcome["state"] == "STARTED"
    assert aws.running() == [aws.record(RUN)["attempts"][1]["task_arn"]]
    assert aws.record(RUN)["attempts"][0]["task_arn"] is None


def test_a_failure_that_another_delivery_had_no_part_in_is_no_error(aws, event):
    aws.failures = ["Capacity is unavailable at this time"]
    aws.remembers_failures = False

    def overtake(operation, _params):
        # Between the failure and its record, another delivery of the same request has more luck.
        if operation == "RunTask":
            aws.recover()
            aws.push(event("push-oci"))

    aws.after = overtake

    assert aws.push(event("push-oci"))["state"] == "STARTED"
    assert aws.running() == [aws.record(RUN)["attempts"][0]["task_arn"]]


def test_later_attempts_keep_the_first_one_s_definition(aws, event):
    """A second one is of a delivery that lost a race, and may go at any time."""
    aws.failures = ["Capacity is unavailable at this time"]

    def register_another(operation, _params):
        if operation == "RunTask":
            (arn,) = aws.active()
            newer = arn.removesuffix(":1") + ":2"
            aws.definitions[newer] = aws.definitions[arn] | {"taskDefinitionArn": newer}
            aws.recover()

    aws.after = register_another

    aws.push(event("push-oci"))

    arn = aws.active()[0]
    named = [attempt["request"]["taskDefinition"] for attempt in aws.record(RUN)["attempts"]]
    assert named == [arn, arn]


def test_the_handler_prints_one_line_of_json_and_returns_the_same(aws, event, monkeypatch, capsys):
    monkeypatch.setattr("handler.wiring.clients", lambda: aws.clients("invoke"))

    outcome = handler(event("push-oci"), None)

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == outcome


def test_the_handler_prints_an_error_and_raises_it(aws, event, monkeypatch, capsys):
    monkeypatch.setattr("handler.wiring.clients", lambda: aws.clients("invoke"))

    with pytest.raises(ValueError, match="detail must be an object"):
        handler(event("push-oci", detail=None), None)

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["outcome"] == "error"
    assert json.loads(line)["error"] == "MalformedEventError"


def test_clients_are_made_once_and_retry(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    clients.cache_clear()

    made: Any = clients()
    same = clients() is made
    clients.cache_clear()

    assert same
    assert made.ecs.meta.region_name == "eu-west-1"
    assert made.s3.meta.config.retries == {"mode": "standard", "total_max_attempts": 5}
