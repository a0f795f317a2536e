"""The `pushtrain` command: talk goes to stderr, data to stdout."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from pulumi.automation import EngineEvent

    from automation.progress import Progress
    from automation.stacks import Stack

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_DRIFT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
DEFAULT_PORT = 4566
IMAGE_ARGS = "pushtrain:image.args"


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `pushtrain demo`: it needs no AWS account, no Docker and no Pulumi CLI.",
)
def pushtrain() -> None:
    """Push an image, get a model."""


@pushtrain.command(
    epilog="""\b
Examples:
  pushtrain demo
  pushtrain demo --data cifar10.zip --json demo.json
  pushtrain demo --keep        then, in another terminal, aws or boto3
"""
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Data set to train on: a zip of train/<class>/ and test/<class>/ images, the CIFAR-10 "
    "python batches, or an npz. By default scikit-learn's digits.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write runs, accuracies and milliseconds of each station to this file too.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder that the models are copied to.",
)
@click.option("--keep", is_flag=True, help="Leave the cloud up afterwards, until Ctrl-C.")
def demo(data: Path | None, json_file: Path | None, output: Path, *, keep: bool) -> None:
    """Run the whole loop on an AWS cloud inside this process.

    Deploys the stack `dev`, pushes a trainer image, follows its training to the model; pushes a
    changed trainer, which is a second run, and the same again, which is none.
    """
    from automation import demo as loop  # noqa: PLC0415 - takes a second, --help none

    try:
        loop.run(loop.Options(data=data, json_file=json_file, output=output, keep=keep))
    except loop.DemoError as error:
        raise click.ClickException(str(error)) from error


def of_a_stack(command: Command) -> Command:
    """Give a command the options that say which stack."""
    stack = click.option("-s", "--stack", "name", required=True, help="Name of the stack.")
    project = click.option(
        "--project",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with the Pulumi.yaml; by default that of this installation.",
    )
    return stack(project(command))


JSON = click.option("--json", "as_data", is_flag=True, help="Print the result as JSON.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@pushtrain.command(
    epilog="""\b
Examples:
  pushtrain preview -s dev
  pushtrain preview -s dev --json | jq '.changes[] | select(.op == "replace")'
  pushtrain preview -s dev --markdown > comment.md
"""
)
@of_a_stack
@JSON
@click.option(
    "--markdown",
    is_flag=True,
    help="Print it as one comment for a pull request, also when the preview fails.",
)
def preview(name: str, project: Path | None, *, as_data: bool, markdown: bool) -> None:
    """Tell what `up` would change, and change nothing."""
    from automation import progress  # noqa: PLC0415 - takes a second, --help none

    if markdown:
        _print_comment(name, project)
        return
    with _at_work(name, project, "preview") as (stack, watch):
        result = stack.preview(on_event=watch)
    if as_data:
        _print_json(progress.as_json(result))
    else:
        _tell("\n".join(progress.described(result.changes)))
    _tell(progress.summary(result, planned=True))


@pushtrain.command(
    epilog="""\b
Examples:
  pushtrain up -s dev
  pushtrain up -s dev --yes --json > outputs.json
