"""The commands that show runs: against an embedded cloud with records of every state."""

import json
import re

import pytest

pytestmark = pytest.mark.localcloud


@pytest.fixture
def all_states(place, records):
    """One run of each state, the newest last."""
    make, at = records.make, records.at
    found = [
        make("0" * 12, "WAITING", data=None, created_at=at(0), image=image("0" * 12, "g-waits"),
             waiting={"why": "data", "detail": "nothing is there", "not_before": None}),
        make("1" * 12, "CLAIMED", created_at=at(1), image=image("1" * 12, "g-claimed")),
        make("2" * 12, "STARTED", created_at=at(2), attempts=[records.attempt()],
             image=image("2" * 12, "g-runs")),
        records.succeeded("3" * 12, created_at=at(3), image=image("3" * 12, "g-good", "latest")),
        records.failed("4" * 12, created_at=at(4), image=image("4" * 12, "g-bad")),
        make("5" * 12, "CANCELLED", created_at=at(5), image=image("5" * 12, "g-stopped"),
             attempts=[records.ended(code=143, cause="cancel")], ended_at=at(103),
             stop={"why": "cancel", "by": "alice", "reason": "wrong data", "at": at(90)},
             diagnosis={"cause": "cancel", "summary": "alice cancelled it", "detail": "",
                        "action": "Train it again."}),
    ]  # fmt: skip
    place.put(*found)
    return found


def image(run, *tags):
    digest = f"sha256:{run}{'0' * 52}"
    return {
        "repository": "dev-images",
        "uri": f"r/dev-images@{digest}",
        "digest": digest,
        "tags": list(tags),
    }


def test_every_state_has_its_row_the_newest_first(place, all_states):
    code, out, err = place.pushtrain("runs", "-s", "dev")
    rows = out.splitlines()

    assert code == 0
    assert [row.split()[0] for row in rows[1:]] == [each["run"] for each in reversed(all_states)]
    assert "WAITING (data)" in rows[6]
    assert "FAILED (exit)" in rows[2]
    assert "90.00%" in rows[3]
    assert "1 min 42 s" in rows[3]
    assert "g-good, latest" in rows[3]
    assert "why: pushtrain runs show 444444444444 -s dev" in err


@pytest.mark.usefixtures("all_states")
def test_the_table_is_narrowed_by_state_and_number(place):
    _, out, _ = place.pushtrain("runs", "-s", "dev", "--state", "failed", "--state", "SUCCEEDED")
    _, two, _ = place.pushtrain("runs", "-s", "dev", "-n", "2")

    assert [row.split()[0] for row in out.splitlines()[1:]] == ["4" * 12, "3" * 12]
    assert [row.split()[0] for row in two.splitlines()[1:]] == ["5" * 12, "4" * 12]


@pytest.mark.usefixtures("all_states")
def test_the_champion_has_a_star(place):
    place.write("models/champion.json", {"version": 1, "run": "3" * 12})
    _, out, _ = place.pushtrain("runs", "-s", "dev")

    assert [row.split()[0] for row in out.splitlines() if "*" in row] == ["3" * 12]


def test_runs_as_json_have_cost_and_the_reason_where_there_is_none(place, records):
    no_prices = {**records.make()["wiring"], "cluster": "arn:aws:ecs:mars-1:1:cluster/x"}
    place.put(
        records.succeeded("a" * 12),
        records.succeeded("b" * 12, wiring=no_prices, created_at=records.at(1)),
    )
    _, out, _ = place.pushtrain("runs", "-s", "dev", "--json")
    unpriced, priced = json.loads(out)

    assert priced["run"] == "a" * 12
    assert priced["seconds"] == 102
    assert 0 < priced["cost"]["usd_least"] < priced["cost"]["usd"]
    assert unpriced["cost"]["usd"] is None
    assert "mars-1" in unpriced["cost"]["why"]


