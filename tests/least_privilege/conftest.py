"""What each role is given, and what whoever has it was seen to call."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.handler.conftest import merge
from tests.least_privilege import handlers, services, trainers
from tests.least_privilege.access import Access, Policies, needs
from tests.least_privilege.stack import HANDLERS, Stack
from tests.least_privilege.world import World

ROOT = Path(__file__).parents[2]
FILES = sorted({file.name for file in ROOT.glob("Pulumi.*.yaml")} - {"Pulumi.local.yaml"})
SECRETS = [
    "TOKEN=arn:aws:secretsmanager:us-east-1:123456789012:secret:token-AbCdEf:key::",
    "LOGIN=arn:aws:ssm:us-east-1:123456789012:parameter/login",
]
SETTINGS = {
    **{file: {} for file in FILES},
    "all": {
        "network": "private",
        "customerKey": True,
        "secrets": SECRETS,
        "metrics": True,
        "alarms": True,
    },
}
"""What is set besides, by the stack's file; without one it is the development stack's."""


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


@pytest.fixture(scope="session", params=SETTINGS)
def stack(request, deploy) -> Stack:
    """Each stack of this repository that is for AWS, and one with all that adds permissions."""
    file = request.param if request.param in FILES else "Pulumi.dev.yaml"
    config = yaml.safe_load((ROOT / file).read_text())["config"] | SETTINGS[request.param]
    main = str(ROOT / "__main__.py")
    return Stack(deploy(lambda: runpy.run_path(main), config))


@pytest.fixture(scope="session")
def needed(calls, stack) -> dict[str, list[Access]]:
    """What each role needs: what was called, and what AWS does in its name."""
    asked = {
        role: [access for call in made for access in needs(call)]
        + (services.of_lambda(role) if role in HANDLERS else [])
        for role, made in calls.items()
    } | {"execution": services.of_the_agent(stack.secrets)}
    return {
        role: [*accesses, *services.of_key(accesses, stack.key)] for role, accesses in asked.items()
    }


@pytest.fixture(scope="session")
def world(needed) -> World:
    return World(needed)


@pytest.fixture(scope="session")
def roles(stack, needed) -> dict[str, Policies]:
    return {role: Policies(*stack.role(role).values()) for role in needed}
