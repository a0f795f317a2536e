"""What a stack costs while nothing runs, and what an hour of training adds.

Every price comes from handler/prices.json, which names the source of each and when it was read
there; the handlers price each run by the same table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from handler import cost as prices

ARCHITECTURES: Final = ("x86_64", "arm64")
HOUR_SECONDS: Final = 3600
NOT_COUNTED: Final = "not counted, no price in the table"

Resource: TypeAlias = tuple[str, Mapping[str, Any]]
"""A resource's type, and its inputs or outputs."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """One entry of the table."""

    amount: float
    """USD."""
    source: str
    as_of: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing on the bill."""

    what: str
    count: float
    unit: str
    """What one of them is billed by."""
    price: Price
    total: float
    """USD for the month or the run."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A month in which nothing runs."""

    region: str
    lines: tuple[Line, ...]
    unpriced: tuple[str, ...]
    """Billed by the hour or month, but not in the table: the total is at least this much."""
    rates: tuple[Line, ...]
    """Storage, whose amount nobody knows beforehand: a count of 1 each."""
    notes: tuple[str, ...]

    @property
    def monthly(self) -> float:
        """USD in a month of 730 hours."""
        return sum(line.total for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """One task, from pulling its image to its end."""

    region: str
    size: str
    seconds: float
    lines: tuple[Line, ...]
    spot_discount: Price | None
    """The most that AWS names, on processor and memory; None on demand."""

    @property
    def on_demand(self) -> float:
        """USD without Spot."""
        return sum(line.total for line in self.lines)

    @property
    def least(self) -> float:
        """USD if Spot gave its whole discount; Spot prices change."""
        if self.spot_discount is None:
            return self.on_demand
        on_spot = sum(line.total for line in self.lines if line.unit in ("vCPU-hour", "GB-hour"))
        return self.on_demand - on_spot * self.spot_discount.amount


def regions() -> tuple[str, ...]:
    """Return the regions that the table has prices of."""
    return tuple(prices.table()["regions"])


def compiled() -> str:
    """Return the day on which the table was put together."""
    return prices.table()["compiled"]


def idle_cost(resources: Iterable[Resource], region: str, *, metrics: bool = False) -> Cost:
    """Price what is billed while nothing runs, from a state's or a preview's resources.

    metrics: whether the stack is known to write some; alarms and a dashboard of them tell it too.
    """
    _check_region(region)
    found: dict[str, _Found] = {}
    unpriced: dict[str, int] = {}
    notes: dict[str, None] = {}
    for kind, properties in resources:
        if kind in UNPRICED_TYPES:
            _count(unpriced, UNPRICED_TYPES[kind])
        metrics = metrics or _is_of_metrics(kind, properties)
        if kind == CLUSTER and _has_container_insights(properties):
            notes[_container_insights_note(region)] = None
        billed = BILLED.get(kind)
        count = billed.count(properties) if billed else 0
        if billed is None or count == 0:
            continue
        if _price(billed.price, region) is None:
            _count(unpriced, billed.what, count)
        else:
            entry = found.setdefault(billed.what, _Found(billed))
            entry.count += count
    if metrics and _price(METRICS.price, region) is None:
        _count(unpriced, METRICS.what, IDLE_METRICS)
    elif metrics:
        found[METRICS.what] = _Found(METRICS)
        found[METRICS.what].count = IDLE_METRICS
    return Cost(
        region=region,
        lines=tuple(entry.line(region) for entry in found.values()),
        unpriced=tuple(f"{count} x {what}" for what, count in unpriced.items()),
        rates=tuple(
            Line(what=what, count=1, unit="GB-month", price=price, total=price.amount)
            for what, key in STORAGE.items()
            if (price := _price(key, region)) is not None
        ),
        notes=tuple(notes),
    )


def run_cost(  # noqa: PLR0913 - a task's size has this many parts
    *,
    cpu: int,
    memory: int,
    seconds: float,
    architecture: str,
    spot: bool,
    region: str,
    public_address: bool = True,
) -> RunCost:
    """Price one task of `cpu` units and `memory` MiB, with the public address that it may have."""
    _check_region(region)
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}"
        )
    if min(cpu, memory, seconds) <= 0:
        raise ValueError(
            f"cpu, memory and seconds must be positive, got {cpu}, {memory} and {seconds}"
        )
    vcpu = _price(f"fargate_{architecture}_vcpu_hour", region)
    gigabyte = _price(f"fargate_{architecture}_gb_hour", region)
    address = _price("public_ipv4_hour", region)
    if vcpu is None or gigabyte is None or address is None:
        raise ValueError(
            f"architecture must be one that prices.json has for {region}, got {architecture!r}; "
            "https://aws.amazon.com/fargate/pricing/ has it"
        )
    hours = prices.rounded(seconds) / HOUR_SECONDS
    amounts: Sequence[tuple[str, str, Price, float]] = (
        (f"processor, {architecture}", "vCPU-hour", vcpu, cpu / 1024),
        ("memory", "GB-hour", gigabyte, memory / 1024),
        *([("public IPv4 address", "hour", address, 1.0)] if public_address else []),
    )
    return RunCost(
        region=region,
        size=f"{cpu / 1024:g} vCPU, {memory / 1024:g} GiB, {architecture}",
        seconds=seconds,
        lines=tuple(
            Line(
                what=what,
                count=amount * hours,
                unit=unit,
                price=price,
                total=amount * hours * price.amount,
            )
            for what, unit, price, amount in amounts
        ),
        spot_discount=_price("fargate_spot_discount", region) if spot else None,
    )


