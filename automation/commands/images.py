"""Commands that bring images to a stack."""

import json
from pathlib import Path

import click

from automation.commands.shared import JSON, at_stack, at_work, of_a_stack, print_json, tell

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
IMAGE_ARGS = "pushtrain:image.args"
IMAGE_BUILD = "pushtrain:image.build"


@click.command(
    epilog="""\b
Examples:
  pushtrain push -s dev
  pushtrain push -s dev ../my-trainer --json | jq -r .run
  pushtrain push -s dev --dry-run --json | jq -r .image
"""
)
@of_a_stack
@click.argument(
    "context", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--dirty", is_flag=True, help="Push files that differ from their commit, too.")
@click.option(
    "--dry-run", is_flag=True, help="Tell what would be built, for a build by other means."
)
@JSON
def push(  # noqa: PLR0913 - each is an option
    name: str,
    project: Path | None,
    context: Path | None,
    *,
    dirty: bool,
    dry_run: bool,
    as_data: bool,
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
    folder = context or own
    try:
        if dry_run:
            planned = images.plan(
                folder, outputs=outputs, session=session, dirty=dirty, build_args=arguments
            )
            by_up = config.get(IMAGE_BUILD, "true") == "true"
            _print_plan({**planned.as_json(), "built_by_up": by_up}, as_data=as_data)
            return
        result = images.push(
            folder,
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
    if result.state in FINAL:
        tell(f"  pushtrain runs show {result.run} -s {name}")
        tell(f"  pushtrain train {result.tag} -s {name}    to train it again")
    else:
        tell(f"  pushtrain logs {result.run} -f -s {name}")


@click.command(
    epilog="""\b
Examples:
  pushtrain train g-3f2a0c11d2e4 -s dev --set epochs=20 --set lr=1e-3
  pushtrain train sha256:3f2a... -s dev --follow
"""
)
@of_a_stack
@click.argument("image", metavar="TAG|DIGEST")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A run parameter.")
@click.option("-f", "--follow", is_flag=True, help="Print its log, until it has ended.")
@JSON
def train(  # noqa: PLR0913 - each is an option
    name: str,
    project: Path | None,
    image: str,
    *,
    pairs: tuple[str, ...],
    follow: bool,
    as_data: bool,
) -> None:
    """Train an image of the repository again, with other parameters, and print the new run.

    A run's id is taken for its image, too. Parameters that are not set here are those of
    `pushtrain params get`.
    """
    from automation import images
    from automation.commands.runs import print_log
    from automation.params import pairs as taken_apart

    with at_stack(name, project) as deployed:
        answer = images.train(deployed, image, taken_apart(pairs), tell)
        run = answer["run"]
        if as_data:
            print_json(answer)
        else:
            print(run)
            tell(f"{answer['outcome']}: run {run}, {answer['state']}")
        if follow:
            print_log(deployed, run, lambda line: tell(line.text), follow=True)
        else:
            tell("  " + deployed.command(f"logs {run} -f"))


def _print_plan(planned: dict[str, object], *, as_data: bool) -> None:
    if as_data:
        print_json(planned)
        return
    print(planned["image"])
    there = planned["digest"]
    tell(f"there already: {there}" if there else f"to be built from {planned['context']}")
