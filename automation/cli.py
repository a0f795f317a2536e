"""The `pushtrain` command: talk goes to stderr, data to stdout."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


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


def main() -> None:
    """Run the command; Ctrl-C and SIGTERM end it in order, with the codes that a shell expects."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        pushtrain.main(standalone_mode=False)
    except click.ClickException as error:
        hint = " See: pushtrain --help" if isinstance(error, click.UsageError) else ""
        sys.stderr.write(f"error: {error.format_message()}{hint}\n")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