"""
)
@of_a_stack
@JSON
@YES
def up(name: str, project: Path | None, *, as_data: bool, yes: bool) -> None:
    """Create the stack, or change it into what program and settings say.

    Shows first what would change, and asks. Ctrl-C ends it in order: what is in flight is
    finished, and the next `up` goes on from there.
    """
    from automation import progress  # noqa: PLC0415 - takes a second, --help none

    if not yes:
        with _at_work(name, project, "preview") as (stack, watch):
            stack.create()
            planned = stack.preview(on_event=watch)
        _tell("\n".join(progress.described(planned.changes)))
        _tell(progress.summary(planned, planned=True))
        _ask(f"Change stack {name}?")
    try:
        with _at_work(name, project, "up") as (stack, watch):
            result = stack.up(on_event=watch)
            idle = _idle_cost(stack)
    except KeyboardInterrupt:
        _tell(f"what was in flight is finished; to go on: pushtrain up -s {name}")
        raise
    _tell(progress.summary(result))
    _tell(idle)
    _print_outputs(result.outputs, as_data=as_data)


@pushtrain.command(
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
    from automation import progress  # noqa: PLC0415 - takes a second, --help none

    with _at_work(name, project, "look") as (stack, _):
        stack.refuse_protected()
        running = stack.running_tasks()
    for task in running:
        _tell(f"running: {task.run or task.arn}, {task.status}")
    if not yes:
        also = f", and stop {len(running)} running task(s)" if running else ""
        _ask(f"Delete all resources of stack {name}{also}?")
    with _at_work(name, project, "destroy") as (stack, watch):
        result = stack.destroy(on_event=watch)
    _tell(progress.summary(result))
    for kept in result.retained:
        _tell(f"kept in the account: {kept}")


@pushtrain.command(epilog="\b\nExample:\n  pushtrain refresh -s dev\n")
@of_a_stack
@YES
def refresh(name: str, project: Path | None, *, yes: bool) -> None:
    """Take into the state what has changed in the account behind its back."""
    from automation import progress  # noqa: PLC0415 - takes a second, --help none

    if not yes:
        with _at_work(name, project, "drift") as (stack, watch):
            changes = stack.drift(on_event=watch).changes
        _tell("\n".join(progress.described(changes)) or "nothing has changed")
        if not changes:
            return
        _ask(f"Take this into the state of stack {name}?")
    with _at_work(name, project, "refresh") as (stack, watch):
        result = stack.refresh(on_event=watch)
    _tell(progress.summary(result))


@pushtrain.command(
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
    with _at_work(name, project, "outputs") as (stack, _):
        found = stack.outputs()
    _print_outputs(found, as_data=as_data)


@pushtrain.command(
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
    from automation import progress  # noqa: PLC0415 - takes a second, --help none

    with _at_work(name, project, "drift") as (stack, watch):
        found = stack.drift(on_event=watch)
    if as_data:
        changes = progress.changes_as_json(found.changes)
        _print_json({"changes": changes, "images": list(found.images)})
    else:
        lines = progress.described(found.changes)
        lines += [f"missing  image {image}" for image in found.images]
        print("\n".join(lines), end="\n" if lines else "")
    _tell("drift" if found else "no drift")
    context.exit(EXIT_DRIFT if found else 0)


@pushtrain.command(
    epilog="""\b
Examples:
  pushtrain push -s dev
  pushtrain push -s dev ../my-trainer --json | jq -r .run
"""
)
@of_a_stack
@click.argument(
    "context", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--dirty", is_flag=True, help="Push files that differ from their commit, too.")
@JSON
def push(
    name: str, project: Path | None, context: Path | None, *, dirty: bool, as_data: bool
) -> None:
    """Build a trainer image and push it as g-<commit>, without touching the infrastructure.

    CONTEXT is a folder with a Dockerfile; by default the stack's own. A tag that is there already
    is success, and shows its run.
    """
    from automation import push as images  # noqa: PLC0415 - takes a second, --help none

    with _at_work(name, project, "push") as (stack, _):
        outputs, session = stack.outputs(), stack.session()
        config = stack.config()
        root = stack.project
    own = root / config.get("pushtrain:image.context", "trainer")
    arguments = dict(pair.split("=", 1) for pair in json.loads(config.get(IMAGE_ARGS, "[]")))
    try:
        result = images.push(
            context or own,
            outputs=outputs,
            session=session,
            dirty=dirty,
            build_args=arguments,
            on_line=_tell,
        )
    except images.PushError as error:
        raise click.ClickException(str(error)) from error
    if as_data:
        _print_json(result.as_json())
    else:
        print("\n".join(result.lines()))


@pushtrain.command(
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
    from automation import cost as prices  # noqa: PLC0415 - takes a second, --help none

    with _at_work(name, project, "look") as (stack, _):
        resources = prices.state_resources({"deployment": {"resources": stack.resources()}})
        config = stack.config()
    region = config.get("aws:region", "")
    try:
        idle = prices.idle_cost(resources, region)
        hour = prices.run_cost(
            cpu=int(config.get("pushtrain:cpu", "2048")),
            memory=int(config.get("pushtrain:memory", "8192")),
            seconds=3600,
            architecture=config.get("pushtrain:architecture", "x86_64"),
            spot=config.get("pushtrain:spot", "true") == "true",
            region=region,
        )
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if as_data:
        _print_json(prices.as_json(idle, hour))
    else:
        print(prices.render(idle, hour))


@pushtrain.command(
    epilog="""\b
