"""The judge itself: IAM's rules of wildcards, conditions, and of Deny over Allow."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.least_privilege import services
from tests.least_privilege.access import Access, Call, Policies, needs

NAMES = st.text("ab*?:/", max_size=6)
PLAIN = st.text("ab:/", max_size=6)
BUCKET = "arn:aws:s3:::b"


def statement(effect="Allow", action="s3:GetObject", resource="*", **more):
    return {"Sid": "S", "Effect": effect, "Action": action, "Resource": resource, **more}


def allows(*statements, action="s3:GetObject", resource="r", **context):
    access = Access(action, resource, {key.replace("__", ":"): v for key, v in context.items()})
    return Policies({"Statement": list(statements)}).allow(access)


def matches(pattern, name):
    """Match by the definition: * is any characters, ? is one."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(matches(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and matches(pattern[1:], name[1:])


@given(NAMES, PLAIN)
def test_resources_and_string_like_match_by_wildcards(pattern, name):
    condition = {"StringLike": {"s3:prefix": pattern}}

    assert allows(statement(resource=f"x{pattern}"), resource=f"x{name}") == matches(pattern, name)
    assert allows(statement(Condition=condition), s3__prefix=name) == matches(pattern, name)


@given(st.lists(st.tuples(st.sampled_from(["Allow", "Deny"]), st.sampled_from("ab*")), max_size=5))
def test_a_deny_beats_each_allow_and_nothing_said_is_no(said):
    effects = [effect for effect, resource in said if resource in ("a", "*")]

    assert allows(*(statement(effect, resource=on) for effect, on in said), resource="a") == (
        "Allow" in effects and "Deny" not in effects
    )


@given(st.lists(PLAIN, min_size=1, max_size=3), PLAIN, PLAIN, st.booleans())
def test_one_value_of_a_key_will_do_and_each_key_and_operator_must(wanted, prefix, cluster, more):
    condition = {"StringEquals": {"s3:prefix": wanted}}
    if more:
        condition["ArnEquals"] = {"ecs:cluster": "a"}
    context = {"s3__prefix": prefix, "ecs__cluster": cluster}

    assert allows(statement(Condition=condition), **context) == (
        prefix in wanted and (not more or cluster == "a")
    )


@given(PLAIN)
def test_string_equals_knows_no_wildcard(value):
    condition = {"StringEquals": {"s3:prefix": "*"}}

    assert not allows(statement(Condition=condition), s3__prefix=value)


@pytest.mark.parametrize("operator", ["ArnEquals", "ArnLike", "Bool", "StringEquals", "StringLike"])
def test_a_key_that_is_not_there_meets_no_condition(operator):
    assert not allows(statement(Condition={operator: {"s3:prefix": "*"}}))


@given(st.lists(st.sampled_from("abc"), max_size=3))
def test_all_values_of_a_key_must_be_among_those_and_of_none_that_is_true(values):
    condition = {"ForAllValues:StringEquals": {"events:source": ["a", "b"]}}
    there = {"Null": {"events:source": "false"}}
    context: dict[str, Any] = {"events__source": tuple(values)} if values else {}

    assert allows(statement(Condition=condition), **context) == ({*values} <= {"a", "b"})
    assert allows(statement(Condition=there), **context) == bool(values)


@given(st.sampled_from(["s3:GetObject", "s3:getobject", "S3:GETOBJECT"]), st.booleans())
def test_actions_are_the_same_in_any_case_and_resources_are_not(action, same):
    resource = "arn:aws:s3:::b/key" if same else "arn:aws:s3:::b/KEY"

    assert (
        allows(statement(action=action, resource="arn:aws:s3:::b/key"), resource=resource) == same
    )


def test_a_statement_for_a_service_is_for_no_other():
    policies = Policies({"Statement": [statement(Principal={"Service": "events.amazonaws.com"})]})

    assert policies.allow(Access("s3:GetObject", "r", principal="events.amazonaws.com"))
    assert not policies.allow(Access("s3:GetObject", "r", principal="sns.amazonaws.com"))
    assert not policies.allow(Access("s3:GetObject", "r"))


def test_an_operator_that_nobody_tried_here_is_refused():
    with pytest.raises(AssertionError, match="NumericLessThan"):
        Policies({"Statement": [statement(Condition={"NumericLessThan": {"a:b": "1"}})]})


def of(service, operation, absent=False, roles=(), **params):
    return [
        str(a)
        for a in needs(
            Call(service=service, operation=operation, params=params, absent=absent, roles=roles)
        )
    ]


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject"])
def test_reading_a_version_is_an_action_of_its_own(operation):
    assert of("s3", operation, Bucket="b", Key="k") == [f"s3:GetObject {BUCKET}/k"]
    assert of("s3", operation, Bucket="b", Key="k", VersionId="v") == [
        f"s3:GetObjectVersion {BUCKET}/k"
    ]


def test_what_is_absent_must_be_listable_to_be_known_as_such():
    assert of("s3", "GetObject", absent=True, Bucket="b", Key="k") == [
        f"s3:GetObject {BUCKET}/k",
        f"s3:ListBucket {BUCKET} s3:prefix=k",
    ]


@pytest.mark.parametrize(
    "operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_an_upload_in_parts_is_a_put(operation):
    assert of("s3", operation, Bucket="b", Key="k") == [f"s3:PutObject {BUCKET}/k"]


def test_tags_and_roles_are_asked_for_besides():
    cluster, role = "arn:aws:ecs:r:a:cluster/c", "arn:aws:iam::a:role/r"
    request = {"cluster": cluster, "taskDefinition": "d", "roles": [role]}

    bare = of("ecs", "RunTask", **request)
    tagged = of("ecs", "RunTask", **request, propagateTags="TASK_DEFINITION")

    assert [re.sub(" .*", "", each) for each in bare] == ["ecs:RunTask", "iam:PassRole"]
    assert [each.split()[0] for each in tagged[2:]] == ["ecs:TagResource"]


def test_an_own_key_is_asked_for_through_each_service_that_encrypts_with_it():
    accesses = [Access("s3:GetObject", "r"), Access("sns:Publish", "r"), Access("ecs:RunTask", "r")]
    s3, sns = ({"kms:ViaService": f"{name}.us-east-1.amazonaws.com"} for name in ("s3", "sns"))

    assert services.of_key(accesses, "") == []
    assert services.of_key(accesses, "key") == [
        Access("kms:Decrypt", "key", s3),
        Access("kms:Decrypt", "key", sns),
        Access("kms:GenerateDataKey", "key", sns),
    ]
