"""What each role is given, and what whoever has it was seen to call."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.handler.conftest import TEMPLATE, WIRING, merge
from tests.least_privilege import handlers, services, trainers
from tests.least_privilege.access import Access, Policies, needs
from tests.least_privilege.world import World

ROOT = Path(__file__).parents[2]
HANDLERS = ("invoke", "observe", "reconcile")


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

    def role(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the documents of a role, by the logical name of each."""
        found = (
            [f"pushtrain-trigger-{name}-{part}-policy" for part in ("basics", "work")]
            if name in HANDLERS
            else [f"pushtrain-training-{name}-policy"]
        )
        return dict(zip(found, self.documents(*found), strict=True))


@pytest.fixture(scope="session")
def calls(tmp_path_factory) -> dict[str, list[Any]]:
    """Record what the handlers and the trainers call, once."""
    folder = tmp_path_factory.mktemp("least")

    def event(name: str, **changes: Any) -> dict[str, Any]:
        text = (ROOT / "tests" / "events" / f"{name}.json").read_text()
        return merge(json.loads(text), changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUSHTRAIN_WIRING", "/pushtrain/dev/wiring")
        made = handlers.record(event)
    return {**made, "task": trainers.record(folder)}


@pytest.fixture(scope="session")
def needed(calls) -> dict[str, list[Access]]:
    """What each role needs: what was called, and what AWS does in its name."""
    return {
        role: [access for call in made for access in needs(call)]
        + (services.of_lambda(role) if role in HANDLERS else [])
        for role, made in calls.items()
    } | {"execution": services.of_the_agent()}


@pytest.fixture(scope="session")
def world(needed) -> World:
    return World(needed)


@pytest.fixture(scope="session")
def stack(dev) -> Stack:
    return Stack(dev)


@pytest.fixture(scope="session")
def roles(stack, needed) -> dict[str, Policies]:
    return {role: Policies(*stack.role(role).values()) for role in needed}