Examples:
  pushtrain doctor
  pushtrain doctor -s prod --json
"""
)
@click.option("-s", "--stack", "name", help="Look at what this stack's file asks for, too.")
@JSON
@click.pass_context
def doctor(context: click.Context, name: str | None, *, as_data: bool) -> None:
    """Tell what is missing on this machine or in this account, and how to get it.

    Exit code 1 when something is.
    """
    from rich.console import Console  # noqa: PLC0415 - as below

    from automation import doctor as checks  # noqa: PLC0415 - takes a second, --help none

    console = Console(stderr=True, highlight=False)
    found = checks.run_checks(
        name, on_check=lambda check: console.print(checks.line(check), soft_wrap=True)
    )
    if as_data:
        _print_json(checks.as_json(found))
    context.exit(checks.exit_code(found))


@pushtrain.command(
    epilog="""\b
Example, in two terminals:
  pushtrain cloud                      copy the export lines that it prints
  pulumi stack init local && pushtrain up -s local
"""
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of 127.0.0.1; Pulumi.local.yaml names the default.",
)
@click.option(
    "--keep-state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to keep the cloud and Pulumi's state in, from one run to the next.",
)
def cloud(port: int, keep_state: Path | None) -> None:
    """Run an AWS cloud on this machine until Ctrl-C, for the stack `local`."""
    from automation import cloud as embedded  # noqa: PLC0415 - takes a second, --help none

    try:
        embedded.serve(port, keep_state)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _at_work(name: str, project: Path | None, title: str) -> "Generator[tuple[Stack, Progress]]":
    """Lend the stack and who tells of its events; what goes wrong becomes one line."""
    from automation.progress import Progress  # noqa: PLC0415 - takes a second, --help none
    from automation.stacks import Stack, StackError  # noqa: PLC0415 - as above

    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        with Progress(title) as watch:
            yield Stack(name, project=project), watch
    except StackError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGINT, before)


def _print_comment(name: str, project: Path | None) -> None:
    """Print the preview as a comment; a failing one needs it most."""
    from automation.markdown import comment  # noqa: PLC0415 - takes a second, --help none

    events: list[object] = []
    region = ""
    try:
        with _at_work(name, project, "preview") as (stack, watch):
            region = stack.config().get("aws:region", "")

            def on_event(event: "EngineEvent") -> None:
                events.append(event)
                watch(event)

            stack.preview(on_event=on_event)
    finally:
        print(comment(events, stack=name, region=region))


def _idle_cost(stack: "Stack") -> str:
    """Say what the stack costs while nothing runs; nothing where its region has no prices here."""
    from automation import cost  # noqa: PLC0415 - takes a second, --help none

    region = stack.config().get("aws:region", "")
    if region not in cost.regions():
        return ""
    resources = cost.state_resources({"deployment": {"resources": stack.resources()}})
    monthly = cost.dollars(cost.idle_cost(resources, region).monthly)
    return f"idle, it costs {monthly} a month and what it stores"


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise click.ClickException(f"nobody can answer {question!r} here; give --yes")
    click.confirm(question, abort=True, err=True)


def _tell(text: str) -> None:
    if text:
        click.echo(text, err=True)


def _print_json(document: object) -> None:
    print(json.dumps(document, indent=2))


def _print_outputs(found: Mapping[str, object], *, as_data: bool) -> None:
    if as_data:
        _print_json(dict(found))
    else:
        width = max(map(len, found), default=0)
        for name, value in sorted(found.items()):
            print(f"{name:<{width}}  {value}")


def main() -> None:
    """Run the command; Ctrl-C and SIGTERM end it in order, with the codes that a shell expects."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)  # a closed terminal
    try:
        code = pushtrain.main(standalone_mode=False)
    except click.ClickException as error:
        hint = " See: pushtrain --help" if isinstance(error, click.UsageError) else ""
        sys.stderr.write(f"error: {error.format_message()}{hint}\n")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code or 0)  # what a command gave context.exit()


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    _tell("stopping once what is in flight has ended; Ctrl-C again stops at once")
    raise KeyboardInterrupt


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
