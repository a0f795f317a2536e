"""Commands that bring images to a stack."""

import json
from pathlib import Path

import click

from automation.commands.shared import JSON, at_work, of_a_stack, print_json, tell

IMAGE_ARGS = "pushtrain:image.args"


@click.command(
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
    from automation import push as images

    with at_work(name, project, "push") as (stack, _):
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
            on_line=tell,
        )
    except images.PushError as error:
        raise click.ClickException(str(error)) from error
    if as_data:
        print_json(result.as_json())
    else:
        print("\n".join(result.lines()))
