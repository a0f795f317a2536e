"""The user's own run parameters: kept in SSM, merged over the stack's when a run is claimed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from automation.aws import told_as
from automation.deployed import Deployed
from automation.errors import StackError
from handler import runs, tasks, wiring

SSM_LIMIT: Final = 4096
"""Bytes of a standard parameter; a larger one is billed."""
LONGEST_TAG: Final = "t" * 128
LONGEST_RUN_DIGEST: Final = f"sha256:{'0' * 64}"


class ParameterError(StackError):
    """Parameters that cannot be read, or that no run could take."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What the next run is claimed with."""

    name: str
    """Of the SSM parameter."""
    own: Mapping[str, str]
    """The user's."""
    defaults: Mapping[str, str]
    """The stack's."""

    @property
    def effective(self) -> dict[str, str]:
        """The user's over the stack's."""
        return {**self.defaults, **self.own}

    def as_json(self) -> dict[str, Any]:
        """Return them as `--json` prints them."""
        return {
            "name": self.name,
            "own": dict(self.own),
            "defaults": dict(self.defaults),
            "effective": self.effective,
        }


class Store:
    """Reads and writes the parameters of a stack."""

    def __init__(self, deployed: Deployed) -> None:
        self.name = deployed.output("trainingParameter")
        self._wiring_name = deployed.output("wiringParameter")
        self._ssm = deployed.client("ssm")
        self._deployed = deployed

    def read(self) -> Parameters:
        """Give what is there; an absent parameter is an empty one."""
        own = self._value(self.name)
        try:
            return Parameters(
                name=self.name,
                own=wiring.parse_parameters(self.name, own) if own is not None else {},
                defaults=self._wiring()["parameters"],
            )
        except wiring.WiringError as error:
            raise ParameterError(str(error)) from error

    def change(
        self, given: Mapping[str, str] | None = None, *, without: Sequence[str] = ()
    ) -> Parameters:
        """Set these and take those away, the rest stays; ParameterError before a bad write."""
        now = self.read()
        if absent := [name for name in without if name not in now.own]:
            raise ParameterError(
                f"{', '.join(absent)} must be set by {self._deployed.command('params set')}, got "
                f"{', '.join(sorted(now.own)) or 'none at all'}"
            )
        own = {**now.own, **(given or {})}
        changed = Parameters(
            name=self.name,
            own={name: value for name, value in own.items() if name not in without},
            defaults=now.defaults,
        )
        self._check(changed)
        with told_as(ParameterError):
            if changed.own:
                self._ssm.put_parameter(
                    Name=self.name, Value=_text(changed), Type="String", Overwrite=True
                )
            elif now.own:
                self._ssm.delete_parameter(Name=self.name)
        return changed

    def _check(self, changed: Parameters) -> None:
        """Let the handler's own code judge, which is to take them."""
        try:
            wiring.parse_parameters(self.name, _text(changed))
            wires = self._wiring()
            run = runs.claimed(
                image={
                    "repository": wires["repository"],
                    "uri": f"{wires['repository']}@{LONGEST_RUN_DIGEST}",
                    "digest": LONGEST_RUN_DIGEST,
                    "tags": [LONGEST_TAG],
                },
                parameters=changed.effective,
                wiring=wires,
                data={"key": wires["data_key"], "version_id": "v" * 32, "etag": ""},
            )
            tasks.build_overrides(run, number=1)
        except ValueError as error:
            raise ParameterError(str(error)) from error
        if (size := len(_text(changed).encode())) > SSM_LIMIT:
            raise ParameterError(
                f"parameters must fit into {SSM_LIMIT} bytes of JSON, got {size}: shorten or "
                f"unset some, or put them into the image"
            )

    def _wiring(self) -> wiring.Wiring:
        text = self._value(self._wiring_name)
        try:
            document: object = json.loads(text or "")
            if isinstance(document, dict) and "parameters" in document:
                return cast("wiring.Wiring", document)
        except ValueError:
            pass
        raise ParameterError(
            f"{self._wiring_name} must be a JSON object with parameters, got {str(text)[:80]!r}: "
            f"{self._deployed.command('up')}"
        )

    def _value(self, name: str) -> str | None:
        with told_as(ParameterError):
            try:
                return self._ssm.get_parameter(Name=name)["Parameter"]["Value"]
            except self._ssm.exceptions.ParameterNotFound:
                return None


def pairs(words: Sequence[str]) -> dict[str, str]:
    """Take NAME=VALUE apart; the value may hold more of them, and may be empty."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ParameterError(f"a parameter must be NAME=VALUE, got {word!r}")
        if name in found:
            raise ParameterError(f"a parameter must be given once, got {name} twice")
        found[name] = value
    return found


def _text(parameters: Parameters) -> str:
    return json.dumps(dict(sorted(parameters.own.items())))
