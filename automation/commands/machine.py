"""Commands that need no stack: a cloud on this machine, and what the machine lacks."""

from pathlib import Path

import click

from automation.commands.shared import JSON, print_json

DEFAULT_PORT = 4566


@click.command(
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
    from automation import demo as loop

    try:
        loop.run(loop.Options(data=data, json_file=json_file, output=output, keep=keep))
    except loop.DemoError as error:
        raise click.ClickException(str(error)) from error


@click.command(
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
    from automation import cloud as embedded

    try:
        embedded.serve(port, keep_state)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from error


@click.command(
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
    from rich.console import Console

    from automation import doctor as checks

    console = Console(stderr=True, highlight=False)
    found = checks.run_checks(
        name, on_check=lambda check: console.print(checks.line(check), soft_wrap=True)
    )
    if as_data:
        print_json(checks.as_json(found))
    context.exit(checks.exit_code(found))