def state_resources(entries: Iterable[Mapping[str, Any]]) -> list[Resource]:
    """Return the resources that a stack's state has, as `pulumi stack export` writes each."""
    return [
        (entry["type"], {**(entry.get("inputs") or {}), **(entry.get("outputs") or {})})
        for entry in entries
        # What waits for its deletion is not part of the stack any more.
        if not entry.get("delete")
    ]


def render(idle: Cost, run: RunCost | None = None) -> str:
    """Return a plain text table for a terminal."""
    text = [f"Idle, a month of {prices.table()['hours_per_month']} hours in {idle.region}"]
    rows = [
        (line.what, f"{line.count:g} x {_rate(line.price.amount)} / {line.unit}", line.total)
        for line in idle.lines
    ]
    text += _rows([*rows, ("total", "", idle.monthly)])
    if not idle.lines and not idle.unpriced:
        text.append("  Nothing here is billed by the hour or by the month.")
    text += [f"  {NOT_COUNTED.capitalize()}: {what}" for what in idle.unpriced]
    text += [f"  {note}" for note in idle.notes]
    text += ["", "Stored, by what lies there"]
    text += _rows([(line.what, f"/ {line.unit}", line.price.amount) for line in idle.rates])
    if missing := [what for what, key in STORAGE.items() if _price(key, idle.region) is None]:
        text.append(f"  No price in the table: {', '.join(missing)}")
    if run is not None:
        text += ["", f"A run of {_duration(run.seconds)}: {run.size}"]
        rows = [
            (
                line.what,
                f"{line.count:.4g} x {_rate(line.price.amount)} / {line.unit}",
                line.total,
            )
            for line in run.lines
        ]
        text += _rows([*rows, ("total on demand", "", run.on_demand)])
        if run.spot_discount is not None:
            text += _rows([("on Spot, at the least", "", run.least)])
            text.append(
                f"  Spot: up to {run.spot_discount.amount:.0%} off processor and memory; its "
                f"price changes ({run.spot_discount.source})"
            )
    source = "each one's source and date are in handler/prices.json"
    text += ["", f"USD list prices, compiled {compiled()}, before tax and free tiers: {source}"]
    return "\n".join(text)


