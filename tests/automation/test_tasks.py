"""Tasks and the definitions of runs, on an embedded ECS; with running ones in tests/engine."""

import pytest

from automation import tasks
from localcloud import Cloud

pytestmark = pytest.mark.localcloud

RUN = "0123456789ab"


@pytest.fixture(scope="module")
def ecs():
    with Cloud() as cloud:
        yield cloud.client("ecs")


def define(ecs, family):
    container = {"name": "trainer", "image": "train", "memory": 64}
    made = ecs.register_task_definition(family=family, containerDefinitions=[container])
    return made["taskDefinition"]["taskDefinitionArn"]


def test_definitions_of_the_stacks_runs_are_deregistered_and_no_others(ecs):
    own = {define(ecs, f"dev-{RUN}"), define(ecs, f"dev-{RUN}"), define(ecs, f"dev-{RUN[::-1]}")}
    others = {
        define(ecs, family)
        for family in ("dev-template", f"dev-{RUN}c", f"dev-x-{RUN}", f"dev2-{RUN}", f"x-dev-{RUN}")
    }
    gone = tasks.deregister_definitions(ecs, "dev")

    assert set(gone) == own
    assert set(ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"]) == others


def test_a_stack_name_is_no_pattern(ecs):
    other = define(ecs, f"d-v-{RUN}")

    assert tasks.deregister_definitions(ecs, "d.v") == []
    assert other in ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"]


def test_a_cluster_that_is_gone_has_no_tasks(ecs):
    assert tasks.running(ecs, ["arn:aws:ecs:us-east-1:000000000000:cluster/gone"]) == []
    assert tasks.stop(ecs, ["gone"]) == []
