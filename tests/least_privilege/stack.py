"""The policies of a stack as the account of tests/handler would have them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.handler.conftest import TEMPLATE, WIRING
from tests.least_privilege.access import Call, Policies, needs

HANDLERS = ("invoke", "observe", "reconcile")
ROLES = (TEMPLATE["taskRoleArn"], TEMPLATE["executionRoleArn"])


def names(wiring: Mapping[str, Any], *roles: str) -> list[str]:
    """Return what a stack's things are called, in one order for any stack."""
    return [
        wiring["bucket"],
        wiring["repository"],
        wiring["log_group"],
        wiring["cluster"].rpartition("/")[2],
        wiring["topic"].rpartition(":")[2],
        *(role.rpartition("/")[2] for role in roles),
    ]


@dataclass(frozen=True)
class Stack:
    """The policies of a stack, with the names that the recorded calls know it by."""

    deployment: Any

    def documents(self, *resources: str, key: str = "policy") -> list[dict[str, Any]]:
        """Return the documents of resources, by their logical names."""
        (wiring,) = (
            found
            for found in self.deployment.documents().values()
            if isinstance(found, dict) and "parameters_name" in found
        )
        roles = [
            self.deployment.inputs("pushtrain-training-template")[role]
            for role in ("executionRoleArn", "taskRoleArn")
        ]
        known = names(WIRING, TEMPLATE["executionRoleArn"], TEMPLATE["taskRoleArn"])
        texts = [self.deployment.inputs(name)[key] for name in resources]
        for ours, theirs in zip(names(wiring, *roles), known, strict=True):
            texts = [text.replace(ours, theirs) for text in texts]
        return [json.loads(text) for text in texts]

    @property
    def key(self) -> str:
        """The ARN of the key that all is encrypted with; empty where AWS's own keys are used."""
        keys = self.deployment.of_type("aws:kms/key:Key")
        return keys[0].outputs["arn"] if keys else ""

    @property
    def secrets(self) -> list[str]:
        """What the agent is told to hand over to a trainer."""
        template = self.deployment.inputs("pushtrain-training-template")
        (container,) = json.loads(template["containerDefinitions"])
        return [secret["valueFrom"] for secret in container.get("secrets", [])]

    def role(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the documents of a role, by the logical name of each."""
        found = (
            [f"pushtrain-trigger-{name}-{part}-policy" for part in ("basics", "work")]
            if name in HANDLERS
            else [f"pushtrain-training-{name}-policy"]
        )
        return dict(zip(found, self.documents(*found), strict=True))


class Judge:
    """Lets a handler make the calls that its role allows."""

    def __init__(self, stack: Stack) -> None:
        self._roles = {name: Policies(*stack.role(name).values()) for name in HANDLERS}
        self._allowed: set[tuple[str, str]] = set()

    def __call__(self, handler: str, call: Call) -> None:
        """Raise what names the access that the role does not allow."""
        for access in needs(call):
            known = (handler, str(access))
            if known not in self._allowed:
                assert self._roles[handler].allow(access), f"{handler} may not {access}"
                self._allowed.add(known)
