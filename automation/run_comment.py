"""One Markdown comment on how a training went, for the commit or pull request that caused it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, cast
from urllib.parse import quote

from automation.comments import Section, Writer, fit, watermark
from automation.deployed import Deployed
from automation.follow import Record, part
from automation.runs import Records, RunError
from automation.summary import percent, span, summarise
from handler.champion import tested_on
from handler.cost import provider_of
from handler.manifest import is_number

CHAMPION: Final = "champion"
MOST_METRICS: Final = 20
MOST_CLASSES: Final = 8
LEAST_CHANGE: Final = 0.005
"""Of a class's accuracy; a smaller one is not worth a line."""
MOST_BARS: Final = 60
BARS: Final = "▁▂▃▄▅▆▇█"
COMMIT_TAG = re.compile(r"g-([0-9a-f]{7,40})(-dirty(?:-\w+)?)?")
"""docs/run-record.md; a tag of another form names no commit."""

Verdict: TypeAlias = Literal[
    "better", "worse", "equal", "first", "incomparable", "failed", "cancelled", "open"
]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run, and what it left."""

    record: Record
    manifest: Mapping[str, Any]
    """Empty where it left none."""
    figures: Mapping[str, Any]
    """Its metrics.json, empty where it left none."""

    @property
    def run(self) -> str:
        """Its name."""
        return self.record["run"]

    @property
    def metrics(self) -> dict[str, float]:
        """What can be compared as one number."""
        published = part(self.manifest, "metrics")
        return {name: value for name, value in published.items() if is_number(value)}


@dataclass(frozen=True, kw_only=True)
class Rival:
    """What a run is held against."""

    word: str
    """champion, or run."""
    run: str
    trained: Trained | None
    """None where nothing of it can be read any more."""

    def value(self, metric: str) -> float | None:
        """Return its value of a metric, None where it has none."""
        return self.trained.metrics.get(metric) if self.trained else None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How a run did."""

    verdict: Verdict
    metric: str
    value: float | None
    rival: Rival | None
    reason: str
    """Why the two cannot be compared."""

    def as_json(self, record: Record) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "run": record["run"],
            "state": record["state"],
            "verdict": self.verdict,
            "metric": self.metric,
            "value": self.value,
            "against": {"run": self.rival.run, "value": self.rival.value(self.metric)}
            if self.rival
            else None,
            "reason": self.reason or None,
            "promotion": part(record, "promotion").get("decision"),
        }


def read(records: Records, record: Record) -> Trained:
    """Read what a run left; never fail for what it wrote itself."""
    run = record["run"]
    return Trained(
        record=record,
        manifest=_or_nothing(records, f"runs/{run}/manifest.json"),
        figures=_or_nothing(records, f"runs/{run}/metrics.json"),
    )


def find_rival(records: Records, ours: Trained, against: str) -> Rival | None:
    """Read whom a run is held against: the champion, which is none to itself, or another run.

    The champion is the one that the run met at its end, as its record has it: whoever came since
    is not what the push was up against.
    """
    if against != CHAMPION:
        theirs = read(records, records.find(against))
        return Rival(word="run", run=theirs.run, trained=theirs)
    promotion = ours.record.get("promotion")
    met = promotion["champion"] if promotion else _or_nothing(records, "models/champion.json")
    if not met or met["run"] == ours.run:
        return None
    try:
        record = records.read(met["run"])
    except RunError:
        record = None
    return Rival(
        word=CHAMPION,
        run=met["run"],
        trained=read(records, record) if record else None,
    )


def judge(ours: Trained, rival: Rival | None) -> Judgement:
    """Say how a run did, by the stack's own metric and on the same test data only."""
    record = ours.record
    metric = record["wiring"]["champion_metric"]
    value = ours.metrics.get(metric)

    def judged(verdict: Verdict, reason: str = "") -> Judgement:
        return Judgement(verdict=verdict, metric=metric, value=value, rival=rival, reason=reason)

    if record["state"] != "SUCCEEDED":
        verdicts: dict[str, Verdict] = {"FAILED": "failed", "CANCELLED": "cancelled"}
        return judged(verdicts.get(record["state"], "open"))
    if value is None:
        return judged("incomparable", f"the run published no {metric}")
    if rival is None:
        # Where the champion could not be read, it stays, and nobody knows who it is.
        kept = part(record, "promotion").get("decision") == "kept"
        return judged("incomparable", record["promotion"]["reason"]) if kept else judged("first")
    if reason := _incomparable(ours, rival, metric):
        return judged("incomparable", reason)
    theirs = cast("float", rival.value(metric))
    if value == theirs:
        return judged("equal")
    more = record["wiring"]["champion_goal"] == "max"
    return judged("better" if (value > theirs) == more else "worse")


