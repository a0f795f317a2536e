"""What the engine's events tell of a preview, and what of it nobody may see.

Events come as the engine writes them to its event log:
https://github.com/pulumi/pulumi/blob/master/sdk/go/common/apitype/events.go
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
"""The key by which the engine marks values that JSON has no word for."""
SECRET_MARK: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - says that one follows
UNKNOWN_VALUES: Final = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # a truth value
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # a number
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # a string
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # an array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # an asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # an archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # an object
    }
)
"""What a preview puts where only an update will know more (sdk/go/common/resource/plugin)."""
SECRET: Final = "[secret]"  # noqa: S105 - stands for one
PASSWORD_KEY = re.compile(r"passw(or)?d|passphrase|private_?key", re.IGNORECASE)
SENSITIVE_KEY = re.compile(rf"{PASSWORD_KEY.pattern}|secret|token|credential", re.IGNORECASE)
"""Not shown, whether marked or not."""
LEAST_SECRET: Final = 4
"""Shorter ones would blank half the comment, and are no secrets."""

MOST_DEPTH: Final = 30
"""No property of AWS goes deeper, but JSON in a string may."""

COLOUR = re.compile(r"<\{%.*?%\}>|\x1b\[[0-9;]*m")
FRAME = re.compile(r'File "([^"]+)", line (\d+)')
OWN_ERRORS: Final = ("SettingsError", "ValueError")
"""Their text says all that there is to say; a place in the code would only distract."""

Event: TypeAlias = Mapping[str, Any]
Properties: TypeAlias = Mapping[str, Any]

OPERATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "same": "same",
        "refresh": "same",
        "update": "update",
        "create": "create",
        "import": "create",
        "delete": "delete",
        "delete-replaced": "delete",
        "discard": "delete",
        "discard-replaced": "delete",
        "replace": "replace",
        "create-replacement": "replace",
        "import-replacement": "replace",
    }
)
"""What each step means for its resource. A resource has several: the last of these counts."""
WEIGHT: Final = ("same", "update", "create", "delete", "replace")


@dataclass
class Change:
    """What happens to one resource."""

    urn: str
    kind: str
    operation: str
    keys: list[str]
    """Properties that force a replacement."""
    changed: set[str]
    """Properties that change, as the provider says; none means to look for oneself."""
    old: Mapping[str, Any]
    new: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return what the program calls it."""
        return self.urn.rpartition("::")[2]

    @property
    def is_custom(self) -> bool:
        """False for a component, which is only a name for its children."""
        return bool((self.new or self.old).get("custom"))

    @property
    def before(self) -> Properties:
        """Return the inputs of the last update."""
        return self.old.get("inputs") or {}

    @property
    def after(self) -> Properties:
        """Return the inputs that it would have."""
        return self.new.get("inputs") or {}


@dataclass
class Preview:
    """What the events of one preview tell."""

    changes: dict[str, Change] = field(default_factory=dict[str, Change])
    counts: Mapping[str, int] | None = None
    result: str | None = None
    errors: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """The resource's name or nothing, and the message."""
    warnings: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    violations: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    secrets: set[str] = field(default_factory=set[str])

    @property
    def failed(self) -> bool:
        """Return whether an update would not even begin."""
        mandatory = any(found.get("enforcementLevel") == "mandatory" for found in self.violations)
        return bool(self.errors) or mandatory or self.result not in ("succeeded", None)

    def operations(self, operation: str) -> list[Change]:
        """Return the resources to which this happens; components are only names."""
        return [
            change
            for change in self.changes.values()
            if change.operation == operation and change.is_custom
        ]


def read(events: Iterable[Any]) -> Preview:
    """Read an event log's parsed lines, or what `on_event` of the Automation API hands over."""
    preview = Preview()
    for found in events:
        event = cast("Event", _plain(found))
        if step := event.get("resourcePreEvent"):
            _note_step(preview, step["metadata"])
        elif message := event.get("diagnosticEvent"):
            _note_message(preview, message)
        elif summary := event.get("summaryEvent"):
            changes: Mapping[str, int] = summary.get("resourceChanges") or {}
            preview.counts = changes
            # Older engines and the Automation API name none.
            preview.result = summary.get("result") or "succeeded"
        elif violation := event.get("policyEvent"):
            preview.violations.append(violation)
        elif failure := event.get("errorEvent"):
            preview.errors.append(("", str(failure.get("error", ""))))
    return preview


