"""A stack as AWS has it: what its outputs name, and clients that lead there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.config import Config

from automation.aws import is_embedded
from automation.errors import OutputError

PATIENCE: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": 5}}


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What the commands of runs need to know of a stack."""

    stack: str
    outputs: Mapping[str, Any]
    session: Any
    """Has boto3's `client`."""

    def output(self, name: str) -> str:
        """Give an output that every stack of this version has."""
        value = self.outputs.get(name)
        if not isinstance(value, str) or not value:
            raise OutputError(
                f"stack {self.stack} must have an output {name}, got none: it is of an older "
                f"pushtrain, or not deployed: pushtrain up -s {self.stack}"
            )
        return value

    def client(self, service: str, **options: Any) -> Any:
        """Give a client of the service; the options are botocore's."""
        return self.session.client(service, config=Config(**{**PATIENCE, **options}))

    def command(self, text: str) -> str:
        """Give a command of ours as this stack's user would type it."""
        return f"pushtrain {text} -s {self.stack}"


def is_on_this_machine(client: Any) -> bool:
    """Tell whether a client talks to an embedded cloud."""
    return is_embedded(str(client.meta.endpoint_url))
