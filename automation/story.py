"""The whole story of a run: what happened when, why, and what to do now."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from automation.cost import cents
from automation.deployed import Deployed
from automation.follow import FINAL_STATES, Record, part
from automation.summary import STYLES, percent, span, stamp, summarise, time
from handler.cost import Cost, provider_of


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One thing that happened to a run."""

    at: datetime
    what: str
    text: str


def moments(record: Record) -> list[Moment]:
    """Give all that a record knows to have happened, in order."""
    found = [_claim(record)]
    if repeat := record.get("repeat"):
        found += _at(repeat.get("at"), "asked for", f"by {repeat['by']}, to repeat {repeat['of']}")
    for attempt in record["attempts"]:
        found += _of_attempt(attempt)
    if stop := record.get("stop"):
        reason = f": {stop['reason']}" if stop.get("reason") else ""
        what = "cancel" if stop["why"] == "cancel" else "time is up"
        found += _at(stop["at"], what, f"by {stop['by']}{reason}")
    if promotion := record.get("promotion"):
        found += _at(promotion["at"], promotion["decision"], _promotion(promotion))
    # What was recorded last comes last, also where it was recorded in the same millisecond.
    ordered = sorted(found, key=lambda moment: moment.at)
    diagnosis = part(record, "diagnosis")
    ordered += _at(record.get("ended_at"), record["state"], diagnosis.get("summary", ""))
    ordered += _at(record.get("notified_at"), "notice", "sent")
    return ordered


def next_steps(record: Record, deployed: Deployed, *, champion: bool) -> list[str]:
    """Give the commands that somebody who looks at this run is most likely to want."""
    run, state = record["run"], record["state"]
    if state == "WAITING":
        data = part(record, "waiting").get("why") == "data"
        push = ["data push FILE"] if data else []
        commands = [*push, f"cancel {run}"]
    elif state not in FINAL_STATES:
        commands = [f"logs {run} -f", f"cancel {run}"]
    elif state == "SUCCEEDED":
        promote = [] if champion else [f"promote {run}"]
        commands = [f"report {run}", f"predict IMAGE --run {run}", *promote]
    else:
        logs = [f"logs {run}"] if any(each["log_stream"] for each in record["attempts"]) else []
        commands = [*logs, f"train {record['image']['tags'][0]}"]
    return [deployed.command(command) for command in commands]