def test_a_stack_without_runs_says_how_to_get_one(place):
    code, out, err = place.pushtrain("runs", "-s", "dev")

    assert (code, out) == (0, "")
    assert err == "no runs yet: pushtrain push -s dev\n"


def test_a_record_that_cannot_be_read_hides_no_other(place, records):
    place.put(records.make("a" * 12))
    place.write("runs/bbbbbbbbbbbb/run.json", b"{")
    place.write("runs/cccccccccccc/run.json", {"version": 2})
    code, out, err = place.pushtrain("runs", "-s", "dev")

    assert code == 0
    assert [row.split()[0] for row in out.splitlines()[1:]] == ["a" * 12]
    assert "left out: runs/bbbbbbbbbbbb/run.json must be JSON" in err
    assert "runs/cccccccccccc/run.json must have version 1, got 2" in err


@pytest.mark.parametrize(
    "name", ["3f2a0c11d2e4", "3f2a0c", "3", "g-3f2a", f"sha256:3f2a0c11d2e4{'0' * 52}"]
)
def test_a_run_is_named_by_id_prefix_tag_or_digest(place, records, name):
    place.put(records.succeeded(), records.make("a" * 12, image=image("a" * 12, "g-other")))
    code, out, _ = place.pushtrain("runs", "show", name, "-s", "dev", "--json")

    assert code == 0
    assert json.loads(out)["record"]["run"] == "3f2a0c11d2e4"


def test_a_repeat_is_named_by_its_own_id_and_its_first_by_the_twelve_digits(place, records):
    place.put(records.make(), records.make("3f2a0c11d2e4-2"))

    for name in ("3f2a0c11d2e4", "3f2a0c11d2e4-2"):
        _, out, _ = place.pushtrain("runs", "show", name, "-s", "dev", "--json")
        assert json.loads(out)["record"]["run"] == name


def test_an_ambiguous_prefix_is_an_error_that_lists_the_runs(place, records):
    place.put(records.make("3f2a0c11d2e4"), records.failed("3f2b0c11d2e4"))
    code, out, err = place.pushtrain("runs", "show", "3f2", "-s", "dev")

    assert (code, out) == (1, "")
    assert err.startswith("error: 3f2 must be one run, got ")
    assert "3f2a0c11d2e4 (STARTED, g-3f2a)" in err
    assert "3f2b0c11d2e4 (FAILED, g-3f2a)" in err
    assert len(err.splitlines()) == 1


def test_a_tag_of_several_runs_is_the_newest_and_says_so(place, records):
    place.put(records.make(), records.make("3f2a0c11d2e4-2", created_at=records.at(30)))
    code, out, err = place.pushtrain("runs", "show", "g-3f2a", "-s", "dev", "--json")

    assert code == 0
    assert json.loads(out)["record"]["run"] == "3f2a0c11d2e4-2"
    assert "g-3f2a is 3f2a0c11d2e4-2, the newest of its runs; the others: 3f2a0c11d2e4" in err


def test_a_run_that_is_not_there_is_one_line(place, records):
    place.put(records.make())
    code, out, err = place.pushtrain("runs", "show", "g-none", "-s", "dev")

    assert (code, out) == (1, "")
    assert err == (
        "error: 'g-none' must be a run's id, a prefix of one, or a tag, got none of these among "
        "1 runs: pushtrain runs -s dev\n"
    )


def test_the_stack_may_stand_before_or_after_show(place, records):
    place.put(records.make())

    for words in (("runs", "-s", "dev", "show", "3f2a"), ("runs", "show", "-s", "dev", "3f2a")):
        assert place.pushtrain(*words)[0] == 0


def test_commands_without_a_stack_are_refused_with_exit_code_2(place):
    for words in (("runs",), ("runs", "show", "3f2a"), ("logs", "3f2a"), ("params", "get")):
        code, _, err = place.pushtrain(*words)
        assert code == 2
        assert err == "error: Missing option '-s' / '--stack'. See: pushtrain --help\n"


