"""Build an image from a Dockerfile without a Docker engine: its last stage's files and settings.

FROM and RUN need an engine and are skipped: this machine's own Python runs what was copied.
"""

import gzip
import hashlib
import io
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from docker.utils.build import PatternMatcher
from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter, get_key_val_dictionary

from components.build_context import ARCHITECTURES, ignore_patterns

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # every base image's
_ARCHIVE = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NEED_AN_ENGINE = ("RUN", "EXPOSE", "VOLUME", "STOPSIGNAL", "HEALTHCHECK", "SHELL", "MAINTAINER")


class ImageError(ValueError):
    """A Dockerfile that cannot be built without an engine; says which line, and what to do."""


@dataclass(frozen=True)
class Image:
    """What a push needs, equal for equal content."""

    config: bytes
    layers: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
    """What of the Dockerfile was skipped, a line each, for whoever builds."""


def make_image(
    files: Mapping[str, bytes], *, platform: str = "linux/amd64", **settings: Any
) -> Image:
    """Build an image of these files; settings are the config's: Entrypoint, Env, WorkingDir."""
    layer = _Layer()
    for name, data in files.items():
        layer.add_file(name, data)
    return layer.image(settings, platform, ())


def build(
    context: Path,
    dockerfile: Path | None = None,
    build_args: Mapping[str, str] | None = None,
    platform: str = "linux/amd64",
) -> Image:
    """Build what the Dockerfile's last stage copies and sets."""
    dockerfile = dockerfile or context / "Dockerfile"
    content: Any = io.BytesIO(dockerfile.read_bytes())
    instructions: list[Any] = [*DockerfileParser(fileobj=content).structure]
    stage = _Stage(context, _included(context, dockerfile), dict(build_args or {}))
    for instruction in _last_stage(instructions):
        where = f"{dockerfile.name} line {instruction['startline'] + 1}"
        try:
            stage.run(instruction["instruction"], instruction["value"], where)
        except ImageError as error:
            raise ImageError(f"{where}: {error}") from error
    return stage.layer.image(stage.config, platform, tuple(stage.notes))