def as_json(record: Record, manifest: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    """Return the story as data."""
    row = summarise(record, now)
    return {
        "record": record,
        "manifest": manifest,
        "seconds": row.seconds,
        "cost": row.cost,
        "timeline": [
            {"at": stamp(moment.at), "what": moment.what, "text": moment.text}
            for moment in moments(record)
        ],
    }


def tell(
    console: Console,
    record: Record,
    manifest: Mapping[str, Any] | None,
    now: datetime,
    *,
    champion: bool,
) -> None:
    """Print the story for a person."""
    row = summarise(record, now, record["run"] if champion else None)
    facts = [
        f"accuracy {percent(row.accuracy)}" if row.accuracy is not None else "",
        "the champion" if champion else "",
        span(row.seconds) if row.seconds is not None else "",
        str(row.spent or ""),
    ]
    console.print(
        Text.assemble(
            *(("run ", "dim"), (row.run, "bold"), "  "),
            *((record["state"], STYLES.get(record["state"], "")), "  "),
            "  ".join(filter(None, facts)),
        )
    )
    _facts(console, _head(record))
    console.print()
    _timeline(console, moments(record))
    if waits := _waits(record, now):
        console.print()
        _facts(console, [("waits for", waits)])
    diagnosis = part(record, "diagnosis")
    if diagnosis.get("detail") or diagnosis.get("action"):
        console.print()
        _facts(console, _diagnosed(diagnosis))
    console.print()
    _facts(console, _tail(record, manifest, row.cost))


def _claim(record: Record) -> Moment:
    # The claim is all that is known of the push; both are a second apart.
    tags, repeat = record["image"]["tags"], record.get("repeat")
    text = f"a repeat of {repeat['of']}" if repeat else f"the push of {tags[0]}"
    return Moment(at=datetime.fromisoformat(record["created_at"]), what="claimed", text=text)


def _of_attempt(attempt: Mapping[str, Any]) -> Iterator[Moment]:
    name = f"attempt {attempt['number']}"
    yield from _at(attempt["requested_at"], name, f"asks for a task on {provider_of(attempt)}")
    if attempt["failure"]:
        # When RunTask refused is not on record: it answers at once.
        yield from _at(attempt["requested_at"], "no task", attempt["failure"])
    task = (attempt["task_arn"] or "").rpartition("/")[2]
    yield from _at(attempt["started_at"], "running", f"task {task}")
    yield from _at(attempt["stopped_at"], "stopped", _stopped(attempt))


def _stopped(attempt: Mapping[str, Any]) -> str:
    diagnosis = part(attempt, "diagnosis")
    exit_code = attempt["exit_code"]
    facts: list[str | None] = [
        diagnosis.get("summary", ""),
        f"cause {attempt['cause']}" if attempt.get("cause") else "",
        "no exit code" if exit_code is None else f"exit code {exit_code}",
        attempt["stop_code"],
        attempt["stopped_reason"],
    ]
    return "; ".join(filter(None, facts))


def _promotion(promotion: Mapping[str, Any]) -> str:
    value = promotion.get("value")
    figure = "" if value is None else f"{promotion['metric']} {value:g}: "
    return f"{figure}{promotion['reason']}"


def _at(text: str | None, what: str, said: str) -> Iterator[Moment]:
    if (at := time(text)) is not None:
        yield Moment(at=at, what=what, text=said)


def _timeline(console: Console, told: list[Moment]) -> None:
    first = told[0].at
    table = _grid()
    for moment in told:
        since = (moment.at - first).total_seconds()
        when = (
            f"{first.astimezone():%Y-%m-%d %H:%M:%S}"
            if moment is told[0]
            else f"+{since:.1f} s"
            if since < 60
            else f"+{span(since)}"
        )
        table.add_row(
            Text(when, "dim"), Text(moment.what, STYLES.get(moment.what, "bold")), Text(moment.text)
        )
    console.print(table)


def _head(record: Record) -> Iterator[tuple[str, str]]:
    image = record["image"]
    yield "image", f"{image['digest']}  {', '.join(image['tags'])}"
    if data := part(record, "data"):
        yield "data", f"{data['key']} version {data['version_id']}"


def _waits(record: Record, now: datetime) -> str:
    waiting = record.get("waiting")
    if not waiting:
        return ""
    not_before = time(waiting.get("not_before"))
    later = f"not before {span((not_before - now).total_seconds())} from now" if not_before else ""
    return "; ".join(filter(None, [waiting["why"], waiting.get("detail", ""), later]))


def _diagnosed(diagnosis: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if diagnosis.get("detail"):
        yield "detail", diagnosis["detail"]
    if diagnosis.get("action"):
        yield "what to do", diagnosis["action"]


def _tail(
    record: Record, manifest: Mapping[str, Any] | None, cost: Cost
) -> Iterator[tuple[str, str]]:
    if record["parameters"]:
        pairs = sorted(record["parameters"].items())
        yield "parameters", "  ".join(f"{name}={value}" for name, value in pairs)
    if metrics := record.get("metrics"):
        yield "metrics", "  ".join(f"{name}={value:g}" for name, value in sorted(metrics.items()))
    for attempt in record["attempts"]:
        if attempt["log_stream"]:
            group = record["wiring"]["log_group"]
            yield f"log {attempt['number']}", f"{group} {attempt['log_stream']}"
    if manifest:
        where = f"s3://{record['wiring']['bucket']}/runs/{record['run']}/"
        files = sorted(manifest["files"].items())
        yield (
            "files",
            "\n".join([where, *(f"  {name}  {size(entry['size'])}" for name, entry in files)]),
        )
    yield "cost", "\n".join(_priced(cost))


def _priced(cost: Cost) -> Iterator[str]:
    if "why" in cost:
        yield f"unknown: {cost['why']}"
        return
    yield f"by list prices of {cost['prices_dated']} in {cost['region']}"
    for item in cost["items"]:
        amount = f"{item['amount']:,.10g} {item['unit']}s"
        on = f"{item['provider']} {item['architecture']}"
        yield f"  {item['what']:<12}{amount:<24}{on:<22}{cents(item['usd'])}"
    if cost["usd_least"] < cost["usd"]:
        yield f"  in all {cents(cost['usd'])}; {cents(cost['usd_least'])} if Spot gave all it can"
    else:
        yield f"  in all {cents(cost['usd'])}"
    stored = cost["stored"]
    month = "no price" if stored["usd_month"] is None else f"{cents(stored['usd_month'])} a month"
    yield f"  published {size(stored['bytes'])}: {month}"


def size(count: int) -> str:
    """Write how many bytes something has."""
    number = float(count)
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def _facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    table = _grid()
    for name, text in facts:
        table.add_row(Text(name, "dim"), Text(text))
    console.print(table)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    return table