def test_show_tells_the_whole_story_in_order(place, records):
    at = records.at
    reclaimed = records.attempt(
        1,
        pull_started_at=at(5),
        stopped_at=at(60),
        stop_code="SpotInterruption",
        stopped_reason="Spot Task was interrupted.",
        cause="spot",
        diagnosis={"summary": "Fargate took its Spot capacity back", "detail": "", "action": ""},
    )
    place.put(
        records.succeeded(
            attempts=[reclaimed, records.ended(2, 61)],
            ended_at=at(170),
            notified_at=at(171),
            repeat={"of": "aaaaaaaaaaaa", "by": "user/alice", "at": at(0), "token": "t"},
            promotion={
                "decision": "promoted",
                "reason": "0.9 beats 0.8 of run aaaaaaaaaaaa",
                "metric": "accuracy",
                "value": 0.9,
                "champion": {"run": "aaaaaaaaaaaa", "value": 0.8},
                "at": at(169),
            },
        )
    )
    place.write(
        "runs/3f2a0c11d2e4/manifest.json",
        {"version": 1, "run": "3f2a0c11d2e4", "files": {"model.bin": {"size": 1234567}}},
    )
    code, out, err = place.pushtrain("runs", "show", "3f2a", "-s", "dev")
    steps = [
        "claimed", "asked for", "attempt 1", "running", "stopped", "attempt 2", "running",
        "stopped", "promoted", "SUCCEEDED", "notice",
    ]  # fmt: skip
    rest = out
    for step in steps:
        assert step in rest, f"{step} in its place of {out}"
        rest = rest.partition(step)[2]

    assert code == 0
    assert "asks for a task on FARGATE_SPOT" in out
    assert "Fargate took its Spot capacity back; cause spot; no exit code; SpotInterruption" in out
    assert "by user/alice, to repeat aaaaaaaaaaaa" in out
    assert "accuracy 0.9: 0.9 beats 0.8 of run aaaaaaaaaaaa" in out
    assert "model.bin  1.2 MB" in out
    assert "epochs=2" in out
    assert "dev-training train/trainer/" in out
    assert re.search(r"vcpu +200 vCPU-seconds +FARGATE x86_64 +\$0\.0022", out)
    assert re.search(r"memory +480 GB-seconds +FARGATE_SPOT x86_64 +\$0\.0006", out)
    assert re.search(r"in all \$0\.00\d\d; \$0\.00\d\d if Spot gave all it can", out)
    assert "pushtrain report 3f2a0c11d2e4 -s dev" in err


@pytest.mark.usefixtures("all_states")
def test_show_tells_why_a_run_waits_and_what_to_do(place):
    _, out, err = place.pushtrain("runs", "show", "g-waits", "-s", "dev")

    assert "data; nothing is there" in out
    assert "pushtrain data push FILE -s dev" in err
    assert "pushtrain cancel 000000000000 -s dev" in err


@pytest.mark.usefixtures("all_states")
def test_show_tells_of_a_failure_with_detail_and_action(place):
    _, out, err = place.pushtrain("runs", "show", "g-bad", "-s", "dev")

    assert "the trainer failed" in out
    assert "exit code 1" in out
    assert "Correct it." in out
    assert "pushtrain logs 444444444444 -s dev" in err
    assert "pushtrain train g-bad -s dev" in err


@pytest.mark.usefixtures("all_states")
def test_show_tells_who_cancelled(place):
    _, out, _ = place.pushtrain("runs", "show", "g-stopped", "-s", "dev")

    assert "by alice: wrong data" in out
    assert "CANCELLED" in out


def test_what_a_record_says_is_no_markup(place, records):
    place.put(records.failed(diagnosis={
        "cause": "exit", "summary": "[bold]x[/] and [/nothing]", "detail": "[red]", "action": ""
    }))  # fmt: skip
    code, out, _ = place.pushtrain("runs", "show", "3f2a", "-s", "dev")

    assert code == 0
    assert "[bold]x[/] and [/nothing]" in out


