"""Commands that make, change, look at and delete a stack."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from automation.commands.shared import (
    JSON,
    YES,
    ask,
    at_work,
    of_a_stack,
    print_json,
    print_outputs,
    tell,
)

if TYPE_CHECKING:
    from pulumi.automation import EngineEvent

    from automation.cost import Cost
    from automation.stacks import Stack

EXIT_DRIFT = 2
POLICY_PACK = click.option(
    "--policy-pack",
    "policy_packs",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with rules that it must keep to; may be given again.",
)


@click.command(
    epilog="""\b
Examples:
  pushtrain preview -s dev
  pushtrain preview -s dev --json | jq '.changes[] | select(.op == "replace")'
  pushtrain preview -s dev --policy-pack policy
  pushtrain preview -s dev --markdown > comment.md
"""
)
@of_a_stack
@JSON
@POLICY_PACK
@click.option(
    "--markdown",
    is_flag=True,
    help="Print it as one comment for a pull request, also when the preview fails.",
)
def preview(
    name: str,
    project: Path | None,
    *,
    as_data: bool,
    policy_packs: tuple[Path, ...],
    markdown: bool,
) -> None:
    """Tell what `up` would change, and change nothing."""
    from automation import progress

    if markdown:
        _print_comment(name, project, policy_packs)
        return
    with at_work(name, project, "preview") as (stack, watch):
        result = stack.preview(on_event=watch, policy_packs=policy_packs)
    if as_data:
        print_json(progress.as_json(result))
    else:
        tell("\n".join(progress.described(result.changes)))
    tell(progress.summary(result, planned=True))


@click.command(
    epilog="""\b
Examples:
  pushtrain up -s dev
  pushtrain up -s dev --yes --json > outputs.json
"""
)
@of_a_stack
@JSON
@POLICY_PACK
@YES
def up(
    name: str,
    project: Path | None,
    *,
    as_data: bool,
    policy_packs: tuple[Path, ...],
    yes: bool,
) -> None:
    """Create the stack, or change it into what program and settings say.

    Shows first what would change, and asks. Ctrl-C ends it in order: what is in flight is
    finished, and the next `up` goes on from there.
    """
    from automation import cost as prices
    from automation import progress

    if not yes:
        with at_work(name, project, "preview") as (stack, watch):
            stack.create()
            planned = stack.preview(on_event=watch, policy_packs=policy_packs)
        tell("\n".join(progress.described(planned.changes)))
        tell(progress.summary(planned, planned=True))
        ask(f"Change stack {name}?")
    try:
        with at_work(name, project, "up") as (stack, watch):
            result = stack.up(on_event=watch, policy_packs=policy_packs)
            try:
                idle = prices.in_a_line(_idle_cost(stack, stack.config()))
            except ValueError as error:
                idle = f"what it costs idle is unknown: {error}"
    except KeyboardInterrupt:
        tell(f"what was in flight is finished; to go on: pushtrain up -s {name}")
        raise
    tell(progress.summary(result))
    tell(idle)
    print_outputs(result.outputs, as_data=as_data)


@click.command(
    epilog="""\b
Examples:
  pushtrain destroy -s dev
  pushtrain destroy -s dev --yes && pulumi stack rm dev
"""
)
@of_a_stack
@YES
def destroy(name: str, project: Path | None, *, yes: bool) -> None:
    """Delete the stack's resources; running tasks are named first, and stopped.

    Task definitions that runs registered are deregistered too. What is to be kept stays in the
    account, and is named.
    """
    from automation import progress

    with at_work(name, project, "look") as (stack, _):
        stack.refuse_protected()
        running = stack.running_tasks()
    for task in running:
        tell(f"running: {task.run or task.arn}, {task.status}")
    if not yes:
        also = f", and stop {len(running)} running task(s)" if running else ""
        ask(f"Delete all resources of stack {name}{also}?")
    with at_work(name, project, "destroy") as (stack, watch):
        result = stack.destroy(on_event=watch)
    tell(progress.summary(result))
    for kept in result.retained:
        tell(f"kept in the account: {kept}")


@click.command(epilog="\b\nExample:\n  pushtrain refresh -s dev\n")
@of_a_stack
@YES
def refresh(name: str, project: Path | None, *, yes: bool) -> None:
    """Take into the state what has changed in the account behind its back."""
    from automation import progress

    if not yes:
        with at_work(name, project, "drift") as (stack, watch):
            changes = stack.drift(on_event=watch).changes
        tell("\n".join(progress.described(changes)) or "nothing has changed")
        if not changes:
            return
        ask(f"Take this into the state of stack {name}?")
    with at_work(name, project, "refresh") as (stack, watch):
        result = stack.refresh(on_event=watch)
    tell(progress.summary(result))


@click.command(
    epilog="""\b
