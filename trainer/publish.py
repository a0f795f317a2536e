"""What a run leaves behind: its files, and the manifest that says they are all there."""

import json
import re
from hashlib import sha256
from typing import Any

from trainer.config import Job
from trainer.storage import Storage

MANIFEST = "manifest.json"
MODEL = "model.safetensors"


class Publication:
    """The files of one run; `finish` makes it a published one."""

    def __init__(self, storage: Storage, job: Job) -> None:
        self._storage = storage
        self._job = job
        self._files: dict[str, dict[str, int | str]] = {}

    def add(self, name: str, body: bytes) -> None:
        """Write a file, again if need be: the manifest speaks of the last one."""
        self._storage.put(name, body)
        self._files[name] = {"size": len(body), "sha256": sha256(body).hexdigest()}

    def add_json(self, name: str, document: Any) -> None:
        """Write a document that people read too."""
        self.add(name, to_json(document))

    def finish(self, **facts: Any) -> None:
        """Write the manifest, which must come last: whoever sees it counts on all the rest."""
        manifest = {
            "version": 1,
            "run": self._job.run,
            "attempt": self._job.attempt,
            "image_digest": self._job.image_digest,
            **commit(self._job.image_tag),
            "files": self._files,
            "model": MODEL,
            **facts,
        }
        self._storage.put(MANIFEST, to_json(manifest))


def commit(tag: str | None) -> dict[str, str | bool | None]:
    """Read the commit from a tag such as g-1a2b3c4, and whether the image differs from it.

    A changed context is pushed as g-1a2b3c4-dirty-<hash>. Other tags name no commit.
    """
    match = re.fullmatch(r"g-([0-9a-f]{7,40})(-dirty(?:-\w+)?)?", tag or "")
    return {"git_sha": match[1] if match else None, "dirty": bool(match[2]) if match else None}


def to_json(document: Any) -> bytes:
    """Write JSON that every reader takes: NaN, which is none, is an error here."""
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