def as_json(idle: Cost, run: RunCost | None = None) -> dict[str, Any]:
    """Return the same as data."""
    data: dict[str, Any] = {
        "region": idle.region,
        "currency": "USD",
        "prices_compiled": compiled(),
        "idle": {
            "monthly": round(idle.monthly, 4),
            "lines": [_line_json(line) for line in idle.lines],
            "unpriced": list(idle.unpriced),
            "notes": list(idle.notes),
        },
        "storage": [_line_json(line) for line in idle.rates],
    }
    if run is not None:
        data["run"] = {
            "size": run.size,
            "seconds": run.seconds,
            "lines": [_line_json(line) for line in run.lines],
            "on_demand": round(run.on_demand, 6),
            "least": round(run.least, 6),
            "spot_discount": run.spot_discount.amount if run.spot_discount else None,
        }
    return data


def in_a_line(idle: Cost) -> str:
    """Say it where there is no room for a table, and what it leaves out."""
    text = f"idle, it costs {dollars(idle.monthly)} a month and what it stores"
    if idle.unpriced:
        text += f"; {NOT_COUNTED}: {', '.join(idle.unpriced)}"
    return text


def dollars(amount: float) -> str:
    """Write what is paid by the month."""
    return f"${amount:,.2f}"


def cents(amount: float) -> str:
    """Write an amount; of a small one the hundredths of cents too, which are most of it."""
    return dollars(amount) if amount >= 1 or amount == 0 else f"${amount:.4f}"


@dataclass(frozen=True)
class _Billed:
    what: str
    unit: str
    price: str
    """Its key in the table."""
    count: Callable[[Mapping[str, Any]], int]


class _Found:
    """How many of one billed thing there are."""

    def __init__(self, billed: _Billed) -> None:
        self.billed = billed
        self.count = 0

    def line(self, region: str) -> Line:
        price = _price(self.billed.price, region)
        if price is None:
            raise ValueError(f"prices.json must have {self.billed.price} for {region}, got none")
        times = prices.table()["hours_per_month"] if self.billed.unit == "hour" else 1
        return Line(
            what=self.billed.what,
            count=self.count,
            unit=self.billed.unit,
            price=price,
            total=self.count * times * price.amount,
        )


IDLE_METRICS: Final = 2
"""OpenRuns and HoursWithoutModel, which each round of reconcile writes. The others have values, and
are billed, in hours in which a run is at work or ends."""
METRICS: Final = _Billed("custom metric", "month", "metric_month", lambda _: IDLE_METRICS)
ALARM: Final = "aws:cloudwatch/metricAlarm:MetricAlarm"
DASHBOARD: Final = "aws:cloudwatch/dashboard:Dashboard"


def _is_of_metrics(kind: str, properties: Mapping[str, Any]) -> bool:
    """Say whether a resource is one that a stack with metrics alone has."""
    return kind == DASHBOARD or (kind == ALARM and properties.get("namespace") == "pushtrain")


def _one(_properties: Mapping[str, Any]) -> int:
    return 1


def _endpoint_zones(properties: Mapping[str, Any]) -> int:
    """Count an interface endpoint's network interfaces: it is billed in each zone."""
    if properties.get("vpcEndpointType", "Gateway") == "Gateway":
        return 0
    subnets = properties.get("subnetIds")
    # Subnets that nobody knows yet are one at least.
    return max(len(cast("list[Any]", subnets)), 1) if isinstance(subnets, list) else 1


def _has_container_insights(properties: Mapping[str, Any]) -> bool:
    settings = properties.get("settings")
    if not isinstance(settings, list):
        return False  # not known yet
    return any(
        cast("Mapping[str, Any]", setting).get("name") == "containerInsights"
        and cast("Mapping[str, Any]", setting).get("value") != "disabled"
        for setting in cast("list[Any]", settings)
        if isinstance(setting, Mapping)
    )


