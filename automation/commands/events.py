"""Commands of events that failed."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from automation.commands.shared import JSON, at_stack, of_a_stack, print_json, tell

if TYPE_CHECKING:
    from automation.redrive import Outcome


@click.command(
    epilog="""\b
Examples:
  pushtrain redrive -s dev --dry-run
  pushtrain redrive -s dev
"""
)
@of_a_stack
@click.option("--dry-run", is_flag=True, help="List them, and change nothing.")
@JSON
@click.pass_context
def redrive(
    context: click.Context, name: str, project: Path | None, *, dry_run: bool, as_data: bool
) -> None:
    """Hand events that failed to their handler again: pushes, and ends of tasks.

    An event leaves its queue once the handler has dealt with it. Exit code 1 where one fails
    again; it stays for the next time.
    """
    from automation import redrive as events

    with at_stack(name, project) as deployed:
        outcomes = events.redrive(
            deployed, dry_run=dry_run, on_outcome=lambda each: None if as_data else _print(each)
        )
    failed = sum(each.outcome == "failed" for each in outcomes)
    if as_data:
        print_json([each.as_json() for each in outcomes])
    if not outcomes:
        tell("no event has failed")
    elif dry_run:
        tell(f"{len(outcomes)} to redrive: {deployed.command('redrive')}")
    else:
        tell(f"{len(outcomes) - failed} redriven, {failed} failed again")
    context.exit(1 if failed else 0)


def _print(each: "Outcome") -> None:
    done = " ".join(filter(None, [each.outcome, each.run, each.state]))
    print(f"{each.failed.queue}: {each.failed.about}")
    print(f"  had failed: {each.failed.why}")
    if each.outcome != "listed":
        print(f"  now: {done}" + (f": {each.reason}" if each.reason else ""))
