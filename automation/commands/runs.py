"""Commands that show runs, follow them and steer them."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from automation.commands.shared import (
    JSON,
    at_stack,
    of_a_group,
    of_a_stack,
    output,
    print_json,
    print_rich,
    progress_bar,
    tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from automation.deployed import Deployed
    from automation.follow import Line, Record
    from automation.runs import Records

STATES = ("WAITING", "CLAIMED", "STARTED", "SUCCEEDED", "FAILED", "CANCELLED")
MANY_RUNS = 200
"""From so many on, reading them is worth a bar."""
LOCAL_POLL_SECONDS = 0.2
POLL_SECONDS = 1.5
MOST_CLAIM_SECONDS = 60.0
RUN_HELP = "RUN is a run's id, a prefix that no other run has, its digest, or one of its tags."


@click.group(
    invoke_without_command=True,
    epilog="""\b
Examples:
  pushtrain runs -s dev
  pushtrain runs -s dev --state FAILED -n 5
  pushtrain runs -s dev --json | jq -r '.[] | select(.accuracy > 0.9) | .run'
  pushtrain runs show g-3f2a0c11d2e4 -s dev
""",
)
@of_a_group
@JSON
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(STATES, case_sensitive=False),
    help="Only runs in this state; may be given again.",
)
@click.option("-n", "--number", type=click.IntRange(1), help="Only so many, the newest.")
@click.pass_context
def runs(  # noqa: PLR0913 - each is an option
    context: click.Context,
    name: str | None,
    project: Path | None,
    *,
    as_data: bool,
    states: tuple[str, ...],
    number: int | None,
) -> None:
    """List the runs, the newest first: state, accuracy, duration, cost.

    A star marks the champion. A cost of two figures is on Spot, whose price changes: the first is
    with the whole discount, the second with none.
    """
    if context.invoked_subcommand:
        return
    from automation.runs import Records
    from automation.summary import summarise, table

    with at_stack(name, project) as deployed:
        records = Records(deployed)
        found = _read_all(records)
        champion = (records.champion() or {}).get("run")
    now = datetime.now(UTC)
    chosen = [each for each in found if not states or each["state"] in states][:number]
    rows = [summarise(each, now, champion) for each in chosen]
    if as_data:
        print_json([row.as_json() for row in rows])
        return
    if not rows:
        tell("no runs" if found else f"no runs yet: {deployed.command('push')}")
        return
    print_rich(table(rows, now))
    if unwell := next((row.run for row in rows if row.state in ("FAILED", "WAITING")), None):
        tell(f"why: {deployed.command(f'runs show {unwell}')}")


def _read_all(records: "Records") -> "list[Record]":
    names = records.names()
    with progress_bar() as progress:
        bar = progress.add_task("reading runs", total=len(names), visible=len(names) >= MANY_RUNS)
        found, faults = records.read_all(names, lambda: progress.advance(bar))
    for fault in faults:
        tell(f"left out: {fault}")
    return found


@runs.command(
    epilog="""\b
Examples:
  pushtrain runs show 3f2a -s dev
  pushtrain runs show g-3f2a0c11d2e4 -s dev --json | jq .timeline
"""
)
@of_a_group
@click.argument("run")
@JSON
def show(name: str | None, project: Path | None, run: str, *, as_data: bool) -> None:
    """Tell the whole story of a run, and what to do now."""
    from automation import story
    from automation.runs import Records

    with at_stack(name, project) as deployed:
        records = Records(deployed)
        record = records.find(run, tell)
        manifest = records.manifest(record["run"])
        champion = (records.champion() or {}).get("run") == record["run"]
        steps = story.next_steps(record, deployed, champion=champion)
    now = datetime.now(UTC)
    if as_data:
        print_json({**story.as_json(record, manifest, now), "champion": champion})
        return
    with output(width=None) as console:
        story.tell(console, record, manifest, now, champion=champion)
    tell("\n" + "\n".join(f"  {step}" for step in steps))


@click.command(
    epilog="""\b
Examples:
  pushtrain logs 3f2a -s dev
  pushtrain logs g-3f2a0c11d2e4 -s dev -f
  pushtrain logs 3f2a -s dev --attempt 1 --json | jq -r .text