def _plain(value: Any) -> Any:
    """Return an Automation API event as the JSON that it was read from."""
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {key: _plain(entry) for key, entry in entries.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in cast("list[Any]", value)]
    if isinstance(value, Enum):
        return value.value
    if type(value).__module__.startswith("pulumi.automation"):
        fields = cast("dict[str, Any]", vars(value))
        return {_camel(key): _plain(entry) for key, entry in fields.items()}
    return value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _note_step(preview: Preview, step: Mapping[str, Any]) -> None:
    kind, urn = str(step.get("type", "")), str(step.get("urn", ""))
    operation = OPERATIONS.get(str(step.get("op")))
    detailed: Mapping[str, Any] = step.get("detailedDiff") or {}
    diffs: list[str] = step.get("diffs") or []
    change = Change(
        urn=urn,
        kind=kind,
        operation=operation or "same",
        keys=list(step.get("keys") or []),
        changed={re.split(r"[.\[]", path)[0] for path in (*detailed, *diffs)},
        old=step.get("old") or {},
        new=step.get("new") or {},
    )
    preview.secrets |= _secrets_of(change)
    if operation is None or kind.startswith("pulumi:providers:"):
        return
    before = preview.changes.get(urn)
    if before is not None:
        change.keys = change.keys or before.keys
        change.changed |= before.changed
        change.old = change.old or before.old
        change.new = change.new or before.new
        change.operation = max(before.operation, change.operation, key=WEIGHT.index)
    preview.changes[urn] = change


def _note_message(preview: Preview, message: Mapping[str, Any]) -> None:
    text = COLOUR.sub("", str(message.get("message", ""))).strip()
    name = str(message.get("urn") or "").rpartition("::")[2]
    if message.get("ephemeral") or not text:
        return
    # The engine repeats at its end what it has said before.
    if message.get("severity") == "error" and text not in ("preview failed", "update failed"):
        problem = (name, _problem(text))
        if problem not in preview.errors:
            preview.errors.append(problem)
    elif message.get("severity") == "warning" and (name, text) not in preview.warnings:
        preview.warnings.append((name, text))


def _problem(text: str) -> str:
    """Take what an exception says out of its traceback."""
    _, found, trace = text.rpartition("Traceback (most recent call last):")
    if not found:
        return text
    lines = trace.strip("\n").splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() and line[0] != " "), None)
    if start is None:
        return text
    kind, separator, says = "\n".join(lines[start:]).strip().partition(": ")
    kind = kind.rpartition(".")[2]
    if kind in OWN_ERRORS and separator:
        return says
    places = [
        f"{PurePath(path).name}, line {line}"
        for path, line in FRAME.findall("\n".join(lines[:start]))
        if path.endswith(".py") and not re.search("site-packages|/lib/python", path)
    ]
    return f"{kind}{separator}{says}" + (f"\n({places[-1]})" if places else "")


def is_secret(value: Any) -> bool:
    """Tell the engine's mark of a secret, and what other tools put in place of one."""
    if not isinstance(value, Mapping):
        return value == SECRET
    return cast("Mapping[str, Any]", value).get(SIGNATURE) == SECRET_MARK


def secret_paths(change: Change, *, marked_only: bool = False) -> set[str]:
    """Return what is a secret on any side, and so on all: a new input beside an old output, say."""
    return {
        path
        for state in _sides(change)
        for key, value in state.items()
        for path, leaf in leaves(key, value, reveal=marked_only)
        if is_secret(leaf)
    }


def _secrets_of(change: Change) -> set[str]:
    """Return secrets in clear, to be struck out wherever else they stand."""
    hidden = secret_paths(change, marked_only=True)
    found: set[str] = set()
    for state in _sides(change):
        for key, value in state.items():
            for path, leaf in leaves(key, value, reveal=True):
                if is_secret(leaf):
                    found.update(_clear_texts(leaf))
                elif isinstance(leaf, str) and (
                    is_under(path, hidden) or PASSWORD_KEY.search(path.rpartition(".")[2])
                ):
                    found.add(leaf)
    return {
        text
        for text in found - UNKNOWN_VALUES - {SECRET}
        if len(text) >= LEAST_SECRET and not text.isspace()
    }


def _sides(change: Change) -> Iterator[Properties]:
    for state in (change.old, change.new):
        for side in ("inputs", "outputs"):
            yield state.get(side) or {}


def is_under(path: str, hidden: set[str]) -> bool:
    """Tell whether a path is one of these or leads on from it."""
    return any(path == top or path.startswith((f"{top}.", f"{top}[")) for top in hidden)


def _clear_texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        parts = [entries.get("plaintext")] if is_secret(entries) else list(entries.values())
        for part in parts:
            yield from _clear_texts(part)
    elif isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _clear_texts(part)
    elif isinstance(value, str):
        yield value
        parsed = _parsed(value)
        if parsed != value:
            yield from _clear_texts(parsed)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def leaves(path: str, value: Any, *, reveal: bool = False) -> Iterator[tuple[str, Any]]:
    """Take a value apart, and JSON that is hidden in a string as well."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        parsed = _parsed(value)
        value = cast("Any", parsed) if isinstance(parsed, (dict, list)) else value
    if path.count(".") + path.count("[") > MOST_DEPTH:
        yield path, "…"
    elif not reveal and SENSITIVE_KEY.search(path.rpartition(".")[2]):
        yield path, SECRET
    elif isinstance(value, Mapping) and value and SIGNATURE not in value:
        for key, entry in cast("Mapping[str, Any]", value).items():
            if not key.startswith("__"):
                yield from leaves(f"{path}.{key}", entry, reveal=reveal)
    elif isinstance(value, list) and value:
        for index, entry in enumerate(cast("list[Any]", value)):
            yield from leaves(f"{path}[{index}]", entry, reveal=reveal)
    else:
        yield path, value
