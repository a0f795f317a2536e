"""Commands of run parameters: the user's own, which no deployment reverts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from automation.commands.shared import JSON, at_stack, of_a_group, print_json, print_rich, tell

if TYPE_CHECKING:
    from automation.params import Parameters


@click.group(
    epilog="""\b
Examples:
  pushtrain params set epochs=20 lr=1e-3 -s dev
  pushtrain params get -s dev
  pushtrain params unset lr -s dev
"""
)
def params() -> None:
    """Show and change what runs to come are trained with.

    They go over the stack's own (pushtrain:parameters), at once and without a deployment. A run
    keeps those that it was claimed with.
    """


@params.command(
    epilog="""\b
Examples:
  pushtrain params get -s dev
  pushtrain params get epochs -s dev
"""
)
@of_a_group
@click.argument("parameter", required=False)
@JSON
def get(name: str | None, project: Path | None, parameter: str | None, *, as_data: bool) -> None:
    """Print all parameters and where each is from, or the value of one."""
    from automation.params import Store

    with at_stack(name, project) as deployed:
        found = Store(deployed).read()
    if parameter is None:
        _show(found, as_data=as_data)
        return
    if parameter not in found.effective:
        raise click.ClickException(
            f"parameter must be one of {', '.join(sorted(found.effective)) or 'none'}, "
            f"got {parameter!r}; the trainer's own defaults are not listed here"
        )
    value = found.effective[parameter]
    if as_data:
        print_json({"name": parameter, "value": value})
    else:
        print(value)


@params.command(
    name="set", epilog="\b\nExample:\n  pushtrain params set epochs=20 lr=1e-3 -s dev\n"
)
@of_a_group
@click.argument("pairs", nargs=-1, required=True, metavar="NAME=VALUE...")
@JSON
def set_(name: str | None, project: Path | None, pairs: tuple[str, ...], *, as_data: bool) -> None:
    """Set parameters; those that are not named stay as they are."""
    from automation.params import Store
    from automation.params import pairs as taken_apart

    with at_stack(name, project) as deployed:
        changed = Store(deployed).change(taken_apart(pairs))
    _show(changed, as_data=as_data)


@params.command(epilog="\b\nExample:\n  pushtrain params unset epochs lr -s dev\n")
@of_a_group
@click.argument("parameters", nargs=-1, required=True, metavar="NAME...")
@JSON
def unset(
    name: str | None, project: Path | None, parameters: tuple[str, ...], *, as_data: bool
) -> None:
    """Take parameters away, so that the stack's own hold again."""
    from automation.params import Store

    with at_stack(name, project) as deployed:
        changed = Store(deployed).change(without=parameters)
    _show(changed, as_data=as_data)


def _show(found: "Parameters", *, as_data: bool) -> None:
    if as_data:
        print_json(found.as_json())
        return
    if not found.effective:
        tell("no parameters: the trainer's own defaults hold")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("NAME", "VALUE", "FROM", box=None, pad_edge=False, header_style="dim")
    for parameter, value in sorted(found.effective.items()):
        default = found.defaults.get(parameter)
        where = "params set" if parameter in found.own else "the stack"
        if parameter in found.own and default is not None:
            where += f", over {default} of the stack"
        table.add_row(Text(parameter), Text(value), Text(where))
    print_rich(table)
