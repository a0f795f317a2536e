"""The `pushtrain` command: talk goes to stderr, data to stdout."""

import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from automation.commands import images, machine, stack

EXIT_INTERRUPTED = 130
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
    images.push,
):
    pushtrain.add_command(_command)


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


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
