"""The comment on a preview: from recorded events of the engine, and from hostile ones."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pulumi.automation.events import EngineEvent

from automation import grants
from automation.comments import watermark
from automation.markdown import comment

EVENTS = Path(__file__).parent / "events"
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET_MARK = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
MOST = 64_000
RECORDED = sorted(file.stem for file in EVENTS.glob("*.jsonl"))


def recorded(name):
    return [json.loads(line) for line in (EVENTS / f"{name}.jsonl").read_text().splitlines()]


def told(events, **options):
    return comment(events, **{"stack": "dev", "region": "us-east-1", **options})


def lines_of(events, **options):
    return told(events, **options).splitlines()


def step(op, kind="aws:sqs/queue:Queue", name="queue", old=None, new=None, **metadata):
    """Return an event of the shape that the engine records."""
    urn = f"urn:pulumi:dev::pushtrain::{kind}::{name}"
    state = {"type": kind, "urn": urn, "custom": True, "id": "i", "parent": "", "outputs": {}}
    sides = {
        side: None if inputs is None else {**state, "inputs": inputs}
        for side, inputs in (("old", old), ("new", new))
    }
    entry = {"op": op, "urn": urn, "type": kind, "detailedDiff": None, "provider": ""}
    return {"resourcePreEvent": {"metadata": {**entry, **sides, **metadata}, "planning": True}}


def summary(result="succeeded", **changes):
    return {"summaryEvent": {"resourceChanges": changes, "isPreview": True, "result": result}}


def problem(message, severity="error", urn=""):
    return {"diagnosticEvent": {"message": message, "severity": severity, "urn": urn}}


def violation(message, level="mandatory", name="no-public-buckets"):
    found = {"message": message, "policyName": name, "policyPackName": "house-rules"}
    queue = "urn:pulumi:dev::pushtrain::aws:s3/bucket:Bucket::store"
    return {"policyEvent": {**found, "enforcementLevel": level, "resourceUrn": queue}}


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def statement(actions, resources: Any = "*", **more):
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def policy_change(old, new):
    kind = "aws:iam/rolePolicy:RolePolicy"
    sides = {"old": {"policy": old} if old else None, "new": {"policy": new} if new else None}
    op = "update" if old and new else "create" if new else "delete"
    return [step("same"), step(op, kind, "rights", diffs=["policy"], **sides), summary()]


# Recorded events


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_preview_has_its_mark_its_counts_and_whole_folds(name):
    events = recorded(name)

    lines = lines_of(events)
    assert lines[0] == "<!-- pushtrain:preview:dev -->"
    assert sum(line == "<details>" for line in lines) == lines.count("</details>")
    counted = next(event["summaryEvent"] for event in events if "summaryEvent" in event)
    for operation, count in counted["resourceChanges"].items():
        word = "unchanged" if operation == "same" else f"to {operation}"
        assert re.search(rf"\b{count} {word}\b", "\n".join(lines[:6]))


def test_counts_without_a_summary_are_the_engines():
    for name in ("first", "update", "replace", "network"):
        events = [event for event in recorded(name) if "summaryEvent" not in event]
        whole = lines_of(recorded(name))

        lines = lines_of(events)
        assert lines[2] == "## Preview of `dev` in `us-east-1` did not finish"
        assert lines[4] == whole[4]


def test_a_first_preview_names_what_is_created_and_costs_nothing_idle():
    lines = lines_of(recorded("first"))

    assert "**64 to create**" in lines
    assert "Idle cost: **$0.00 a month**, before and after." in lines
    assert "<summary>Created (54)</summary>" in lines
    assert "- **`pushtrain-store-bucket`** · `s3.Bucket`" in lines
    assert "- **`pushtrain-trainer-image`** · `docker.Image`" in lines


def test_policies_that_nobody_can_know_yet_are_named():
    (line,) = [line for line in lines_of(recorded("first")) if "unknown until deployed:" in line]

    assert line.startswith("The new policies of `pushtrain-training-task-policy`, ")
    assert "`pushtrain-trigger-invoke-work-policy`" in line


def test_an_update_shows_the_changed_leaves_and_groups_what_changes_alike():
    text = told(recorded("update"))

    assert "**1 to replace** · **4 to update** · 59 unchanged" in text
    assert (
        "**`pushtrain-training-template`** · `ecs.TaskDefinition` · forced by "
        "`containerDefinitions`, `memory`\n\n```diff\n"
        "- containerDefinitions[0].memory: 8192\n+ containerDefinitions[0].memory: 16384\n"
        '- memory: "8192"\n+ memory: "16384"\n```'
    ) in text
    assert text.count("- retentionInDays: 7\n+ retentionInDays: 3") == 1
    assert text.count("- **`pushtrain-tr") == 3
    assert text.index("### Replaced") < text.index("<summary>Updated")


def test_replacements_come_first_with_what_forces_and_what_is_lost():
    lines = lines_of(recorded("replace"))

    titles = [line for line in lines if line.startswith(("### ", "<summary>"))]
    assert titles[:3] == [
        "### Replaced: a new one is made, the old one deleted",
        "### Deleted",
        "### Permissions",
    ]
    bucket = lines.index("- **`pushtrain-store-bucket`** · `s3.Bucket` · forced by `bucket`  ")
    assert bucket == lines.index(titles[0]) + 2
    assert lines[bucket + 1].strip() == "**Deletes every object in it.**"
    assert '+ bucket: "pushtrain-models-of-dev"' in lines
    # A policy is told under Permissions, and only there.
    assert not any(".Statement" in line for line in lines)
    assert "**`pushtrain-store-data`** · `s3.BucketObjectv2`  " in lines


def test_widened_permissions_are_spelled_out():
    lines = lines_of(recorded("permissions"))

    assert "### Permissions" in lines
    removed = lines.index("- Allow s3:GetObject   (ReadCheckpoint)")
    assert re.fullmatch(r"-     on  arn:aws:s3:::\S+/checkpoints/\*", lines[removed + 1])
    added = lines.index("+ Allow s3:DeleteObject   (Publish)")
    assert [line.rpartition("/")[0].rpartition("/")[2] for line in lines[added + 1 : added + 4]]
    assert lines[added + 3].endswith("/data/*")
    assert "-     for Service ecs-tasks.amazonaws.com" in lines
    assert "+     for Service ec2.amazonaws.com" in lines
    assert lines.count("! wide: every action of sqs") == 2
    assert "<summary>Updated (4)</summary>" not in lines
    # What stays is not told.
    assert not any("s3:ListBucket" in line for line in lines)


def test_idle_cost_is_told_before_and_after():
    lines = lines_of(recorded("network"))

    assert "Idle cost: $0.00 → **$51.10 a month** (+$51.10)" in lines
    assert "- NAT gateway: 0 → 1, $0.00 → $32.85" in lines
    assert "- interface endpoint, by zone: 0 → 2, $0.00 → $14.60" in lines


def test_idle_cost_of_metrics_is_told_though_no_resource_shows_it():
    lines = lines_of(recorded("first"), metrics=True)
    assert "Idle cost: $0.00 → **$0.60 a month** (+$0.60)" in lines

    lines = lines_of(recorded("update"), metrics=True)
    assert "Idle cost: **$0.60 a month**, before and after." in lines


def test_a_region_without_prices_is_said_and_does_not_spoil_the_comment():
    text = told(recorded("update"), region="mars-1")

    assert "Idle cost: not known, the price table has ap-northeast-1, " in text
    assert "<summary>Updated (4)</summary>" in text


def test_bad_settings_stand_on_top_without_the_traceback():
    lines = lines_of(recorded("settings"))

    assert lines[2] == "## ❌ Preview of `dev` in `us-east-1` failed"
    top = lines.index("### What failed")
    assert lines[top + 2 : top + 4] == ["```text", "3 setting(s) of this stack cannot be used:"]
    assert lines[top + 5].startswith("  - cpu must be one of 256, 512, ")
    assert lines[top + 5].endswith("got 3000: pulumi config set pushtrain:cpu 2048")
    assert not any("Traceback" in line or "SettingsError" in line for line in lines)
    assert not any("Idle cost" in line for line in lines)


def test_a_program_error_tells_where_it_is():
    text = told(recorded("crash"))

    assert "```text\nKeyError: 'nothing'\n(__main__.py, line 11)\n```" in text
    assert "Traceback" not in text


def test_a_provider_without_an_account_is_told_in_its_own_words():
    text = told(recorded("unreachable"))

    assert "failed retrieving via all available methods" in text
    assert "connect: connection refused" in text
    assert "Traceback" not in text


def test_a_broken_policy_is_told_once_with_all_that_breaks_it():
    lines = lines_of(recorded("policy"))

    assert lines[2] == "## ❌ Preview of `dev` in `us-east-1` failed"
    first = lines.index("### Policy violations") + 2
    assert lines[first] == (
        "**mandatory**: `no-public-access` of `pushtrain 0.1.0` on "
        "`pushtrain-network-public-us-east-1a`, `pushtrain-network-public-us-east-1b`"
    )
    assert "leave mapPublicIpOnLaunch out" in lines
    assert [line.partition(":")[0] for line in lines if " of `pushtrain 0.1.0`" in line] == [
        "**mandatory**",
        "advisory",
    ]


def test_events_of_the_automation_api_tell_the_same():
    for name in ("update", "replace"):
        events = recorded(name)
        kept = [event for event in events if "preludeEvent" not in event]

        objects = [EngineEvent.from_json(event) for event in kept]
        assert told(objects) == told(kept)


# Shapes


def test_a_preview_without_changes_says_so():
    assert "**No changes.** 7 unchanged" in told([step("same", new={}), summary(same=7)])


def test_a_cancelled_preview_says_so():
    assert "## Preview of `dev` in `us-east-1` was cancelled" in told([summary("canceled")])


def test_policy_violations_stand_on_top_mandatory_first():
    events = [step("create", new={}), violation("maybe", "advisory"), violation("never"), summary()]

    lines = lines_of(events)
    assert lines[2].startswith("## ❌ ")
    first = lines.index("### Policy violations") + 2
    assert lines[first] == "**mandatory**: `no-public-buckets` of `house-rules` on `store`"
    assert lines[first + 2 : first + 5] == ["```text", "never", "```"]
    assert "advisory: `no-public-buckets` of `house-rules` on `store`" in lines


def test_an_advisory_violation_alone_is_no_failure():
    assert "❌" not in told([violation("maybe", "advisory"), summary(same=1)])


def test_an_error_names_its_resource_and_is_told_once():
    failed = problem("error: no\n", urn="urn:pulumi:dev::p::aws:sqs/queue:Queue::queue")

    text = told([failed, failed, problem("preview failed"), summary("failed")])
    assert text.count("`queue`:\n\n```text\nerror: no\n```") == 1
    assert "preview failed" not in text


def test_the_last_of_chained_exceptions_counts():
    chained = (
        'Program failed:\nTraceback (most recent call last):\n  File "/p/a.py", line 1, in x\n'
        "ValueError: first\n\nThe above exception was the direct cause of the following:\n\n"
        'Traceback (most recent call last):\n  File "/p/b.py", line 2, in y\n'
        "    raise\nsome.module.OtherError: second\n  - more\n"
    )

    assert "OtherError: second\n  - more\n(b.py, line 2)\n```" in told([problem(chained)])


def test_protected_and_retained_resources_say_so():
    events = [
        step("delete", name="kept", old={}),
        step("delete", name="safe", old={}),
        summary(delete=2),
    ]
    events[0]["resourcePreEvent"]["metadata"]["old"]["retainOnDelete"] = True
    events[1]["resourcePreEvent"]["metadata"]["old"]["protect"] = True

    text = told(events)
    assert "**It is protected: `pulumi up` will refuse to delete it.**" in text
    assert "The old one stays in the account, and Pulumi forgets it." in text
    assert text.count("**Deletes the messages in it.**") == 1


def test_what_holds_data_comes_first_among_what_goes():
    route = step("delete", "aws:ec2/route:Route", "route", old={})

    text = told([route, step("delete", old={}), summary(delete=2)])
    assert text.index("`queue`") < text.index("`route`")


def test_what_others_changed_shows_by_the_old_outputs():
    drifted = step("update", old={"delay": 1}, new={"delay": 1}, diffs=["delay"])
    drifted["resourcePreEvent"]["metadata"]["old"]["outputs"] = {"delay": 9}

    assert "```diff\n- delay: 9\n+ delay: 1\n```" in told([drifted, summary(update=1)])


def test_files_are_told_by_their_hash():
    asset = {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17"}
    old, new = ({"code": {**asset, "hash": letter * 64}} for letter in "ab")

    text = told([step("update", old=old, new=new, diffs=["code"]), summary(update=1)])
    assert f"- code: file {'a' * 12}\n+ code: file {'b' * 12}\n" in text


# Permissions


def test_every_part_of_a_statement_counts():
    old = statement("s3:GetObject", "arn:a", Sid="Read")
    condition = {"Bool": {"aws:SecureTransport": "true"}}

    lines = lines_of(policy_change(policy(old), policy({**old, "Condition": condition})))
    assert "- Allow s3:GetObject   (Read)" in lines
    assert "+     if  Bool aws:SecureTransport true" in lines


def test_another_name_for_a_statement_or_another_order_changes_nothing():
    first, second = statement("a:B", "arn:x", Sid="One"), statement(["c:D", "c:E"], ["arn:y"])

    text = told(policy_change(policy(first, second), policy(second, {**first, "Sid": "Two"})))
    assert "### Permissions" not in text
    assert "**`rights`** · `iam.RolePolicy`" in text


def test_excepted_actions_are_one_wide_grant():
    wide = {"Effect": "Allow", "NotAction": ["iam:*", "sts:*"], "Resource": "*"}

    lines = lines_of(policy_change(policy(), policy(wide)))
    assert "+ Allow everything but iam:*, sts:*" in lines
    assert "! wide: everything but iam:*, sts:*" in lines
    assert "! wide: on every resource" in lines


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}])
def test_anyone_is_wide(principal):
    grant = statement("s3:GetObject", "arn:x", Principal=principal)

    assert "! wide: for anyone" in lines_of(policy_change(policy(), policy(grant)))


def test_denials_are_not_wide():
    denial = {**statement("*"), "Effect": "Deny", "Principal": "*"}

    text = told(policy_change(policy(), policy(denial)))
    assert "+ Deny *" in text
    assert "! wide" not in text


def test_an_attached_policy_is_told_by_its_name():
    arn = "arn:aws:iam::aws:policy/AdministratorAccess"
    sides = {"old": {"managedPolicyArns": []}, "new": {"managedPolicyArns": [arn]}}
    role = step("update", "aws:iam/role:Role", "role", diffs=["managedPolicyArns"], **sides)

    assert f"+ Attach {arn}" in lines_of([role, summary(update=1)])


def test_a_deleted_policy_takes_its_grants_away():
    assert "- Allow s3:GetObject" in lines_of(
        policy_change(policy(statement("s3:GetObject")), None)
    )


@pytest.mark.parametrize("document", ["{", '"text"', '{"Statement": ["x"]}', "7", "{}"])
def test_a_document_that_is_no_policy_is_said(document):
    text = told(policy_change(policy(statement("s3:GetObject")), document))

    assert "! policy: a policy" in text


def test_grants_read_what_they_are_written_from():
    document = policy(statement(["a:B", "a:C"], ["x", "y"], Sid="Two"), statement("d:E", "x"))

    found = grants.read(document)
    assert len(found) == 5
    assert list(grants.write(found)) == [
        "Allow a:B, a:C   (Two)",
        "    on  x",
        "        y",
        "Allow d:E",
        "    on  x",
    ]


# Secrets

MARKER = "hunter2-marker"


def secret(plaintext=None):
    clear = {} if plaintext is None else {"plaintext": json.dumps(plaintext)}
    return {SIGNATURE: SECRET_MARK, "ciphertext": "W3NlY3JldF0=", **clear}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"value": MARKER}, {"value": secret()}),
        ({"value": secret(MARKER)}, {"value": secret("other")}),
        ({"list": [{"a": secret(MARKER)}]}, {"list": [{"a": MARKER}]}),
        ({"registry": {"password": MARKER}}, {"registry": {"password": "new-password"}}),
        ({"json": json.dumps({"dbPassword": MARKER})}, {"json": json.dumps({"x": 1})}),
        ({"apiToken": MARKER}, {"apiToken": f"{MARKER}2"}),
        ({"x": secret({"deep": [MARKER]})}, {"y": f"before {MARKER} after"}),
    ],
)
@pytest.mark.parametrize("operation", ["update", "replace"])
def test_secrets_are_never_shown(old, new, operation):
    keys = [*old, *new]
    events = [step(operation, old=old, new=new, diffs=keys, keys=keys), summary(update=1)]

    text = told(events)
    assert MARKER not in text
    assert "W3NlY3JldF0=" not in text
    assert "[secret]" in text


def test_a_new_input_beside_a_secret_output_is_secret():
    change = step("update", old={"value": "was-" + MARKER}, new={"value": MARKER}, diffs=["value"])
    change["resourcePreEvent"]["metadata"]["old"]["outputs"] = {"value": secret()}

    text = told([change, summary(update=1)])
    assert MARKER not in text
    assert "! value: [secret]" in text


def test_a_secret_is_struck_out_of_errors_and_names_and_over_lines():
    lines = f"{MARKER}\nsecond-line"
    change = step("create", name=f"a-{MARKER}", new={"value": secret(lines), "b": secret(MARKER)})
    events = [change, problem(f"login with {lines} failed, {MARKER} too: AKIAABCDEFGHIJKLMNOP")]

    text = told(events)
    assert MARKER not in text
    assert "second-line" not in text
    assert "AKIA" not in text
    assert "login with [secret] failed, [secret] too: [secret]" in text


def test_a_secret_of_the_provider_is_struck_out_as_well():
    provider = step("create", "pulumi:providers:aws", "default", new={"secretKey": secret(MARKER)})

    assert MARKER not in told([provider, problem(f"bad signature {MARKER}")])


def test_the_neighbours_of_a_secret_are_shown():
    old = {"environment": {"LEVEL": "info", "KEY": secret(MARKER)}}
    new = {"environment": {"LEVEL": "debug", "KEY": secret(MARKER)}}

    text = told([step("update", old=old, new=new, diffs=["environment"]), summary(update=1)])
    assert '- environment.LEVEL: "info"\n+ environment.LEVEL: "debug"' in text
    assert MARKER not in text


# Size

LONG = "x" * 3_000


def many(count, operation="update"):
    """Return a preview of many resources, each with a large difference of its own."""
    changes = [
        step(
            operation,
            name=f"{operation}-{number}",
            old={f"key{i}": f"{number}{LONG}" for i in range(5)},
            new={f"key{i}": f"{LONG}{number}" for i in range(5)},
            diffs=[f"key{i}" for i in range(5)],
            keys=["key0"],
        )
        for number in range(count)
    ]
    return [step("same"), *changes, summary(**{operation: count})]


@pytest.mark.parametrize("operation", ["update", "create", "delete", "replace"])
def test_500_resources_fit_and_what_is_left_out_is_said(operation):
    text = told(many(500, operation))

    assert len(text) <= MOST
    assert f"**500 to {operation}**" in text
    assert re.search(r"\*\d+ more left out here, [\d,]+ characters\.\*", text)
    assert text.count("<details>") == text.count("</details>")


def test_what_is_folded_gives_way_first():
    events = [*many(300)[:-1], *many(3, "replace")[1:-1], problem("e" * 9_000)]
    events += [violation(f"v{number}") for number in range(5)]

    text = told(events)
    assert len(text) <= MOST
    assert all(f"v{number}\n" in text for number in range(5))
    assert "1 to replace" in text or "3 to replace" in text
    updated = text[text.index("<summary>Updated") :]
    assert "more left out here" in updated
    assert "more left out here" not in text[: text.index("<summary>Updated")]


def test_a_thousand_violations_and_errors_fit():
    events = [violation("v" * 900, name=f"rule-{number}") for number in range(1000)]
    events += [problem(f"{number} " + "e" * 5_000) for number in range(1000)]
    events += many(100, "delete") + many(100, "replace")

    text = told(events)
    assert len(text) <= MOST
    assert "### Deleted" in text


# Hostile values

HOSTILE = [
    "</details>",
    "`",
    "``` \n```",
    "````diff",
    "@everyone",
    "| a | b |",
    "<!-- -->",
    "<script>alert(1)</script>",
    "[x](javascript:1)",
    "\n# title\n",
    "- [ ] todo",
    "\u202egnp.exe\u200b",
    "\x1b[31mred\x1b[0m<{%reset%}>",
    "&lt;b&gt;",
    "\r\n</summary>",
]
hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*HOSTILE, "a", " ", "\n"]), max_size=6).map("".join),
    st.text(max_size=60),
)
values = st.recursive(
    st.one_of(hostile, st.none(), st.booleans(), st.integers(), st.just(UNKNOWN)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(hostile, inner, max_size=3)
    ),
    max_leaves=8,
)
inputs = st.dictionaries(st.one_of(hostile, st.just("policy")), values, max_size=4)
kinds = st.sampled_from([*grants.POLICIES, "aws:ec2/eip:Eip", "aws:ecs/cluster:Cluster", "odd"])


@st.composite
def steps(draw):
    operation = draw(st.sampled_from(["create", "update", "delete", "replace", "same", "read"]))
    old = draw(inputs) if operation != "create" else None
    new = draw(inputs) if operation != "delete" else None
    keys = draw(st.lists(hostile, max_size=3))
    sides = {"old": old, "new": new, "diffs": keys, "keys": keys}
    return step(operation, draw(kinds), draw(hostile), **sides)


previews = st.lists(
    st.one_of(
        steps(),
        hostile.map(problem),
        hostile.map(lambda text: problem(text, "warning")),
        hostile.map(violation),
        st.just(summary(update=3)),
    ),
    max_size=8,
)


def outside_of_code(text):
    """Return what is left of a comment when every fence and every code span is taken out."""
    kept, fence = [], None
    for line in text.split("\n"):
        marks = re.match(r"`{3,}", line)
        if fence is None and marks:
            fence = marks[0]
        elif fence is not None:
            if line == fence:
                fence = None
        else:
            kept.append(re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "CODE", line))
    assert fence is None, "a fence stays open"
    return "\n".join(kept)


PLAIN = re.compile(
    r"(CODE|\*\*|[\w .,:;()→$+%/❌·&'-]|\*\d+ more left out here, [\d,]+ characters\.\*)*"
)
OWN = {"", "<details>", "</details>", watermark("preview", "dev")}


@settings(max_examples=300)
@given(previews)
def test_nothing_foreign_leaves_its_code_span_or_fence(events):
    text = told(events)

    assert len(text) <= MOST
    for line in outside_of_code(text).split("\n"):
        summary_of_fold = re.fullmatch(r"<summary>[A-Z][a-z]+( \(\d+\))?</summary>", line)
        if line not in OWN and not summary_of_fold and not line.startswith("#"):
            assert PLAIN.fullmatch(line), line
    assert "@" not in outside_of_code(text)
    assert outside_of_code(text).count("<details>") == outside_of_code(text).count("</details>")
    assert not re.search(r"[\u202a-\u202e\u200b\x1b\r]", text)


@settings(max_examples=200)
@given(previews, inputs, st.sampled_from(["old", "new"]))
def test_no_marked_secret_is_ever_shown(events, more, side):
    marked = {**more, "x": [secret(MARKER)], "y": MARKER, "z": {"password": MARKER}}
    sides = {"old": more, "new": more, side: marked}

    text = told([*events, step("update", "aws:iam/role:Role", "role", **sides), problem(MARKER)])
    assert MARKER not in text


@pytest.mark.parametrize("stack", ["", "a b", "x-->", "dev\n", "-x", "ü"])
def test_a_stack_name_that_could_break_the_mark_is_refused(stack):
    with pytest.raises(ValueError, match="stack must be a Pulumi stack's name, got"):
        told([], stack=stack)


def test_a_value_that_is_nested_without_end_is_cut():
    old = {"value": "[" * 50_000}
    new = {"value": json.dumps([[[[[1]]]]] * 3), "deep": json.loads("[" * 200 + "]" * 200)}

    assert len(told([step("update", old=old, new=new), summary(update=1)])) < 5_000
