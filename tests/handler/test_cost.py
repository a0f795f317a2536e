"""What a run cost: what is billed of it, by the table, and a reason where that has no price."""

import json
from datetime import UTC, datetime, timedelta

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automation.cost import run_cost
from handler import cost
from handler.events import rfc3339

BEGIN = datetime(2026, 11, 27, 10, tzinfo=UTC)
VCPU, GB, ADDRESS = 0.04048, 0.004445, 0.005  # an hour in us-east-1, as the table has them
DISCOUNT = 0.7


def at(seconds):
    return rfc3339(BEGIN + timedelta(seconds=seconds))


def attempt(provider="FARGATE", seconds: float = 3600, **changes):
    return {
        "request": {"capacityProviderStrategy": [{"capacityProvider": provider, "weight": 1}]},
        "task_arn": "arn:aws:ecs:us-east-1:123456789012:task/dev/0a",
        "failure": None,
        "requested_at": at(-30),
        "pull_started_at": at(0),
        "stopped_at": at(seconds),
        "stop_code": "EssentialContainerExited",
        **changes,
    }


@pytest.fixture(scope="module")
def run(wires):
    def make(*attempts, ended_at: str | None = at(90_000), **wiring):
        return {"wiring": wires | wiring, "attempts": list(attempts), "ended_at": ended_at}

    return make


def priced(run, stored=0) -> cost.Priced:
    found = cost.of_run(run, at(0), stored)
    assert "why" not in found
    return found


def test_an_hour_on_demand_is_processor_memory_and_address(run):
    found = priced(run(attempt()))

    assert found["items"] == [
        {
            "what": what,
            "provider": "FARGATE",
            "architecture": "x86_64",
            "amount": amount,
            "unit": unit,
            "usd": usd,
        }
        for what, amount, unit, usd in (
            ("vcpu", 7200, "vCPU-second", 0.08096),
            ("memory", 28800, "GB-second", 0.03556),
            ("public_ipv4", 3600, "second", 0.005),
        )
    ]
    assert found["usd"] == found["usd_least"] == 0.12152
    assert found["region"] == "us-east-1"
    assert found["prices_dated"] == cost.table()["compiled"]


def test_spot_takes_off_at_most_what_aws_names_and_nothing_of_the_address(run):
    found = priced(run(attempt("FARGATE_SPOT")))

    assert found["usd"] == 0.12152
    assert found["usd_least"] == pytest.approx((2 * VCPU + 8 * GB) * (1 - DISCOUNT) + ADDRESS)


def test_attempts_are_summed_by_their_provider(run):
    found = priced(run(*[attempt("FARGATE_SPOT", 100)] * 2, attempt(seconds=60)))

    assert [(item["provider"], item["what"], item["amount"]) for item in found["items"]] == [
        ("FARGATE", "vcpu", 120),
        ("FARGATE", "memory", 480),
        ("FARGATE", "public_ipv4", 60),
        ("FARGATE_SPOT", "vcpu", 400),
        ("FARGATE_SPOT", "memory", 1600),
        ("FARGATE_SPOT", "public_ipv4", 200),
    ]


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 3600),
        ({"stopped_at": at(0.001)}, 60),
        ({"stopped_at": at(60.001)}, 61),
        ({"stopped_at": at(-5)}, 60),  # two clocks
        ({"task_arn": None}, 0),
        ({"failure": "RESOURCE:CPU"}, 0),
        ({"pull_started_at": None, "stop_code": "TaskFailedToStart"}, 0),
        ({"pull_started_at": None, "stop_code": None}, 3630),  # forgotten: from its request
        ({"pull_started_at": None, "stop_code": None, "stopped_at": None}, 7230),  # at work
    ],
)
def test_a_task_is_billed_from_its_download_to_its_end(changes, seconds):
    assert cost.billed_seconds(attempt(**changes), at(7200)) == seconds


def test_a_record_of_before_downloads_were_kept_counts_from_the_request():
    older = attempt()
    del older["pull_started_at"]

    assert cost.billed_seconds(older, at(7200)) == 3630


def test_a_run_without_a_task_cost_nothing(run):
    found = priced(run())

    assert (found["usd"], found["usd_least"], found["items"]) == (0, 0, [])