CLUSTER: Final = "aws:ecs/cluster:Cluster"
BILLED: Final[Mapping[str, _Billed]] = MappingProxyType(
    {
        "aws:ec2/natGateway:NatGateway": _Billed("NAT gateway", "hour", "nat_gateway_hour", _one),
        "aws:ec2/eip:Eip": _Billed("public IPv4 address", "hour", "public_ipv4_hour", _one),
        "aws:ec2/vpcEndpoint:VpcEndpoint": _Billed(
            "interface endpoint, by zone", "hour", "interface_endpoint_hour", _endpoint_zones
        ),
        "aws:kms/key:Key": _Billed("KMS key", "month", "kms_key_month", _one),
        "aws:kms/replicaKey:ReplicaKey": _Billed("KMS key", "month", "kms_key_month", _one),
        ALARM: _Billed("CloudWatch alarm", "month", "alarm_month", _one),
        DASHBOARD: _Billed("CloudWatch dashboard", "month", "dashboard_month", _one),
        "aws:secretsmanager/secret:Secret": _Billed("secret", "month", "secret_month", _one),
    }
)
"""What is billed although nothing runs, by Pulumi's type."""

UNPRICED_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws:cloudwatch/compositeAlarm:CompositeAlarm": "composite alarm",
        "aws:ec2/instance:Instance": "EC2 instance",
        "aws:ec2/vpnConnection:VpnConnection": "VPN connection",
        "aws:ec2transitgateway/vpcAttachment:VpcAttachment": "transit gateway attachment",
        "aws:ecs/service:Service": "ECS service",
        "aws:efs/fileSystem:FileSystem": "EFS file system",
        "aws:lb/loadBalancer:LoadBalancer": "load balancer",
        "aws:rds/instance:Instance": "RDS instance",
        "aws:route53/zone:Zone": "Route 53 hosted zone",
    }
)
"""Billed as well, and nothing of ours: named, so that a total never passes for complete."""

STORAGE: Final[Mapping[str, str]] = MappingProxyType(
    {"S3 Standard": "s3_gb_month", "ECR images": "ecr_gb_month"}
)


def _container_insights_note(region: str) -> str:
    price = _price("metric_month", region)
    rate = f" ({_rate(price.amount)} a metric and month)" if price else ""
    return f"Container Insights: billed by metric{rate} for the hours that tasks run"


def _count(counts: dict[str, int], what: str, times: int = 1) -> None:
    counts[what] = counts.get(what, 0) + times


def _check_region(region: str) -> None:
    if region not in regions():
        raise ValueError(
            f"region must be one of {', '.join(regions())}, got {region!r}: "
            "prices.json has no other's prices (https://calculator.aws has)"
        )


def _price(key: str, region: str) -> Price | None:
    entry = prices.entry(key, region)
    if entry is None:
        return None
    return Price(amount=entry["price"], source=entry["source"], as_of=entry["as_of"])


def _rows(rows: Sequence[tuple[str, str, float]]) -> list[str]:
    return [f"  {what:<28} {how:<28} {cents(amount):>12}" for what, how, amount in rows]


def _rate(amount: float) -> str:
    """Write a price: with two digits behind the point, or with all of a small one."""
    if amount == round(amount, 2):
        return dollars(amount)
    return f"${amount:.6f}".rstrip("0")


def _duration(seconds: float) -> str:
    if seconds == HOUR_SECONDS:
        return "an hour"
    minutes = seconds / 60
    return f"{minutes:g} min" if minutes == round(minutes) else f"{seconds:g} s"


def _line_json(line: Line) -> dict[str, Any]:
    return {
        "what": line.what,
        "count": round(line.count, 6),
        "unit": line.unit,
        "price": line.price.amount,
        "total": round(line.total, 6),
        "source": line.price.source,
        "as_of": line.price.as_of,
    }