@pytest.mark.parametrize("state", ["WAITING", "CLAIMED", "STARTED"])
def test_a_record_with_the_fewest_fields_is_shown(place, records, state):
    """An older pushtrain of the same version knew less."""
    record = records.make(state=state)
    for field in ("repeat", "waiting", "stop", "diagnosis", "promotion", "notified_at"):
        del record[field]
    for field in ("cpu", "memory", "architecture"):
        record["wiring"] = {k: v for k, v in record["wiring"].items() if k != field}
    place.put(record)

    assert place.pushtrain("runs", "-s", "dev")[0] == 0
    assert place.pushtrain("runs", "show", "3f2a", "-s", "dev")[0] == 0


def test_a_stack_of_an_older_pushtrain_is_told_to_be_deployed(place):
    del place.outputs["bucket"]
    code, _, err = place.pushtrain("runs", "-s", "dev")

    assert code == 1
    assert err.startswith("error: stack dev must have an output bucket, got none")
    assert err.endswith("pushtrain up -s dev\n")


def test_a_missing_permission_is_named(place, client_of):
    class Forbidding:
        def get_paginator(self, _name):
            raise client_of("s3").exceptions.ClientError(
                {"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "ListObjectsV2"
            )

    place.session.replaced["s3"] = Forbidding()
    code, _, err = place.pushtrain("runs", "-s", "dev")

    assert code == 1
    assert err.startswith("error: these AWS credentials must have s3:ListBucket, got: ")
    assert len(err.splitlines()) == 1


def test_a_report_is_fetched_to_a_file(place, records, tmp_path):
    place.put(records.succeeded())
    place.write("runs/3f2a0c11d2e4/report.html", b"<html>")
    code, out, _ = place.pushtrain("report", "3f2a", "-s", "dev", "-o", tmp_path / "r.html")

    assert code == 0
    assert out.strip() == str(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_bytes() == b"<html>"
    _, out, _ = place.pushtrain("report", "3f2a", "-s", "dev", "-o", tmp_path / "r.html", "--json")
    assert json.loads(out) == {"run": "3f2a0c11d2e4", "file": str(tmp_path / "r.html"), "size": 6}


def test_a_run_without_a_report_is_told_of(place, records, tmp_path):
    place.put(records.failed())
    code, _, err = place.pushtrain("report", "3f2a", "-s", "dev", "-o", tmp_path / "r.html")

    assert code == 1
    assert "must have published a report.html, got none: it is FAILED" in err
    assert not (tmp_path / "r.html").exists()


READING = {
    "s3": {"GetObject", "ListObjectsV2"},
    "logs": {"GetLogEvents"},
    "ssm": {"GetParameter"},
}


def test_what_only_reads_asks_for_nothing_but_reading(place, records, wiring, tmp_path):
    place.cloud.client("ssm").put_parameter(
        Name="/pushtrain/dev/wiring", Value=json.dumps(wiring), Type="String"
    )
    run = records.succeeded()
    place.put(run)
    place.log(run["attempts"][0]["log_stream"], "line")
    place.write("runs/3f2a0c11d2e4/report.html", b"<html>")
    asked = []

    def note(model, **_):
        asked.append((model.service_model.service_name, model.name))

    clients = [place.cloud.client(service) for service in ("s3", "logs", "ssm", "lambda", "sqs")]
    for client in clients:
        client.meta.events.register("before-call", note)
    try:
        for words in (
            ["runs"],
            ["runs", "show", "g-3f2a"],
            ["logs", "3f2a"],
            ["logs", "3f2a", "-f"],
            ["report", "3f2a", "-o", tmp_path / "report.html"],
            ["params", "get"],
        ):
            assert place.pushtrain(*words, "-s", "dev")[0] == 0
    finally:
        for client in clients:
            client.meta.events.unregister("before-call", note)

    assert {service for service, _ in asked} == set(READING)
    assert all(operation in READING[service] for service, operation in asked), asked