"""
)
@of_a_stack
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--attempt", type=click.IntRange(1), help="Only this attempt's.")
@click.option("--json", "as_data", is_flag=True, help="Print each line as a JSON document.")
def logs(  # noqa: PLR0913 - each is an option
    name: str,
    project: Path | None,
    run: str,
    *,
    follow: bool,
    attempt: int | None,
    as_data: bool,
) -> None:
    """Print what a run's tasks have written, attempt after attempt.

    With --follow the exit code is the run's: 1 where it does not succeed.
    """
    from automation.runs import Records

    with at_stack(name, project) as deployed:
        records = Records(deployed)
        if follow:
            _wait_for_claim(records, run)
        record = records.find(run, tell)
        if attempt is not None and attempt > len(record["attempts"]) and not follow:
            raise click.ClickException(
                f"attempt must be one of {len(record['attempts'])}, got {attempt}"
            )
        write = _print_as_json if as_data else _print_text
        print_log(deployed, record["run"], write, follow=follow, attempt=attempt)


def _wait_for_claim(records: "Records", run: str) -> None:
    """Wait for the record of a run that `push` has named: its claim takes a second or two."""
    from automation.runs import RUN_NAME

    ends = time.monotonic() + MOST_CLAIM_SECONDS
    while RUN_NAME.fullmatch(run) and records.read(run) is None:
        if time.monotonic() > ends:
            raise click.ClickException(
                f"run {run} must be claimed within {MOST_CLAIM_SECONDS:g} s of its push, and was "
                "not: pushtrain redrive lists the pushes that failed"
            )
        time.sleep(LOCAL_POLL_SECONDS)


def print_log(
    deployed: "Deployed",
    run: str,
    write: "Callable[[Line], object]",
    *,
    follow: bool,
    attempt: int | None = None,
) -> None:
    """Write a run's lines as they come, to its end; raise where it then has not succeeded."""
    from automation.deployed import is_on_this_machine
    from automation.follow import TaskLog, lines
    from automation.runs import Records

    client = deployed.client("logs")
    news = _News(Records(deployed), run, say=follow)
    told = 0
    for line in lines(
        news.read,
        TaskLog(client, deployed.output("logGroup")),
        attempt=attempt,
        follow=follow,
        poll_seconds=LOCAL_POLL_SECONDS if is_on_this_machine(client) else POLL_SECONDS,
    ):
        if line.attempt != told and not follow and (told or line.attempt > 1):
            tell(f"attempt {line.attempt}:")
        told = line.attempt
        write(line)
    if follow:
        _raise_unless_succeeded(news.last, deployed)
    elif not told:
        tell(f"nothing written yet; to wait for it: {deployed.command(f'logs {run} -f')}")


def _print_text(line: "Line") -> None:
    print(line.text, flush=True)


def _print_as_json(line: "Line") -> None:
    from automation.summary import stamp

    document = {"attempt": line.attempt, "at": stamp(line.at), "text": line.text}
    print(json.dumps(document), flush=True)


class _News:
    """Reads a record again and again, and says what of it is new."""

    def __init__(self, records: "Records", run: str, *, say: bool) -> None:
        self.last: Record = {}
        self._records = records
        self._run = run
        self._say = say
        self._told = ""

    def read(self) -> "Record":
        found = self._records.read(self._run)
        if found is None:
            raise click.ClickException(f"run {self._run} must have a record, got none any more")
        self.last = found
        now = self._now()
        if self._say and now != self._told:
            self._told = now
            tell(now)
        return found

    def _now(self) -> str:
        from automation.follow import part
        from handler.cost import provider_of

        record, state = self.last, self.last["state"]
        if waiting := part(record, "waiting"):
            return f"waiting: {waiting['why']}; {waiting.get('detail', '')}".rstrip("; ")
        if not record["attempts"]:
            return "claimed"
        attempt = record["attempts"][-1]
        if state == "STARTED" and not attempt["stopped_at"]:
            return f"attempt {attempt['number']} on {provider_of(attempt)}"
        return self._told  # ended, or between two attempts: both are told of elsewhere


def _raise_unless_succeeded(record: "Record", deployed: "Deployed") -> None:
    from automation.follow import part
    from automation.summary import percent

    run, state = record["run"], record["state"]
    diagnosis = part(record, "diagnosis")
    if state == "SUCCEEDED":
        accuracy = percent(record["metrics"].get("accuracy"))
        tell(f"run {run} SUCCEEDED" + (f", accuracy {accuracy}" if accuracy else ""))
        return
    if state not in ("FAILED", "CANCELLED"):  # one attempt alone was followed
        return
    show_it = deployed.command(f"runs show {run}")
    why = diagnosis.get("summary") or "without a diagnosis"
    raise click.ClickException(f"run {run} {state}: {why}: {show_it}")


@click.command(
    epilog="""\b
Example:
  pushtrain cancel 3f2a -s dev --reason "wrong data"
"""
)
@of_a_stack
@click.argument("run")
@click.option("--reason", default="", help="For the record.")
@JSON
def cancel(name: str, project: Path | None, run: str, *, reason: str, as_data: bool) -> None:
    """Stop a run for good: it is never tried again.

    Its task has two minutes to end in order; the record says who cancelled it, and why.
    """
    from automation.requests import Handlers, caller
    from automation.runs import Records

    with at_stack(name, project) as deployed:
        record = Records(deployed).find(run, tell)
        detail = {"run": record["run"], "by": caller(deployed), "reason": reason}
        answer = Handlers(deployed).ask("reconcileFunction", "Cancel Request", detail)
    if answer["outcome"] == "known" and answer["state"] != "CANCELLED":
        raise click.ClickException(f"run {record['run']} must not be over, got {answer['state']}")
    if as_data:
        print_json(answer)
        return
    print(f"{answer['outcome']}: run {record['run']}, {answer.get('state', record['state'])}")
    tell("  " + deployed.command(f"runs show {record['run']}"))


