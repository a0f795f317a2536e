"""What AWS tells the default event bus and MiniStack does not: image pushes and task changes."""

import json
import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from localcloud.adapter import Answer, MiniStack
from localcloud.faults import Faults

Watcher = Callable[[datetime, str, str, dict[str, Any]], object]
"""Called with time, source, detail-type and detail of an event."""

_log = logging.getLogger(__name__)


class EventBus:
    """The default event bus, and those who watch it from outside."""

    def __init__(self, ministack: MiniStack, faults: Faults) -> None:
        self._ministack = ministack
        self._faults = faults
        self._watchers: list[Watcher] = []
        # Watchers have a thread of their own: one that calls the cloud back must not block it.
        self._seen: queue.SimpleQueue[tuple[datetime, str, str, dict[str, Any]] | None] = (
            queue.SimpleQueue()
        )
        self._untold = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tell, name="cloud-watchers", daemon=True)
        self._thread.start()

    def watch(self, watcher: Watcher) -> None:
        """Call the watcher for every event from now on, in order, in a thread of the bus."""
        self._watchers.append(watcher)

    def post(
        self, source: str, detail_type: str, detail: dict[str, Any], resources: tuple[str, ...] = ()
    ) -> None:
        """Put an event of an AWS service on the bus of the current account and region."""
        entry = {
            "Source": source,
            "DetailType": detail_type,
            "Detail": json.dumps(detail),
            "Resources": list(resources),
        }
        self._faults.post(detail_type, detail, lambda: self._ministack.post_event(entry))
        with self._lock:
            self._untold += 1
        self._seen.put((datetime.now(UTC), source, detail_type, detail))

    @property
    def idle(self) -> bool:
        """Whether the watchers have been told everything."""
        with self._lock:
            return not self._untold

    def close(self) -> None:
        """Tell the watchers what is still to tell, and end."""
        self._seen.put(None)
        self._thread.join(5)

    def _tell(self) -> None:
        while seen := self._seen.get():
            for watcher in tuple(self._watchers):
                try:
                    watcher(*seen)
                except Exception:  # noqa: BLE001 -- its fault must not blind the others
                    _log.exception("a watcher of the cloud failed")
            with self._lock:
                self._untold -= 1


class ImagePushes:
    """ECR's own strictness about manifests, and an "ECR Image Action" for each that is pushed."""

    def __init__(self, ministack: MiniStack, bus: EventBus) -> None:
        self._ministack = ministack
        self._bus = bus
        ministack.on_put_manifest(self._put_manifest)
        ministack.on_put_image(self._put_image)

    def _put_manifest(
        self,
        pass_on: Callable[..., Answer],
        repository: str,
        reference: str,
        headers: dict[str, str],
        body: bytes,
    ) -> Answer:
        """Answer PUT /v2/<repository>/manifests/<reference>."""
        digest = self._ministack.content_digest(body)
        by_digest = reference.startswith("sha256:")
        if self._ministack.has_repository(repository):
            fault = self._fault(repository, body)
            if by_digest and digest != reference:
                fault = "DIGEST_INVALID", f"the manifest's digest must be {reference}, got {digest}"
            if fault:
                return self._ministack.registry_error(*fault)
        before = self._ministack.image_digest(repository, reference)
        answer = pass_on(repository, reference, headers, body)
        if answer[0] == 201 and digest != before:
            tag = "" if by_digest else reference
            self._pushed(repository, tag, digest, json.loads(body), headers.get("content-type"))
        return answer

    def _put_image(self, pass_on: Callable[..., Answer], asked: dict[str, Any]) -> Answer:
        """Answer the API's PutImage."""
        repository, tag = str(asked.get("repositoryName")), str(asked.get("imageTag") or "")
        body = str(asked.get("imageManifest", "")).encode()
        digest = self._ministack.content_digest(body)
        if self._ministack.has_repository(repository):
            if fault := self._fault(repository, body):
                missing = fault[0] == "MANIFEST_BLOB_UNKNOWN"
                code = "LayersNotFoundException" if missing else "InvalidParameterException"
                return self._ministack.error(code, fault[1])
            if self._ministack.image_digest(repository, tag or digest) == digest:
                # AWS refuses this for mutable tags too.
                return self._ministack.error(
                    "ImageAlreadyExistsException",
                    f"Image with digest '{digest}' and tag '{tag}' already exists",
                )
        answer = pass_on(asked)
        if answer[0] == 200:
            kind = asked.get("imageManifestMediaType")
            self._pushed(repository, tag, digest, json.loads(body), kind)
        return answer

    def _fault(self, repository: str, body: bytes) -> tuple[str, str] | None:
        """Say what is wrong with a manifest, as a registry's error code and message."""
        try:
            manifest = json.loads(body)
            parts = [*manifest.get("layers", []), *filter(None, [manifest.get("config")])]
            blobs = [part["digest"] for part in parts]
            children = [child["digest"] for child in manifest.get("manifests", [])]
        except (ValueError, AttributeError, KeyError, TypeError):
            return "MANIFEST_INVALID", "the manifest must be JSON of an image or an index"
        if not blobs and not children:
            return "MANIFEST_INVALID", "the manifest must name layers or manifests, got neither"
        lost = [blob for blob in blobs if not self._ministack.has_blob(repository, blob)]
        lost += [one for one in children if self._ministack.image_digest(repository, one) != one]
        if lost:
            return "MANIFEST_BLOB_UNKNOWN", f"layers must be pushed first, missing {lost}"
        return None

    def _pushed(
        self, repository: str, tag: str, digest: str, manifest: dict[str, Any], kind: str | None
    ) -> None:
        detail = {
            "result": "SUCCESS",
            "repository-name": repository,
            "image-digest": digest,
            "action-type": "PUSH",
            "image-tag": tag,  # present and empty for an untagged push, as on AWS
            "manifest-media-type": manifest.get("mediaType") or kind,
            "artifact-media-type": manifest.get("config", {}).get("mediaType"),
        }
        shown = {name: value for name, value in detail.items() if value is not None}
        self._bus.post("aws.ecr", "ECR Image Action", shown)
