"""Tell of the end of a run: a message for people, an event for programs."""

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from handler import runs
from handler.manifest import is_number
from handler.runs import Attempt, Run
from handler.wiring import Clients

SOURCE = "pushtrain"
DETAIL_TYPE = "Training Run Ended"

_SUBJECT = 99
"""SNS's documentation says fewer than 100 characters of printable ASCII."""
_MESSAGE = 262_144
"""Bytes of UTF-8 that SNS takes, and EventBridge for an entry."""
# Bytes of one text. JSON makes at most two of one, so that an event of them fits whatever a record
# holds; a message is cut at its end, where the least telling stands.
_WORD, _SENTENCE, _PAGE = 256, 2_000, 30_000
_TAGS, _METRICS, _ATTEMPTS = 50, 50, 10
_LEFT_OUT = " [...]"
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_UNSENDABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class NoticeError(RuntimeError):
    """The event bus did not take the event."""


def send(clients: Clients, run: Run, topic: str) -> None:
    """Tell everybody who subscribed how the run ended; raise unless all of them were told.

    The topic is the one that there is now: the one that a run froze may be gone by its end.
    Whoever marks the record afterwards may come to tell twice: programs first, since those can
    know an event again by its run.
    """
    detail = json.dumps(event_detail(run), ensure_ascii=False, allow_nan=False)
    answer = clients.events.put_events(
        Entries=[{"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": detail}]
    )
    if answer["FailedEntryCount"]:
        raise NoticeError(
            f"the event of run {run['run']} must reach the event bus, got {answer['Entries']!r}"
        )
    clients.sns.publish(TopicArn=topic, Subject=subject(run), Message=message(run))


def event_detail(run: Run) -> dict[str, Any]:
    """Return the event's detail: what the record says, within what an event can hold."""
    diagnosis, promotion = run["diagnosis"], run["promotion"]
    return {
        "stack": run["wiring"]["stack"],
        "run": run["run"],
        "state": run["state"],
        "tags": _tags(run),
        "image_digest": run["image"]["digest"],
        "attempts": len(run["attempts"]),
        "metrics": dict(_metrics(run)),
        "diagnosis": diagnosis
        and {
            "cause": _cut(diagnosis["cause"], _WORD),
            "summary": _cut(diagnosis["summary"], _SENTENCE),
            "detail": _cut(diagnosis["detail"], _PAGE),
            "action": _cut(diagnosis["action"], _SENTENCE),
        },
        "promotion": promotion
        and {
            **promotion,
            "metric": _cut(promotion["metric"], _WORD),
            "reason": _cut(promotion["reason"], _SENTENCE),
        },
        "record": _record(run),
        "duration": _duration(run).total_seconds(),
    }


def subject(run: Run) -> str:
    """Return one line that says it all, the most telling first: mail programs cut it too."""
    tags = run["image"]["tags"]
    facts = [f"{run['state']}: run {run['run']}" + (f" ({tags[0][:40]})" if tags else "")]
    diagnosis, promotion = run["diagnosis"], run["promotion"]
    if run["state"] == "SUCCEEDED":
        metric = run["wiring"]["champion_metric"]
        facts += [f"{name} {value:.4g}" for name, value in _metrics(run) if name == metric]
        if promotion and promotion["decision"] == "promoted":
            facts.append("the new champion")
    elif diagnosis:
        facts.append(diagnosis["summary"])
    facts.append(f"stack {run['wiring']['stack']}")
    return re.sub(r"[^ -~]", "?", ", ".join(facts))[:_SUBJECT]


def message(run: Run) -> str:
    """Return the message: what happened, why, what to do about it, and where to look."""
    name, stack = run["run"], run["wiring"]["stack"]
    diagnosis, promotion = run["diagnosis"], run["promotion"]
    tags = run["image"]["tags"]
    more = f" and {len(tags) - _TAGS} more" if len(tags) > _TAGS else ""
    last = run["attempts"][-1] if run["attempts"] else None
    facts = [
        ("image", run["image"]["uri"]),
        ("tags", ", ".join(_tags(run)) + more),
        ("attempts", str(len(run["attempts"]))),
        ("duration", str(timedelta(seconds=round(_duration(run).total_seconds())))),
        *((metric, f"{value:.6g}") for metric, value in _metrics(run)),
    ]
    if promotion:
        facts.append(("promotion", f"{promotion['decision']}: {promotion['reason']}"))
    stream = last["log_stream"] if last else None
    places = [
        ("all of it", f"pushtrain runs show {name} -s {stack}"),
        ("the log", f"pushtrain logs {name} -s {stack}"),
        ("record", _record(run)),
        ("log group", run["wiring"]["log_group"]),
        ("log stream", stream or "none: no task got as far as a log"),
    ]
    sections = [
        *_section("What happened", [diagnosis["summary"] if diagnosis else ""], _SENTENCE),
        *_section("What to do", [diagnosis["action"] if diagnosis else ""], _SENTENCE),
        *_section("The run", _table(facts), _PAGE),
        *_section("Where to look", _table(places), _PAGE),
        *_section("Attempts", map(_attempt, run["attempts"][-_ATTEMPTS:]), _PAGE),
        *_section("Why", [diagnosis["detail"] if diagnosis else ""], _PAGE),
    ]
    title = f"Run {name} of stack {stack} ended: {run['state']}"
    return _cut("\n".join([title, "", *sections]), _MESSAGE)


def _section(title: str, lines: Iterable[str], most: int) -> list[str]:
    text = _cut("\n".join(lines), most)
    return [title, *(f"  {line}" for line in text.splitlines()), ""] if text else []


def _table(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name:<12} {_cut(value, _SENTENCE)}" for name, value in facts]


def _attempt(attempt: Attempt) -> str:
    provider: str = attempt["request"]["capacityProviderStrategy"][0]["capacityProvider"]
    diagnosis = attempt["diagnosis"]
    if diagnosis:
        end = diagnosis["summary"]
    elif attempt["failure"]:
        end = attempt["failure"]
    else:
        end = f"exit code {attempt['exit_code']}" if attempt["stopped_at"] else "no end on record"
    return f"{attempt['number']} on {provider}: {_cut(end, _SENTENCE)}"


def _tags(run: Run) -> list[str]:
    return [_cut(tag, _WORD) for tag in run["image"]["tags"][:_TAGS]]


def _metrics(run: Run) -> list[tuple[str, float]]:
    """Return the run's metrics, the one that champions are chosen by first."""
    metric = run["wiring"]["champion_metric"]
    names = sorted(run["metrics"], key=lambda name: (name != metric, name))
    finite = [name for name in names if is_number(run["metrics"][name])]
    return [(_cut(name, _WORD), run["metrics"][name]) for name in finite[:_METRICS]]


def _record(run: Run) -> str:
    return f"s3://{run['wiring']['bucket']}/{runs.prefix(run['run'])}run.json"


def _duration(run: Run) -> timedelta:
    end = run["ended_at"] or run["updated_at"]
    return datetime.fromisoformat(end) - datetime.fromisoformat(run["created_at"])


def _cut(text: str, most: int) -> str:
    """Return a text that is safe to send, of at most so many bytes; its end is what goes."""
    lines = _COLOURS.sub("", text[: 4 * most]).replace("\r\n", "\n").replace("\r", "\n")
    safe = _UNSENDABLE.sub("\ufffd", lines)
    encoded = safe.encode()
    if len(encoded) <= most:
        return safe
    return encoded[: most - len(_LEFT_OUT)].decode(errors="ignore") + _LEFT_OUT