@click.command(
    epilog="""\b
Example:
  pushtrain promote 3f2a -s dev --reason "smaller, and nearly as good"
"""
)
@of_a_stack
@click.argument("run")
@click.option("--reason", default="", help="For the record, and for who comes after you.")
@JSON
def promote(name: str, project: Path | None, run: str, *, reason: str, as_data: bool) -> None:
    """Make a run's model the champion by hand, whatever its metric says."""
    from automation.follow import part
    from automation.requests import Handlers, caller
    from automation.runs import Records

    with at_stack(name, project) as deployed:
        records = Records(deployed)
        record = records.find(run, tell)
        detail = {"run": record["run"], "by": caller(deployed), "reason": reason}
        answer = Handlers(deployed).ask("observeFunction", "Promote Request", detail)
        champion = records.champion() or {}
    if as_data:
        print_json({**answer, "champion": champion})
        return
    before = part(champion, "previous").get("run")
    print(f"{answer['outcome']}: run {record['run']}" + (f", before it {before}" if before else ""))


@click.command(
    epilog="""\b
Examples:
  pushtrain report 3f2a -s dev
  pushtrain report 3f2a -s dev -o report.html && open report.html
  pushtrain report 3f2a -s dev --markdown > comment.md
  pushtrain report 3f2a -s dev --markdown --against 91bc --json | jq -r .verdict
"""
)
@of_a_stack
@click.argument("run")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="By default report-<run>.html.",
)
@click.option(
    "--markdown",
    is_flag=True,
    help="Print a comment for a commit or pull request instead, whatever came of the run.",
)
@click.option(
    "--against",
    metavar="RUN",
    help="With --markdown: hold it against this run; by default the champion that it met.",
)
@JSON
def report(  # noqa: PLR0913 - each is an option
    name: str,
    project: Path | None,
    run: str,
    *,
    file: Path | None,
    markdown: bool,
    against: str | None,
    as_data: bool,
) -> None:
    """Fetch a run's report, one HTML file, and print where it lies now."""
    from automation.runs import Records

    if against and not markdown:
        raise click.UsageError("--against must come with --markdown.")
    if file and markdown:
        raise click.UsageError("--markdown prints: it must come without --output.")
    with at_stack(name, project) as deployed:
        records = Records(deployed)
        record = records.find(run, tell)
        if markdown:
            _print_comment(deployed, record, against, as_data=as_data)
            return
        body = records.document(f"runs/{record['run']}/report.html")
    if body is None:
        raise click.ClickException(
            f"run {record['run']} must have published a report.html, got none: it is "
            f"{record['state']}"
        )
    target = file or Path(f"report-{record['run']}.html")
    target.write_bytes(body)
    if as_data:
        print_json({"run": record["run"], "file": str(target), "size": len(body)})
    else:
        print(target)


def _print_comment(
    deployed: "Deployed", record: "Record", against: str | None, *, as_data: bool
) -> None:
    from automation import run_comment
    from automation.runs import Records

    records = Records(deployed)
    ours = run_comment.read(records, record)
    rival = run_comment.find_rival(records, ours, against or run_comment.CHAMPION)
    judgement = run_comment.judge(ours, rival)
    text = run_comment.comment(ours, judgement, deployed, datetime.now(UTC))
    if as_data:
        print_json({**judgement.as_json(record), "markdown": text})
    else:
        print(text, end="")


@click.command(
    epilog="""\b
Examples:
  pushtrain predict cat.jpg dog.png -s dev
  pushtrain predict cat.jpg -s dev --run 3f2a --top 3 --json
"""
)
@of_a_stack
@click.argument(
    "images",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option("--run", help=f"By default the champion. {RUN_HELP}")
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Classes.")
@click.option("--json", "as_data", is_flag=True, help="Print each answer as a JSON document.")
def predict(  # noqa: PLR0913 - each is an option
    name: str,
    project: Path | None,
    images: tuple[Path, ...],
    *,
    run: str | None,
    top: int,
    as_data: bool,
) -> None:
    """Classify images with the champion, or with a run's model."""
    import tempfile

    from automation import predict as models
    from automation.runs import Records

    with at_stack(name, project) as deployed, tempfile.TemporaryDirectory() as folder:
        records = Records(deployed)
        chosen = models.choose(records, deployed, run)
        model = models.fetch(records, chosen, Path(folder))
        tell(f"with the model of run {chosen}")
        for answer in models.predict(model, images):
            ranking = answer.ranking[:top]
            if as_data:
                document = answer.as_json(chosen)
                print(json.dumps({**document, "classes": document["classes"][:top]}))
            else:
                said = ", ".join(f"{label} {share:.1%}" for label, share in ranking)
                print(f"{answer.image}: {said}")