def test_a_run_at_work_has_cost_until_now(run):
    at_work = attempt(pull_started_at=None, stop_code=None, stopped_at=None)

    found = cost.of_run(run(at_work, ended_at=None), at(3570))

    assert "why" not in found
    assert found["usd"] == 0.12152


def test_a_task_without_a_public_address_pays_for_none(run):
    found = priced(run(attempt(), assign_public_ip=False))

    assert {item["what"] for item in found["items"]} == {"vcpu", "memory"}
    assert found["usd"] == 0.11652


def test_what_was_published_costs_by_the_month_and_is_no_part_of_the_sum(run):
    found = priced(run(), 3 * 2**30)

    assert found["stored"] == {"bytes": 3 * 2**30, "usd_month": pytest.approx(3 * 0.023)}
    assert found["usd"] == 0


@pytest.mark.parametrize(
    ("wiring", "why"),
    [
        ({"cluster": "arn:aws:ecs:mars-1:1:cluster/x"}, "the price table has no region 'mars-1'"),
        ({"cluster": "x"}, "the price table has no region ''"),
        (
            {"cluster": "arn:aws:ecs:us-west-2:1:cluster/x", "architecture": "arm64"},
            "the price table has no fargate_arm64_gb_hour, fargate_arm64_vcpu_hour of us-west-2",
        ),
    ],
)
def test_without_a_price_there_is_a_reason(run, wiring, why):
    assert cost.of_run(run(attempt(), **wiring), at(0)) == {"usd": None, "why": why}


def test_a_record_whose_wiring_lacks_a_size_is_not_priced(run):
    older = run(attempt())
    del older["wiring"]["cpu"]

    assert cost.of_run(older, at(0)) == {"usd": None, "why": "the record's wiring has no cpu"}


times = st.none() | st.floats(-1e6, 1e6).map(at)
attempts = st.builds(
    attempt,
    provider=st.sampled_from(["FARGATE", "FARGATE_SPOT"]),
    task_arn=st.sampled_from([None, "arn"]),
    failure=st.sampled_from([None, "RESOURCE:CPU"]),
    pull_started_at=times,
    stopped_at=times,
    stop_code=st.sampled_from([None, "SpotInterruption"]),
)


@pytest.fixture(scope="module")
def schema(root):
    document = json.loads((root / "docs" / "run-record.schema.json").read_text())
    return jsonschema.Draft202012Validator({**document, "$ref": "#/$defs/cost"})


@given(
    made=st.lists(attempts, max_size=6),
    place=st.tuples(
        st.sampled_from([*cost.table()["regions"], "mars-1"]),
        st.sampled_from(["x86_64", "arm64"]),
    ),
    stored=st.integers(0, 2**45),
)
def test_every_cost_is_one_that_a_record_may_hold_and_adds_up(run, schema, made, place, stored):
    region, architecture = place
    cluster = f"arn:aws:ecs:{region}:1:cluster/x"
    found = cost.of_run(run(*made, cluster=cluster, architecture=architecture), at(0), stored)

    schema.validate(json.loads(json.dumps(found)))
    if "why" not in found:
        assert found["usd"] == pytest.approx(sum(item["usd"] for item in found["items"]))
        assert found["usd"] * (1 - DISCOUNT) - 1e-6 <= found["usd_least"] <= found["usd"]
        assert len(found["items"]) <= 6


@given(
    provider=st.sampled_from(["FARGATE", "FARGATE_SPOT"]),
    seconds=st.floats(0.1, 1e6),
    region=st.sampled_from(sorted(cost.table()["regions"])),
)
def test_the_command_foretells_what_the_record_says(run, provider, seconds, region):
    foretold = run_cost(
        cpu=2048,
        memory=8192,
        seconds=seconds,
        architecture="x86_64",
        spot=provider == "FARGATE_SPOT",
        region=region,
    )
    # A record's times have milliseconds, so that a figure on the brink may be a second apart.
    second = run_cost(
        cpu=2048, memory=8192, seconds=3600, architecture="x86_64", spot=False, region=region
    )
    found = priced(run(attempt(provider, seconds), cluster=f"arn:aws:ecs:{region}:1:cluster/x"))

    slack = second.on_demand / 3600 + 2e-6
    assert found["usd"] == pytest.approx(foretold.on_demand, abs=slack)
    assert found["usd_least"] == pytest.approx(foretold.least, abs=slack)
