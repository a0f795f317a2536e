"""Push and pull images over the registry's HTTP API, without a Docker engine."""

import hashlib
import io
import json
import posixpath
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import httpx

from localcloud.image import Image

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_KINDS = (
    MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ECR = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")


class RegistryError(RuntimeError):
    """A push or pull that the registry or the image itself makes impossible."""


@dataclass(frozen=True)
class Pulled:
    """An image that lies unpacked in a folder."""

    digest: str
    """Of the manifest that was run, which for an index is the platform's."""
    config: dict[str, Any]
    """Env, WorkingDir, Entrypoint and the like, as the image's author set them."""


def parse_image(name: str, registry_host: str = "") -> tuple[str, str]:
    """Split an image name into repository and reference; ECR's host means this cloud's registry."""
    host, slash, path = name.partition("/")
    has_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    # Docker pushes over plain HTTP to either name of this machine.
    own = host.replace("localhost:", "127.0.0.1:") == registry_host
    if has_host and not own and not _ECR.fullmatch(host):
        raise RegistryError(
            f"image must be in this cloud's own registry, got {name}; push it there first"
        )
    rest = path if has_host else name
    rest, _, digest = rest.partition("@")
    repository, _, tag = rest.partition(":")
    return repository, digest or tag or "latest"


class Registry:
    """The image registry of a cloud."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._http = httpx.Client(base_url=f"http://{host}", timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def push(self, image: Image, repository: str, tag: str) -> str:
        """Push an image under a tag, and give its digest; the repository may be ECR's full URI."""
        repository, _ = parse_image(repository, self.host)
        layers = [self._put_blob(repository, layer, LAYER) for layer in image.layers]
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._put_blob(repository, image.config, CONFIG),
            "layers": layers,
        }
        manifest = json.dumps(document).encode()
        answer = self._http.put(
            f"/v2/{repository}/manifests/{tag}",
            content=manifest,
            headers={"Content-Type": MANIFEST},
        )
        return _expect(answer, 201).headers["docker-content-digest"]

    def digest(self, repository: str, reference: str) -> str | None:
        """Give the digest that a tag leads to, or none where there is no such image."""
        repository, _ = parse_image(repository, self.host)
        answer = self._http.head(f"/v2/{repository}/manifests/{reference}")
        return (
            None
            if answer.status_code == 404
            else _expect(answer, 200).headers["docker-content-digest"]
        )

    def pull(self, name: str, root: Path, platform: str = "linux/amd64") -> Pulled:
        """Unpack what an image name leads to under a folder, every digest checked."""
        repository, reference = parse_image(name, self.host)
        digest, manifest = self._manifest(repository, reference, platform)
        config = json.loads(self._blob(repository, manifest["config"]["digest"]))
        root.mkdir(parents=True, exist_ok=True)
        for layer in manifest["layers"]:
            unpack(self._blob(repository, layer["digest"]), root)
        return Pulled(digest, config.get("config") or {})

    def _put_blob(self, repository: str, data: bytes, kind: str) -> dict[str, Any]:
        digest = content_digest(data)
        if self._http.head(f"/v2/{repository}/blobs/{digest}").status_code != 200:
            started = _expect(self._http.post(f"/v2/{repository}/blobs/uploads/"), 202)
            place = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest})
            _expect(self._http.put(place, content=data), 201)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def _manifest(
        self, repository: str, reference: str, platform: str
    ) -> tuple[str, dict[str, Any]]:
        answer = self._http.get(
            f"/v2/{repository}/manifests/{reference}", headers={"Accept": ", ".join(_KINDS)}
        )
        if answer.status_code == 404:
            raise RegistryError(f"failed to resolve ref {repository}:{reference}: not found")
        digest = content_digest(_expect(answer, 200).content)
        if reference.startswith("sha256:") and digest != reference:
            raise RegistryError(f"manifest digest must be {reference}, got {digest}")
        manifest: dict[str, Any] = answer.json()
        if "manifests" not in manifest:
            return digest, manifest
        for child in manifest["manifests"]:
            of: dict[str, str] = child.get("platform") or {}
            if f"{of.get('os')}/{of.get('architecture')}" == platform:
                return self._manifest(repository, child["digest"], platform)
        raise RegistryError(f"image must have a manifest for {platform}, got none in {digest}")

    def _blob(self, repository: str, digest: str) -> bytes:
        data = _expect(self._http.get(f"/v2/{repository}/blobs/{digest}"), 200).content
        if content_digest(data) != digest:
            raise RegistryError(f"blob digest must be {digest}, got {content_digest(data)}")
        return data


def content_digest(data: bytes) -> str:
    """Give the name that a registry knows these bytes by."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def unpack(layer: bytes, root: Path) -> None:
    """Lay one layer over the tree below it, and let nothing of it out of that tree."""
    try:
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r:*") as tar:
            for member in tar:
                _unpack_member(tar, member, root)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise RegistryError(
            f"layer must be a tar archive that stays in its root: {error}"
        ) from error


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    name = PurePosixPath(member.name.lstrip("/"))
    hidden = name.name.removeprefix(".wh.")  # what a whiteout hides, or the member itself
    root = root.resolve()
    # The folder that it goes into may be a link; what counts is where that leads.
    parent = (root / name.parent).resolve()
    if not name.parts:
        return
    if ".." in (*name.parts, hidden) or hidden in ("", ".") or not parent.is_relative_to(root):
        raise RegistryError(f"layer must stay in its root, got {member.name}")
    if name.name == ".wh..wh..opq":
        _remove(parent)
        parent.mkdir(parents=True)
    elif hidden != name.name:
        _remove(parent / hidden)
    elif member.isfile() or member.isdir() or member.issym() or member.islnk():
        target = parent / name.name
        if not (member.isdir() and target.is_dir() and not target.is_symlink()):
            _remove(target)
        parent.mkdir(parents=True, exist_ok=True)
        member.name = str(target.relative_to(root))
        if member.issym():  # in a container a link starts at the image's root, not at ours
            inside = posixpath.normpath(posixpath.join(f"/{name.parent}", member.linkname))
            member.linkname = posixpath.relpath(inside, f"/{name.parent}")
        tar.extract(member, root, filter="data")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _expect(answer: httpx.Response, status: int) -> httpx.Response:
    if answer.status_code != status:
        asked = f"{answer.request.method} {answer.request.url.path}"
        raise RegistryError(f"{asked} must answer {status}, got {answer.status_code} {answer.text}")
    return answer
