"""What a row says of a run: exact figures, and the reason where there is none."""

from datetime import UTC, datetime, timedelta

import pytest

from automation import summary
from automation.cost import run_cost
from automation.summary import Spent

NOW = datetime(2026, 11, 27, 10, 10, tzinfo=UTC)


def test_each_attempt_is_priced_by_its_own_provider(records):
    run = records.succeeded(attempts=[records.ended(1, 0, 600), records.ended(2, 600, 1200)])
    size = {"cpu": 2048, "memory": 8192, "architecture": "x86_64", "region": "us-east-1"}
    spot = run_cost(**size, seconds=600, spot=True)
    on_demand = run_cost(**size, seconds=1200, spot=False)
    spent = summary.summarise(run, NOW).spent

    assert spent
    assert spent.least == pytest.approx(spot.least + on_demand.on_demand, abs=1e-5)
    assert spent.most == pytest.approx(spot.on_demand + on_demand.on_demand, abs=1e-5)


def test_an_attempt_without_a_task_costs_nothing(records):
    nothing = records.attempt(failure="RESOURCE:CPU", task_arn=None, started_at=None)

    assert summary.summarise(records.make(attempts=[nothing]), NOW).spent == Spent(least=0, most=0)


def test_a_running_task_has_cost_until_now(records):
    run = records.make(attempts=[records.attempt(2, 0)])
    hour = summary.summarise(run, NOW + timedelta(minutes=50)).spent
    day = summary.summarise(run, NOW + timedelta(hours=23, minutes=50)).spent
    price = run_cost(
        cpu=2048, memory=8192, seconds=3600, architecture="x86_64", spot=False, region="us-east-1"
    )

    assert isinstance(hour, Spent)
    assert isinstance(day, Spent)
    assert hour.most == pytest.approx(price.on_demand, abs=1e-5)
    assert day.most == pytest.approx(24 * price.on_demand, abs=1e-5)


def test_a_task_without_a_public_address_is_not_billed_for_one(records, wiring):
    run = records.succeeded(attempts=[records.ended(2, 0, 3600)])
    private = {**run, "wiring": {**wiring, "assign_public_ip": False}}
    public, without = (summary.summarise(each, NOW).spent for each in (run, private))

    assert isinstance(public, Spent)
    assert isinstance(without, Spent)
    assert public.most - without.most == pytest.approx(0.005, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "riscv"}, "no fargate_riscv_gb_hour, fargate_riscv_vcpu_hour of us-east"),
        ({"cluster": "arn:aws:ecs:mars-1:1:cluster/x"}, "the price table has no region 'mars-1'"),
        ({"cluster": "none"}, "the price table has no region ''"),
    ],
)
def test_what_cannot_be_priced_has_a_reason(records, wiring, changes, reason):
    run = {**records.succeeded(), "wiring": {**wiring, **changes}}
    row = summary.summarise(run, NOW)

    assert row.spent is None
    assert "why" in row.cost
    assert reason in row.cost["why"]


def test_a_record_of_an_older_pushtrain_is_not_priced(records, wiring):
    older = {name: value for name, value in wiring.items() if name not in ("cpu", "memory")}

    row = summary.summarise({**records.succeeded(), "wiring": older}, NOW)

    assert row.cost == {"usd": None, "why": "the record's wiring has no cpu, memory"}


def test_what_the_end_put_on_record_outlives_a_newer_table(records):
    recorded = {"usd": None, "why": "the price table has no region 'us-east-1'"}

    assert summary.summarise(records.succeeded(cost=recorded), NOW).cost == recorded


def test_a_run_that_waits_has_no_duration(records):
    row = summary.summarise(records.make(state="WAITING"), NOW)

    assert (row.seconds, row.started) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86400 * 2 + 3600 * 3 + 59, "2 d 3 h"),
    ],
)
def test_spans_have_two_units(seconds, text):
    assert summary.span(seconds) == text


@pytest.mark.parametrize(
    ("spent", "text"),
    [
        (Spent(least=0, most=0), "$0.00"),
        (Spent(least=0.00111, most=0.00341), "$0.0011-0.0034"),
        (Spent(least=0.00341, most=0.00341), "$0.0034"),
        (Spent(least=1.5, most=2.25), "$1.50-2.25"),
    ],
)
def test_costs_are_written_short(spent, text):
    assert str(spent) == text
