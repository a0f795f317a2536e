"""The `pushtrain` command: talk goes to stderr, data to stdout."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from automation.commands import data, events, images, machine, params, runs, stack

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
EXIT_TERMINATED = 143


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `pushtrain demo`: it needs no AWS account, no Docker and no Pulumi CLI.",
)
def pushtrain() -> None:
    """Push an image, get a model."""


for _command in (
    *(machine.demo, machine.cloud, machine.doctor),
    *(stack.preview, stack.up, stack.outputs, stack.cost),
    *(stack.drift, stack.refresh, stack.destroy),
    *(images.push, images.train, data.data, params.params),
    *(runs.runs, runs.logs, runs.cancel, runs.promote, runs.report, runs.predict),
    events.redrive,
):
    pushtrain.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; Ctrl-C and SIGTERM end it in order, with the codes that a shell expects."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)  # a closed terminal
    try:
        code = pushtrain.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        hint = " See: pushtrain --help" if isinstance(error, click.UsageError) else ""
        sys.stderr.write(f"error: {error.format_message()}{hint}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our stdout has had enough, as `head` has; closing it must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_PIPE)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code or 0)  # what a command gave context.exit()


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
