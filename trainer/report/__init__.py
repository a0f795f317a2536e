"""The report of a run: one page that needs nothing else, for a phone as for a screen."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.config import Job
from trainer.data import DataSet
from trainer.log import say
from trainer.publish import commit
from trainer.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "report.html"


def report_run(  # noqa: PLR0913 - all that a run knows
    job: Job,
    dataset: DataSet,
    *,
    bucket: Storage | None,
    probabilities: "Tensor",
    figures: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> bytes | None:
    """Write the page of a run; one that cannot be written is said to be missing, and no more.

    `figures` are those of metrics.json, `facts` those of the manifest.
    """
    try:
        # Half a second that only this moment needs.
        from trainer.report.champion import find_champion  # noqa: PLC0415
        from trainer.report.mistakes import worst_mistakes  # noqa: PLC0415
        from trainer.report.page import Report, render  # noqa: PLC0415

        return render(
            Report(
                run=job.run,
                figures=figures,
                mistakes=worst_mistakes(dataset.test, probabilities, dataset.classes),
                champion=find_champion(
                    bucket,
                    job.champion_key,
                    test_sha256=dataset.test_sha256,
                    classes=dataset.classes,
                ),
                facts=_tables(job, facts),
            )
        )
    # Whatever it is: the model is trained, and worth more than a page about it.
    except Exception as error:  # noqa: BLE001
        say(f"no report: {type(error).__name__}: {error}")
        return None


def _tables(job: Job, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort what the manifest says into tables."""
    data, lineage = facts["data"], facts["lineage"]
    warm_start, resumed = lineage.get("warm_start"), lineage.get("resumed")
    origin = {
        "run": job.run,
        "attempt": job.attempt,
        "image digest": job.image_digest,
        "image tag": job.image_tag,
        "commit": commit(job.image_tag)["git_sha"],
        "differs from the commit": commit(job.image_tag)["dirty"],
        "data, SHA-256": data["sha256"],
        "test data, SHA-256": data["test_sha256"],
        "images": f"{data['train']:,} to train on, {data['test']:,} to test on",
        "started from": f"run {warm_start['run']}"
        if warm_start and warm_start.get("run")
        else "random weights",
        "resumed": f"at step {resumed['step']}, from attempt {resumed['attempt']}"
        if resumed
        else None,
    }
    return {
        "Origin": origin,
        "Parameters": facts["config"],
        "Seconds": facts["seconds"],
        "Machine": facts["hardware"],
        "Versions": facts["versions"],
    }