def comment(ours: Trained, judgement: Judgement, deployed: Deployed, now: datetime) -> str:
    """Return the comment, result first; its first line finds an older one on the same run."""
    writer = Writer()
    record = ours.record
    same = judgement.rival if judgement.verdict in ("better", "worse", "equal") else None
    theirs = same.trained if same else None
    head = [
        watermark("run", deployed.stack, ours.run),
        _title(record, judgement, writer),
        *_why(record, writer),
        *_verdict(ours, judgement, writer),
        _effort(record, deployed, now, writer),
    ]
    tail = _tail(record)
    sections = [
        Section("Metrics", _metrics(ours, judgement, theirs, writer)),
        Section(*_classes(ours, same, writer)),
        Section("While training", _curves(ours, same, writer)),
        Section("What ECS and the log say", [writer.text_block(tail)] if tail else []),
        Section("Attempts", _attempts(record, writer)),
        Section("Where it comes from", _origin(ours, writer), folded=True),
        Section("Where to look", _places(ours, deployed, writer)),
    ]
    return fit("\n\n".join(filter(None, head)), sections)


def _or_nothing(records: Records, key: str) -> Mapping[str, Any]:
    try:
        return records.parsed(key) or {}
    except RunError:
        return {}


def _incomparable(ours: Trained, rival: Rival, metric: str) -> str:
    """Say why two runs cannot be held against each other; empty if they can."""
    if rival.trained is None:
        return f"nothing is left of the {rival.word}"
    if rival.value(metric) is None:
        return f"the {rival.word} has no {metric}"
    mine, other = (
        # The same three that decide who becomes champion.
        tested_on(cast("Any", one.record), dict(one.manifest))
        for one in (ours, rival.trained)
    )
    for kind in ("test_sha256", "sha256", "etag"):
        if mine[kind] and other[kind]:
            return "" if mine[kind] == other[kind] else "the two were tested on other data"
    return "nothing tells whether the two were tested on the same data"


# The parts of the comment


def _title(record: Record, judgement: Judgement, writer: Writer) -> str:
    what = writer.code([*record["image"]["tags"], record["run"]][0])
    figure = f"{_named(judgement.metric, writer)} {_number(judgement.metric, judgement.value)}"
    rival = judgement.rival
    against = (
        f"{rival.word} {_number(judgement.metric, rival.value(judgement.metric))}" if rival else ""
    )
    return {
        "better": f"## ✅ {what} is better: {figure}, {against}",
        "worse": f"## 🔻 {what} is worse: {figure}, {against}",
        "equal": f"## {what} is as good: {figure}, {against}",
        "first": f"## ✅ {what} is trained: {figure}, nothing to compare with",
        "incomparable": f"## {what} is trained, and cannot be compared"
        + (f": {figure}" if judgement.value is not None else ""),
        "failed": f"## ❌ Training of {what} failed",
        "cancelled": f"## Training of {what} was cancelled",
        "open": f"## Training of {what} is not over",
    }[judgement.verdict]


def _verdict(ours: Trained, judgement: Judgement, writer: Writer) -> Iterator[str]:
    rival, metric = judgement.rival, judgement.metric
    other = rival.value(metric) if rival else None
    named = f"{rival.word} {writer.code(rival.run)}" if rival else ""
    match judgement.verdict:
        case "better" | "worse" | "equal" if judgement.value is not None and other is not None:
            change = _change(metric, judgement.value - other)
            yield f"**{change}** against {named}, on {_test(ours, writer)} for both."
        case "incomparable":
            against = f" with {named}" if rival else ""
            yield f"Not comparable{against}: {writer.code(judgement.reason)}."
        case "first":
            yield f"On {_test(ours, writer)}."
        case "failed" if rival and rival.word == CHAMPION:
            figure = f": {_named(metric, writer)} {_number(metric, other)}" if other else ""
            yield f"The champion stays run {writer.code(rival.run)}{figure}."
        case _:
            pass
    if promotion := part(ours.record, "promotion"):
        word = {"promoted": "It became the champion", "kept": "The champion stays"}
        yield f"{word[promotion['decision']]}: {writer.code(promotion['reason'])}."


