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
    from automation.progress import Progress
    from automation.stacks import Stack

Command = TypeVar("Command", bound=Callable[..., Any])


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
