"""`pushtrain cloud`: an embedded AWS cloud in the foreground, for the stack `local`."""

import contextlib
import functools
import tempfile
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from automation.stacks import ROOT
from localcloud.cloud import Cloud

STACK: Final = "local"
PASSPHRASE: Final = "local"  # noqa: S105 - protects nothing: the cloud and its state are thrown away


def serve(port: int, keep: Path | None) -> None:
    """Run the cloud until somebody ends the process; RuntimeError where it cannot start."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with contextlib.ExitStack() as stack:
        if keep:
            folder = keep.resolve()
        else:
            made = tempfile.TemporaryDirectory(prefix="pushtrain-cloud-")
            folder = Path(stack.enter_context(made))
        (folder / "pulumi").mkdir(parents=True, exist_ok=True)
        cloud = stack.enter_context(
            Cloud(
                port,
                region=_region(),
                on_event=functools.partial(_tell, console),
                state=keep and folder / "cloud",
            )
        )
        environment = {
            **cloud.environment(),
            "PULUMI_BACKEND_URL": f"file://{folder / 'pulumi'}",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        }
        for name, value in environment.items():
            print(f"export {name}={value}")
        print(end="", flush=True)
        kept = f"kept in {folder}" if keep else "gone when it ends"
        console.print(
            f"[bold]An AWS cloud at {cloud.url}, until Ctrl-C; its state is {kept}.[/] In another "
            "terminal, with the lines above:\n\n  pushtrain up -s local\n"
        )
        threading.Event().wait()


def _region() -> str:
    """Return the region of the stack's file: the embedded cloud is in it."""
    return yaml.safe_load((ROOT / f"Pulumi.{STACK}.yaml").read_text())["config"]["aws:region"]


def _tell(
    console: Console, at: datetime, _source: str, kind: str, detail: Mapping[str, Any]
) -> None:
    if kind == "ECR Image Action":
        tag = detail.get("image-tag", "")
        text = f"{detail['repository-name']}:{tag} {detail['image-digest'][:19]}"
        what = detail["action-type"].lower()
    else:
        task = detail["taskArn"].rpartition("/")[2][:12]
        text = " ".join(filter(None, [task, detail.get("startedBy"), detail.get("stoppedReason")]))
        what = detail["lastStatus"].lower()
    console.print(f"[dim]{at.astimezone():%H:%M:%S}[/]  [bold]{what:<14}[/] ", end="")
    console.print(text, markup=False)