def _test(ours: Trained, writer: Writer) -> str:
    data = part(ours.manifest, "data")
    images = data.get("test")
    count = f"{images:,} test images" if isinstance(images, int) else "the same test data"
    digest = str(data.get("test_sha256") or "")[:12]
    return f"{count} ({writer.code(f'sha256 {digest}')})" if digest else count


def _effort(record: Record, deployed: Deployed, now: datetime, writer: Writer) -> str:
    row = summarise(record, now)
    tries = f"{row.attempts} attempt{'s' if row.attempts != 1 else ''}"
    facts = [
        f"run {writer.code(record['run'])} of stack {writer.code(deployed.stack)}",
        f"**{span(row.seconds)}**" if row.seconds is not None else "",
        tries,
        f"**{row.spent}** by list prices"
        if row.spent
        else f"its cost is unknown: {writer.code(row.cost.get('why', ''))}",
    ]
    return " · ".join(filter(None, facts))


def _why(record: Record, writer: Writer) -> Iterator[str]:
    diagnosis = part(record, "diagnosis")
    if record["state"] == "SUCCEEDED" or not diagnosis:
        if waiting := part(record, "waiting"):
            yield f"It waits for {writer.code(waiting['why'])}: {writer.code(waiting['detail'])}"
        return
    yield f"**What happened:** {writer.code(diagnosis['summary'])}"
    if diagnosis["action"]:
        yield f"**What to do:** {writer.code(diagnosis['action'])}"


def _metrics(
    ours: Trained, judgement: Judgement, theirs: Trained | None, writer: Writer
) -> list[str]:
    names = sorted(ours.metrics, key=lambda name: (name != judgement.metric, name))[:MOST_METRICS]
    if not names:
        return []
    if theirs is None:
        return [
            _table(
                ("metric", "this run"),
                [(writer.cell(name), _number(name, ours.metrics[name])) for name in names],
            )
        ]
    rows: list[tuple[str, ...]] = []
    for name in names:
        mine, other = ours.metrics[name], theirs.metrics.get(name)
        change = "" if other is None else _change(name, mine - other)
        rows.append((writer.cell(name), _number(name, mine), _number(name, other), change))
    word = cast("Rival", judgement.rival).word
    return [_table(("metric", "this run", word, "change"), rows)]


def _classes(ours: Trained, rival: Rival | None, writer: Writer) -> tuple[str, list[str]]:
    mine = _per_class(ours)
    other = _per_class(rival.trained) if rival and rival.trained else {}
    if rival and mine and set(mine) == set(other):
        word = rival.word
        moved = sorted(mine, key=lambda name: -abs(mine[name] - other[name]))
        told = [name for name in moved if abs(mine[name] - other[name]) >= LEAST_CHANGE]
        rows = [
            (
                writer.cell(name),
                percent(mine[name]),
                percent(other[name]),
                _change("accuracy", mine[name] - other[name]),
            )
            for name in told[:MOST_CLASSES]
        ]
        title = "Classes that changed"
        chunks = [_table(("class", "this run", word, "change"), rows)] if rows else []
        left = len(mine) - len(rows)
        if rows and left:
            chunks.append(f"{left} more changed less.")
        return title, chunks
    worst = sorted(mine, key=lambda name: mine[name])[:MOST_CLASSES]
    rows = [(writer.cell(name), percent(mine[name])) for name in worst]
    title = "Classes it knows least" if len(mine) > len(worst) else "Classes"
    return title, [_table(("class", "accuracy"), rows)] if rows else []


def _per_class(trained: Trained) -> dict[str, float]:
    found = trained.figures.get("per_class")
    if not isinstance(found, dict):
        return {}
    classes = cast("dict[str, Any]", found)
    return {
        name: entry["accuracy"]
        for name, entry in classes.items()
        if isinstance(entry, dict) and is_number(cast("dict[str, Any]", entry).get("accuracy"))
    }


def _curves(ours: Trained, rival: Rival | None, writer: Writer) -> list[str]:
    """Draw the course of both on one scale; blocks of text, since a comment shows no file."""
    lines: list[str] = []
    for what in ("accuracy", "loss"):
        curves = {"this run": _course(ours, what)}
        if rival and rival.trained:
            curves[rival.word] = _course(rival.trained, what)
        curves = {name: course for name, course in curves.items() if len(course) > 1}
        if "this run" not in curves:
            continue
        values = [value for course in curves.values() for value in course]
        width = max(map(len, curves))
        count = min(max(map(len, curves.values())), MOST_BARS)
        lines += ["", what] if lines else [what]
        for name, course in curves.items():
            ends = f"{_number(what, course[0])} → {_number(what, course[-1])}"
            bars = _bars(course, min(values), max(values))
            lines.append(f"  {name:<{width}}  {bars:<{count}}  {ends}, {len(course)} epochs")
    return [writer.block(lines, "text")] if lines else []


