"""Each role may do what its code was seen to do, and nothing else that is like it."""

import pytest

from tests.least_privilege.access import Policies
from tests.least_privilege.world import mutations

ROLES = ("invoke", "observe", "reconcile", "task", "execution")


def test_each_role_of_the_stack_is_looked_at(stack):
    known = {name for role in ROLES for name in stack.role(role)}

    granted = stack.deployment.of_type("aws:iam/rolePolicy:RolePolicy")

    assert {made.name for made in granted} == known


@pytest.mark.parametrize("role", ROLES)
def test_each_call_is_allowed(roles, needed, role):
    assert [str(access) for access in needed[role] if not roles[role].allow(access)] == []


@pytest.mark.parametrize("role", ROLES)
def test_nothing_else_is_allowed(roles, world, role):
    more = world.allowed(roles[role]) - world.needed[role]

    assert sorted(map(str, more)) == []


@pytest.mark.parametrize("role", ROLES)
def test_no_action_is_granted_that_nothing_was_seen_to_use(stack, needed, role):
    granted = {
        action
        for document in stack.role(role).values()
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
    }

    assert granted == {access.action for access in needed[role]}


@pytest.mark.parametrize("role", ROLES)
def test_whatever_is_taken_from_a_policy_or_widened_in_it_is_noticed(stack, world, role):
    documents = stack.role(role)
    tried = [
        (f"{name} {mutation.what}", [*others, mutation.document], mutation.actions)
        for name, document in documents.items()
        for others in [[other for key, other in documents.items() if key != name]]
        for mutation in mutations(document)
    ]
    unnoticed = [
        what
        for what, changed, actions in tried
        if not world.notices(role, Policies(*changed), actions)
    ]

    assert len(tried) > 20
    assert unnoticed == []


def test_a_role_is_passed_to_tasks_alone_and_only_one_of_the_two(stack):
    for part in ("invoke", "observe", "reconcile"):
        (grant,) = (
            statement
            for document in stack.role(part).values()
            for statement in document["Statement"]
            if "iam:PassRole" in statement["Action"]
        )

        assert len(grant["Resource"]) == 2
        assert grant["Condition"] == {
            "StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
        }
