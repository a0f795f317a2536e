"""What a run cost by list prices: arithmetic over its record and the one dated table."""

import functools
import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, TypedDict, final

TABLE: Final = Path(__file__).with_name("prices.json")
SPOT: Final = "FARGATE_SPOT"
LEAST_SECONDS: Final = 60
_HOUR_SECONDS: Final = 3600
_GIGABYTE: Final = 2**30
"""S3 counts so: https://aws.amazon.com/s3/faqs/."""
_CENTS: Final = 6
"""Digits that are kept behind the point of a dollar: a minute of the smallest task has some."""


class Entry(TypedDict):
    """One price, and where and when it was read."""

    price: float
    source: str
    as_of: str


class Item(TypedDict):
    """What one thing came to, over all attempts of the run."""

    what: str
    """vcpu, memory or public_ipv4."""
    provider: str
    architecture: str
    amount: float
    unit: str
    usd: float
    """By the price on demand, also on Spot."""


class Stored(TypedDict):
    """What the run published, and what that costs month after month."""

    bytes: int
    usd_month: float | None
    """None where the table has no price of storage in the region."""


@final
class Priced(TypedDict):
    """A cost, which is the sum of its items."""

    usd: float
    """If Spot gave nothing off: the most that it can be."""
    usd_least: float
    """If Spot gave all that AWS names. Spot's price changes, and nobody tells what it was."""
    items: list[Item]
    stored: Stored
    prices_dated: str
    region: str


@final
class Unpriced(TypedDict):
    """Why there is no cost."""

    usd: None
    why: str


Cost: TypeAlias = Priced | Unpriced


def of_run(run: Mapping[str, Any], time: str, stored_bytes: int = 0) -> Cost:
    """Price a run's tasks until its end, or until then if it has none yet.

    It raises nothing: no price is no reason for a run not to end.
    """
    wiring: Mapping[str, Any] = run["wiring"]
    needed = ("cpu", "memory", "architecture", "cluster", "assign_public_ip")
    if missing := [name for name in needed if name not in wiring]:
        return {"usd": None, "why": f"the record's wiring has no {', '.join(missing)}"}
    region, architecture = _region(wiring["cluster"]), str(wiring["architecture"])
    if region not in table()["regions"]:
        return {"usd": None, "why": f"the price table has no region {region!r}"}
    names = {
        "vcpu": f"fargate_{architecture}_vcpu_hour",
        "memory": f"fargate_{architecture}_gb_hour",
        "public_ipv4": "public_ipv4_hour",
    }
    found = {what: entry(name, region) for what, name in names.items()}
    prices = {what: price["price"] for what, price in found.items() if price}
    if lacking := sorted(names.keys() - prices.keys()):
        which = ", ".join(names[what] for what in lacking)
        return {"usd": None, "why": f"the price table has no {which} of {region}"}
    amounts = {"vcpu": wiring["cpu"] / 1024, "memory": wiring["memory"] / 1024}
    if wiring["assign_public_ip"]:
        amounts["public_ipv4"] = 1
    units = {"vcpu": "vCPU-second", "memory": "GB-second", "public_ipv4": "second"}
    seconds = _seconds(run, run["ended_at"] or time)
    items: list[Item] = [
        {
            "what": what,
            "provider": provider,
            "architecture": architecture,
            "amount": amount * seconds[provider],
            "unit": units[what],
            "usd": round(amount * seconds[provider] / _HOUR_SECONDS * prices[what], _CENTS),
        }
        for provider in sorted(seconds)
        for what, amount in amounts.items()
    ]
    return {
        "usd": round(sum(item["usd"] for item in items), _CENTS),
        "usd_least": round(sum(_least(item, region) for item in items), _CENTS),
        "items": items,
        "stored": _stored(stored_bytes, region),
        "prices_dated": table()["compiled"],
        "region": region,
    }


def billed_seconds(attempt: Mapping[str, Any], until: str) -> int:
    """Return how long Fargate bills an attempt: from the image's download to the task's end.

    By the second, and a minute at least: https://aws.amazon.com/fargate/pricing/. A task that ended
    before its download is not billed. One of which ECS told nothing counts from its request, which
    is the most that it can have been.
    """
    if attempt["failure"] or not attempt["task_arn"]:
        return 0
    # A record of before it was kept has no such field.
    begin = attempt.get("pull_started_at", attempt["requested_at"])
    if not begin and attempt["stop_code"]:
        return 0
    time = datetime.fromisoformat(attempt["stopped_at"] or until) - datetime.fromisoformat(
        begin or attempt["requested_at"]
    )
    return rounded(time.total_seconds())


def rounded(seconds: float) -> int:
    """Return for how many seconds a task is billed."""
    return max(math.ceil(seconds), LEAST_SECONDS)


def provider_of(attempt: Mapping[str, Any]) -> str:
    """Return the capacity provider that an attempt asks for."""
    strategy: list[dict[str, Any]] = attempt["request"].get("capacityProviderStrategy") or []
    return strategy[0].get("capacityProvider", "") if strategy else ""


def entry(name: str, region: str) -> Entry | None:
    """Return the table's price of that name in a region that it has, or None."""
    return table()["regions"][region].get(name) or table()["everywhere"].get(name)


@functools.cache
def table() -> dict[str, Any]:
    """Return the price table."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def _seconds(run: Mapping[str, Any], until: str) -> dict[str, int]:
    """Return what is billed of each capacity provider."""
    seconds: dict[str, int] = {}
    for attempt in run["attempts"]:
        if billed := billed_seconds(attempt, until):
            provider = provider_of(attempt)
            seconds[provider] = seconds.get(provider, 0) + billed
    return seconds


def _least(item: Item, region: str) -> float:
    discount = entry("fargate_spot_discount", region)
    if item["provider"] != SPOT or item["what"] == "public_ipv4" or not discount:
        return item["usd"]
    return item["usd"] * (1 - discount["price"])


def _stored(count: int, region: str) -> Stored:
    price = entry("s3_gb_month", region)
    month = round(count / _GIGABYTE * price["price"], 9) if price else None
    return {"bytes": count, "usd_month": month}


def _region(cluster: str) -> str:
    """Return the region of an ARN; a text that is none has the region ''."""
    parts = cluster.split(":")
    return parts[3] if len(parts) > 3 else ""