def _course(trained: Trained, what: str) -> list[float]:
    epochs = trained.figures.get("epochs")
    rows = cast("list[Any]", epochs) if isinstance(epochs, list) else []
    found = [cast("dict[str, Any]", row).get(what) for row in rows if isinstance(row, dict)]
    return [cast("float", value) for value in found if is_number(value)]


def _bars(course: Sequence[float], least: float, most: float) -> str:
    """Draw a curve as one line; of more epochs than fit, those at even distances."""
    count = min(len(course), MOST_BARS)
    shown = [course[round(at * (len(course) - 1) / max(count - 1, 1))] for at in range(count)]
    scale = (len(BARS) - 1) / (most - least) if most > least else 0
    return "".join(BARS[round((value - least) * scale)] for value in shown)


def _attempts(record: Record, writer: Writer) -> list[str]:
    """Tell of each attempt, where there was more than the one that did it."""
    attempts: list[Mapping[str, Any]] = record["attempts"]
    if len(attempts) < 2:
        return []
    told: list[str] = []
    for attempt in attempts:
        diagnosis = part(attempt, "diagnosis")
        end = attempt["failure"] or diagnosis.get("summary")
        if not end:
            code = attempt["exit_code"]
            end = "at work" if not attempt["stopped_at"] else f"exit code {code}"
        told.append(f"- {writer.code(provider_of(attempt))}: {writer.code(end)}")
    return told


def _tail(record: Record) -> str:
    return "" if record["state"] == "SUCCEEDED" else part(record, "diagnosis").get("detail", "")


def _origin(ours: Trained, writer: Writer) -> list[str]:
    record, manifest = ours.record, ours.manifest
    data, lineage = part(manifest, "data"), part(manifest, "lineage")
    warm_start = part(lineage, "warm_start")
    facts = [
        ("image", record["image"]["digest"]),
        ("tags", ", ".join(record["image"]["tags"])),
        ("data", f"{part(record, 'data')['key']} version {part(record, 'data')['version_id']}")
        if record.get("data")
        else ("data", ""),
        ("data, SHA-256", str(data.get("sha256") or "")),
        ("started from", f"run {warm_start['run']}" if warm_start.get("run") else ""),
        (
            "parameters",
            " ".join(f"{name}={value}" for name, value in sorted(record["parameters"].items())),
        ),
    ]
    told = [f"- {name}: {writer.code(value)}" for name, value in facts if value]
    commits = filter(None, map(COMMIT_TAG.fullmatch, record["image"]["tags"]))
    # As it stands, since GitHub makes a link of a commit's hash, but not of one in code.
    return [
        f"- commit {found[1]}{', with changes' if found[2] else ''}" for found in commits
    ] + told


def _places(ours: Trained, deployed: Deployed, writer: Writer) -> list[str]:
    """Name places that need a login of their own: a link that lets in would let everybody in."""
    run, bucket = ours.run, ours.record["wiring"]["bucket"]
    _, partition, _, region, *_ = f"{ours.record['wiring']['cluster']}::::".split(":")
    places = [f"- {writer.code(deployed.command(f'runs show {run}'))}: the whole story"]
    if "report.html" in part(ours.manifest, "files"):
        key = f"runs/{run}/report.html"
        link = ""
        if partition == "aws":
            console = f"https://{quote(region)}.console.aws.amazon.com/s3/object/{quote(bucket)}"
            link = f", [in the console]({console}?region={quote(region)}&prefix={quote(key)})"
        command = writer.code(deployed.command(f"report {run}"))
        places.insert(0, f"- {command}: the report, {writer.code(f's3://{bucket}/{key}')}{link}")
    if ours.record["state"] != "SUCCEEDED":
        places.append(f"- {writer.code(deployed.command(f'logs {run}'))}: its log")
    return places


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    border = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, border, *rows))


def _named(metric: str, writer: Writer) -> str:
    return metric if metric.isalpha() else writer.code(metric)


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return percent(value) if _is_fraction(metric) else f"{value:.4g}"


def _change(metric: str, difference: float) -> str:
    if _is_fraction(metric):
        return f"{difference * 100:+.2f} points"
    return f"{difference:+.4g}"


def _is_fraction(metric: str) -> bool:
    # By docs/run-record.md; of other metrics nothing is known.
    return metric == "accuracy"
