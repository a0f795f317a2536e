"""A run in a row: what it came to, how long it took, what it cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from automation.cost import cents
from automation.follow import FINAL_STATES, Record, part
from handler.cost import Cost, of_run

STYLES: Final[Mapping[str, str]] = {
    "SUCCEEDED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "STARTED": "bold",
    "CLAIMED": "bold",
    "WAITING": "magenta",
}
MOST_TAGS: Final = 3
"""In a table's row; `runs show` has all."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """USD for all attempts of a run, by list prices."""

    least: float
    """If Spot gave its whole discount."""
    most: float
    """If Spot gave none."""

    def __str__(self) -> str:
        if round(self.least, 4) == round(self.most, 4):
            return cents(self.most)
        return f"{cents(self.least)}-{cents(self.most).removeprefix('$')}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a table says of a run."""

    run: str
    digest: str
    tags: tuple[str, ...]
    state: str
    why: str
    """What it waits for, what is to stop it, or what it failed of."""
    attempts: int
    accuracy: float | None
    created: datetime
    started: datetime | None
    """When its first task was asked for."""
    seconds: float | None
    """From then to the end, or until now."""
    cost: Cost
    champion: bool

    @property
    def spent(self) -> Spent | None:
        """What it cost, where there is a price."""
        cost = self.cost
        return None if "why" in cost else Spent(least=cost["usd_least"], most=cost["usd"])

    def as_json(self) -> dict[str, Any]:
        """Return the run as `--json` prints it."""
        return {
            "run": self.run,
            "digest": self.digest,
            "tags": list(self.tags),
            "state": self.state,
            "why": self.why or None,
            "attempts": self.attempts,
            "accuracy": self.accuracy,
            "champion": self.champion,
            "created_at": stamp(self.created),
            "started_at": stamp(self.started) if self.started else None,
            "seconds": self.seconds,
            "cost": self.cost,
        }


def summarise(record: Record, now: datetime, champion: str | None = None) -> Summary:
    """Take from a record what a table says of it."""
    attempts = record["attempts"]
    started = time(attempts[0]["requested_at"]) if attempts else None
    ended = time(record.get("ended_at"))
    return Summary(
        run=record["run"],
        digest=record["image"]["digest"],
        tags=tuple(record["image"]["tags"]),
        state=record["state"],
        why=_why(record),
        attempts=len(attempts),
        accuracy=record.get("metrics", {}).get("accuracy"),
        created=time(record["created_at"]) or now,
        started=started,
        seconds=((ended or now) - started).total_seconds() if started else None,
        # What its end put on record holds, by the prices of that day.
        cost=record.get("cost") or of_run(record, stamp(now)),
        champion=record["run"] == champion,
    )


def table(rows: Iterable[Summary], now: datetime) -> Table:
    """Lay runs out for a terminal."""
    laid = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("RUN", "left"),
        ("TAGS", "left"),
        ("STATE", "left"),
        ("ATTEMPTS", "right"),
        ("ACCURACY", "right"),
        ("DURATION", "right"),
        ("STARTED", "right"),
        ("COST", "right"),
    ):
        # Names are there to be copied: they are never cut, nor laid over two lines.
        laid.add_column(name, justify=justify, no_wrap=True, overflow="ignore")  # pyright: ignore[reportArgumentType] - "left" and "right" are what it takes
    for row in rows:
        more = len(row.tags) - MOST_TAGS
        laid.add_row(
            row.run,
            ", ".join(row.tags[:MOST_TAGS]) + (f" +{more}" if more > 0 else ""),
            Text(f"{row.state} ({row.why})" if row.why else row.state, STYLES.get(row.state, "")),
            str(row.attempts),
            ("* " if row.champion else "") + percent(row.accuracy),
            "" if row.seconds is None else span(row.seconds),
            f"{span((now - (row.started or row.created)).total_seconds())} ago",
            str(row.spent or ""),
        )
    return laid


def percent(fraction: float | None) -> str:
    """Write an accuracy."""
    return "" if fraction is None else f"{fraction:.2%}"


def span(seconds: float) -> str:
    """Write how long something took, in its two largest units."""
    whole = max(round(seconds), 0)
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def time(text: str | None) -> datetime | None:
    """Read a record's time."""
    return datetime.fromisoformat(text) if text else None


def stamp(at: datetime) -> str:
    """Write a time as a record does."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _why(record: Record) -> str:
    state = record["state"]
    if state == "WAITING":
        return part(record, "waiting").get("why", "")
    if state not in FINAL_STATES:
        stop = record.get("stop")
        return "stopping" if stop else ""
    if state != "FAILED":
        return ""
    return part(record, "diagnosis").get("cause") or ""