Examples:
  pushtrain outputs -s dev
  pushtrain outputs -s dev --json | jq -r .bucket
"""
)
@of_a_stack
@JSON
def outputs(name: str, project: Path | None, *, as_data: bool) -> None:
    """Print where the stack's things are."""
    with at_work(name, project, "outputs") as (stack, _):
        found = stack.outputs()
    print_outputs(found, as_data=as_data)


@click.command(
    epilog="""\b
Example, for a scheduled job:
  pushtrain drift -s prod || notify-someone
"""
)
@of_a_stack
@JSON
@click.pass_context
def drift(context: click.Context, name: str, project: Path | None, *, as_data: bool) -> None:
    """Compare the state with the account, and change neither.

    Images included: a tag that the state knows and the registry does not. Exit code 0: no
    difference; 2: the difference is printed.
    """
    from automation import progress

    with at_work(name, project, "drift") as (stack, watch):
        found = stack.drift(on_event=watch)
    if as_data:
        changes = progress.changes_as_json(found.changes)
        print_json({"changes": changes, "images": list(found.images)})
    else:
        lines = progress.described(found.changes)
        lines += [f"missing  image {image}" for image in found.images]
        print("\n".join(lines), end="\n" if lines else "")
    tell("drift" if found else "no drift")
    context.exit(EXIT_DRIFT if found else 0)


@click.command(
    epilog="""\b
Examples:
  pushtrain cost -s dev
  pushtrain cost -s dev --json | jq .idle
"""
)
@of_a_stack
@JSON
def cost(name: str, project: Path | None, *, as_data: bool) -> None:
    """Tell what the stack costs idle, by the month, and what an hour of training costs."""
    from automation import cost as prices

    with at_work(name, project, "look") as (stack, _):
        config = stack.config()
        try:
            idle = _idle_cost(stack, config)
            hour = prices.run_cost(
                cpu=int(config.get("pushtrain:cpu", "2048")),
                memory=int(config.get("pushtrain:memory", "8192")),
                seconds=3600,
                architecture=config.get("pushtrain:architecture", "x86_64"),
                spot=config.get("pushtrain:spot", "true") == "true",
                region=idle.region,
                public_address=config.get("pushtrain:network", "public") == "public"
                or config.get("pushtrain:network.assignPublicIp") == "true",
            )
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    if as_data:
        print_json(prices.as_json(idle, hour))
    else:
        print(prices.render(idle, hour))


def _print_comment(name: str, project: Path | None, policy_packs: tuple[Path, ...]) -> None:
    """Print the preview as a comment; a failing one needs it most."""
    from automation.markdown import comment

    events: list[object] = []
    config: dict[str, str] = {}
    try:
        with at_work(name, project, "preview") as (stack, watch):
            config = stack.config()

            def on_event(event: "EngineEvent") -> None:
                events.append(event)
                watch(event)

            stack.preview(on_event=on_event, policy_packs=policy_packs)
    finally:
        region = config.get("aws:region", "")
        print(comment(events, stack=name, region=region, metrics=_has_metrics(config)))


def _idle_cost(stack: "Stack", config: dict[str, str]) -> "Cost":
    """Price what the stack has; a ValueError says that there are no prices of its region."""
    from automation import cost

    resources = cost.state_resources(stack.resources())
    return cost.idle_cost(resources, config.get("aws:region", ""), metrics=_has_metrics(config))


def _has_metrics(config: dict[str, str]) -> bool:
    return config.get("pushtrain:metrics") == "true"
