"""Commands of the data set."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from automation.commands.shared import (
    JSON,
    at_stack,
    of_a_group,
    print_json,
    print_rich,
    progress_bar,
    tell,
)

if TYPE_CHECKING:
    from trainer.data import Description

MOST_CLASSES = 20
"""In a table; --json has all."""
FILE = click.argument("file", type=click.Path(exists=True, path_type=Path))


@click.group(
    epilog="""\b
Examples:
  pushtrain data check flowers.zip
  pushtrain data push flowers.zip -s dev
"""
)
def data() -> None:
    """Check and upload what runs train on."""


@data.command(
    epilog="""\b
Examples:
  pushtrain data check flowers.zip
  pushtrain data check flowers.zip --json | jq .counts
"""
)
@FILE
@JSON
def check(file: Path, *, as_data: bool) -> None:
    """Tell what the trainer would make of a file: classes, counts, sizes.

    FILE is a zip of train/<class>/ and test/<class>/ images, the CIFAR-10 python batches, or an
    npz. Exit code 1 where the trainer would refuse it.
    """
    found = _checked(file)
    if as_data:
        print_json(found.as_json())
    else:
        _show(found)


@data.command(
    epilog="""\b
Examples:
  pushtrain data push flowers.zip -s dev
  pushtrain data push table.parquet -s dev --unchecked    for a trainer of your own
"""
)
@of_a_group
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--unchecked", is_flag=True, help="Upload whatever it is.")
@JSON
def push(
    name: str | None, project: Path | None, file: Path, *, unchecked: bool, as_data: bool
) -> None:
    """Check a data set, upload it, and start the runs that wait for one.

    Runs to come train on it; those that have begun keep the one that they began with.
    """
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    from automation import dataset

    with at_stack(name, project) as deployed:
        if not unchecked:
            found = _checked(file)
            tell(_in_short(found))
        columns = (
            TextColumn("upload"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with progress_bar(*columns) as progress:
            bar = progress.add_task("upload", total=file.stat().st_size)
            pushed = dataset.push(deployed, file, lambda count: progress.advance(bar, count))
    if as_data:
        print_json(pushed.as_json())
        return
    print(f"{file.name}: {pushed.size:,} bytes, version {pushed.version_id}")
    for run, state in pushed.runs.items():
        print(f"run {run}: {state}")
    if not pushed.runs:
        tell("no run waited for data; the next push trains on it")


def _checked(file: Path) -> "Description":
    from automation import dataset
    from automation.errors import StackError

    try:
        with progress_bar() as progress:
            bar = progress.add_task("reading", total=None)
            return dataset.check(
                file, lambda done, total: progress.update(bar, completed=done, total=total)
            )
    except StackError as error:
        raise click.ClickException(str(error)) from error


def _in_short(found: "Description") -> str:
    train, test = (sum(found.counts[split].values()) for split in ("train", "test"))
    colour = "RGB" if found.channels == 3 else "grey"
    return (
        f"{found.format}: {train:,} train and {test:,} test images of {len(found.classes)} "
        f"classes, {found.width}x{found.height} {colour}"
    )


def _show(found: "Description") -> None:
    from rich.table import Table
    from rich.text import Text

    print(_in_short(found))
    for remark in found.remarks:
        print(f"  {remark}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("CLASS")
    table.add_column("TRAIN", justify="right")
    table.add_column("TEST", justify="right")
    for label in found.classes[:MOST_CLASSES]:
        counts = (f"{found.counts[split][label]:,}" for split in ("train", "test"))
        table.add_row(Text(label), *counts)
    print_rich(table)
    if (more := len(found.classes) - MOST_CLASSES) > 0:
        tell(f"and {more} more classes: --json has them")