def _last_stage(instructions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the global ARGs, then the last stage with the stages that it starts from."""
    stages: dict[str, list[dict[str, Any]]] = {}
    preamble: list[dict[str, Any]] = []
    current = preamble
    for instruction in instructions:
        if instruction["instruction"] == "FROM":
            words = [word for word in instruction["value"].split() if not word.startswith("--")]
            name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(len(stages))
            current = stages[name.lower()] = [*stages.get(words[0].lower(), [])]
        if instruction["instruction"] != "COMMENT":
            current.append(instruction)
    if not stages:
        raise ImageError("Dockerfile must have a FROM, got none")
    return [*preamble, *current]


def _included(context: Path, dockerfile: Path) -> list[str]:
    """List what .dockerignore leaves of the context, sorted."""
    matcher = PatternMatcher(ignore_patterns(context, dockerfile))
    matcher.patterns.pop()  # the last sends an ignored .dockerignore to an engine; COPY does not
    return sorted(matcher.walk(str(context)))


@dataclass
class _Layer:
    """The files of one layer, in the order of their names whatever the order they came in."""

    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = field(default_factory=dict[str, Any])

    def add_file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        info = self._info(name, tarfile.REGTYPE, 0o755 if executable else 0o644)
        info.size = len(data)
        self._add(info, data)

    def add_link(self, name: str, target: str) -> None:
        info = self._info(name, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self._add(info, b"")

    def add_folder(self, name: str) -> None:
        path = posixpath.normpath(name).strip("/")
        while path and path != ".":
            if path not in self.entries:
                self.entries[path] = self._info(path, tarfile.DIRTYPE, 0o755), b""
            path = posixpath.dirname(path)

    def is_folder(self, name: str) -> bool:
        path = posixpath.normpath(name).strip("/")
        return path in ("", ".") or (path in self.entries and self.entries[path][0].isdir())

    def _add(self, info: tarfile.TarInfo, data: bytes) -> None:
        self.add_folder(posixpath.dirname(info.name))
        self.entries[info.name] = info, data

    @staticmethod
    def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        # Owner, group and time stay 0: equal content must have an equal digest.
        info = tarfile.TarInfo(posixpath.normpath(name).strip("/"))
        info.type, info.mode = kind, mode
        return info

    def image(self, settings: dict[str, Any], platform: str, notes: tuple[str, ...]) -> Image:
        if platform not in ARCHITECTURES.values():
            raise ImageError(
                f"platform must be one of {', '.join(ARCHITECTURES.values())}, got {platform}"
            )
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for _, (info, data) in sorted(self.entries.items()):
                tar.addfile(info, io.BytesIO(data))
        system, architecture = platform.split("/")
        config = {
            "architecture": architecture,
            "os": system,
            "config": settings,
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(out.getvalue()).hexdigest()}"],
            },
        }
        layer = gzip.compress(out.getvalue(), 6, mtime=0)
        return Image(json.dumps(config, sort_keys=True).encode(), (layer,), notes)


class _Stage:
    """Carries out the instructions of a stage, one after another."""

    def __init__(self, context: Path, included: list[str], build_args: dict[str, str]) -> None:
        self.layer = _Layer()
        self.notes: list[str] = []
        self._context = context
        self._included = included
        self._build_args = build_args
        self._global_args: dict[str, str] = {}
        self._args = self._global_args  # until the first FROM
        self._env: dict[str, str] = {}
        self._config: dict[str, Any] = {}
        self._instructions: dict[str, Callable[[str], None]] = {
            "ADD": self._add,
            "ARG": self._arg,
            "CMD": lambda value: self._config.update(Cmd=_command(value)),
            "COPY": self._copy,
            "ENTRYPOINT": lambda value: self._config.update(Entrypoint=_command(value)),
            "ENV": lambda value: self._env.update(self._pairs(value)),
            "LABEL": self._label,
            "USER": lambda value: self._config.update(User=self._word(value)),
            "WORKDIR": self._workdir,
        }

    @property
    def config(self) -> dict[str, Any]:
        """Give the settings as an image's config holds them."""
        env = [f"{name}={value}" for name, value in self._env.items()]
        return {**self._config, **({"Env": env} if env else {})}

    def run(self, instruction: str, value: str, where: str) -> None:
        """Carry out one instruction, or note that it was skipped."""
        if value.startswith("<<") or re.search(r"\s<<", value):
            raise ImageError(f"{instruction} must be without a heredoc; use a file instead")
        if instruction in self._instructions:
            self._instructions[instruction](value)
            return
        if instruction == "FROM":
            self._args = {}  # a stage sees only the ARGs that it declares itself
        elif instruction not in _NEED_AN_ENGINE:
            raise ImageError(f"instruction must be one of Dockerfile's own, got {instruction}")
        shown = value if len(value) <= 60 else f"{value[:57]}..."
        self.notes.append(f"{where}: skipped {instruction} {shown}")

    def _known(self) -> dict[str, str]:
        return {"PATH": _PATH, **self._args, **self._env}

    def _words(self, text: str) -> list[str]:
        if re.search(r"\$\{\w*[^\w}]", text):
            raise ImageError(f"variables must be plain $NAME or ${{NAME}}, got {text}")
        return [word or "" for word in WordSplitter(text, args=self._known(), envs={}).split()]

    def _word(self, text: str) -> str:
        return " ".join(self._words(text))

    def _pairs(self, text: str) -> dict[str, str]:
        self._words(text)
        return get_key_val_dictionary(text, env_replace=True, args=self._known(), envs={})

    def _arg(self, value: str) -> None:
        for word in self._words(value):
            name, has_default, default = word.partition("=")
            given = self._build_args.get(name, default if has_default else None)
            if given is None:
                given = self._global_args.get(name)
            if given is not None:
                self._args[name] = given

    def _label(self, value: str) -> None:
        self._config["Labels"] = {**self._config.get("Labels", {}), **self._pairs(value)}

    def _workdir(self, value: str) -> None:
        folder = posixpath.normpath(
            posixpath.join("/", self._config.get("WorkingDir", "/"), self._word(value))
        )
        self._config["WorkingDir"] = folder
        self.layer.add_folder(folder)

    def _add(self, value: str) -> None:
        for word in self._words(value):
            if "://" in word or word.startswith("git@") or word.endswith(_ARCHIVE):
                raise ImageError(f"ADD must name plain files of the context, got {word}")
        self._copy(value)

    def _copy(self, value: str) -> None:
        words = value.split()
        flags = [word for word in words if word.startswith("--")]
        executable = None
        for flag in flags:
            name, _, given = flag.partition("=")
            if name == "--from":
                raise ImageError(f"COPY must take files of the context, got {flag}; use an engine")
            if name == "--chmod":
                executable = bool(int(given, 8) & 0o111)
            elif name not in ("--chown", "--link"):
                raise ImageError(f"COPY flag must be --chmod, --chown or --link, got {flag}")
        rest = value
        for flag in flags:
            rest = rest.replace(flag, "", 1)
        rest = rest.strip()
        words = json.loads(rest) if rest.startswith("[") else self._words(rest)
        if len(words) < 2:
            raise ImageError(f"COPY must have a source and a destination, got {value}")
        *sources, given = words
        target = posixpath.join("/", self._config.get("WorkingDir", "/"), given)
        found = [(source, path) for source in sources for path in self._find(source)]
        if len(found) > 1 and not given.endswith("/") and not self.layer.is_folder(target):
            raise ImageError(f"COPY of several files must end in /, got {given}")
        into = given.endswith("/") or self.layer.is_folder(target)
        for _, path in found:
            self._put(path, target, into=into, executable=executable)

    def _find(self, source: str) -> list[str]:
        """List the paths of the context that a source of COPY means."""
        pattern = posixpath.normpath(source.lstrip("/") or ".").split("/")
        if pattern == ["."]:
            return ["."]
        if ".." in pattern:
            raise ImageError(f"COPY source must lie in the context, got {source}")
        paths = {parent for path in self._included for parent in _with_parents(path)}
        found = [
            path
            for path in sorted(paths)
            if len(path.split("/")) == len(pattern)
            and all(map(fnmatchcase, path.split("/"), pattern))
        ]
        if not found:
            raise ImageError(
                f"COPY source must be in the context, got {source}; "
                "is it misspelt, or named in .dockerignore?"
            )
        return found

    def _put(self, path: str, target: str, *, into: bool, executable: bool | None) -> None:
        """Put a file, or what is in a folder, where COPY says."""
        if not (self._context / path).is_dir():
            name = posixpath.join(target, posixpath.basename(path)) if into else target
            self._put_one(path, name, executable)
            return
        self.layer.add_folder(target)
        below = "" if path == "." else f"{path}/"
        for one in self._included:
            if one.startswith(below):
                self._put_one(one, posixpath.join(target, one.removeprefix(below)), executable)

    def _put_one(self, path: str, name: str, executable: bool | None) -> None:
        source = self._context / path
        if source.is_symlink():
            self.layer.add_link(name, str(source.readlink()))
        elif source.is_dir():
            self.layer.add_folder(name)
        elif source.is_file():
            bits = bool(source.stat().st_mode & 0o111) if executable is None else executable
            self.layer.add_file(name, source.read_bytes(), executable=bits)


def _with_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = posixpath.dirname(path)


def _command(value: str) -> list[str]:
    """Read ENTRYPOINT or CMD: a JSON array, or a line for the shell."""
    try:
        command = json.loads(value)
    except ValueError:
        command = None
    if isinstance(command, list):
        return [str(word) for word in command]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- JSON
    return ["/bin/sh", "-c", value]
