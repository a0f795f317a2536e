"""What the commands have in common: options, talk on stderr, data on stdout, errors in a line."""

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
    from rich.console import Console, RenderableType
    from rich.progress import Progress as BarProgress
    from rich.progress import ProgressColumn

    from automation.deployed import Deployed
    from automation.progress import Progress
    from automation.stacks import Stack

WIDE = 1000
"""Columns for what is not to be wrapped: names are there to be copied."""

Command = TypeVar("Command", bound=Callable[..., Any])


STACK_HELP = "Name of the stack."
JSON = click.option("--json", "as_data", is_flag=True, help="Print the result as JSON.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def project_option(callback: Callable[..., Any] | None = None) -> Callable[[Command], Command]:
    """Give the option that says which project."""
    return click.option(
        "--project",
        type=click.Path(file_okay=False, path_type=Path),
        callback=callback,
        help="Folder with the Pulumi.yaml; by default that of this installation.",
    )


def of_a_stack(command: Command) -> Command:
    """Give a command the options that say which stack."""
    stack = click.option("-s", "--stack", "name", required=True, help=STACK_HELP)
    return stack(project_option()(command))


def from_the_group(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Take what a subcommand was not given from its group: `runs -s dev show RUN`, too."""
    if value is None and context.parent:
        return context.parent.params.get(parameter.name or "")
    return value


def of_a_group(command: Command) -> Command:
    """Give a group and its subcommands the options that say which stack, before or after."""
    stack = click.option("-s", "--stack", "name", callback=from_the_group, help=STACK_HELP)
    return stack(project_option(from_the_group)(command))


@contextlib.contextmanager
def at_stack(name: str | None, project: Path | None) -> "Generator[Deployed]":
    """Lend what is deployed of a stack; what goes wrong becomes one line."""
    if name is None:
        raise click.UsageError("Missing option '-s' / '--stack'.")
    from automation.aws import told_as
    from automation.errors import StackError

    try:
        with told_as(StackError):
            yield deployed(name, project)
    except StackError as error:
        raise click.ClickException(str(error)) from error


def deployed(name: str, project: Path | None) -> "Deployed":
    """Ask Pulumi where a stack's things are, and make what asks AWS about them."""
    with at_work(name, project, "outputs") as (stack, _):
        return stack.deployed()


@contextlib.contextmanager
def at_work(name: str, project: Path | None, title: str) -> "Generator[tuple[Stack, Progress]]":
    """Lend the stack and who tells of its events; what goes wrong becomes one line."""
    from automation.progress import Progress
    from automation.stacks import Stack, StackError

    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        with Progress(title) as watch:
            yield Stack(name, project=project), watch
    except StackError as error:
        raise click.ClickException(str(error)) from error
    finally:
        signal.signal(signal.SIGINT, before)


def ask(question: str) -> None:
    """Go on only with a yes; without a terminal nobody can give one."""
    if not sys.stdin.isatty():
        raise click.ClickException(f"nobody can answer {question!r} here; give --yes")
    click.confirm(question, abort=True, err=True)


def tell(text: str) -> None:
    """Write to stderr; nothing where there is nothing to say."""
    if text:
        click.echo(text, err=True)


def print_json(document: object) -> None:
    """Write data to stdout."""
    print(json.dumps(document, indent=2))


def print_rich(*parts: "RenderableType") -> None:
    """Write tables to stdout, in colour on a terminal; nothing is ever cut off."""
    with output() as console:
        for part in parts:
            console.print(part)


@contextlib.contextmanager
def output(width: int | None = WIDE) -> "Generator[Console]":
    """Lend a console of stdout: wide, unless its text is to be wrapped at a terminal's edge."""
    from rich.console import Console

    if sys.stdout.isatty():
        yield Console(width=width, highlight=False)
        return
    console = Console(width=WIDE, highlight=False)
    with console.capture() as captured:
        yield console
    # A table fills each line up with blanks.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def progress_bar(*columns: "ProgressColumn") -> "BarProgress":
    """Give a bar on stderr, which nobody sees where that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_outputs(found: Mapping[str, object], *, as_data: bool) -> None:
    """Write a stack's outputs to stdout, as JSON or as lines."""
    if as_data:
        print_json(dict(found))
    else:
        width = max(map(len, found), default=0)
        for name, value in sorted(found.items()):
            print(f"{name:<{width}}  {value}")


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    tell("stopping once what is in flight has ended; Ctrl-C again stops at once")
    raise KeyboardInterrupt
