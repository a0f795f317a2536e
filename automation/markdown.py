"""One Markdown comment from a preview's engine events, for whoever has to say yes to it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from automation import cost, grants
from automation.comments import MOST_CHARACTERS, UNKNOWN, Section, Writer, fit, watermark
from automation.engine_events import (
    SECRET,
    UNKNOWN_VALUES,
    Change,
    Preview,
    Properties,
    is_under,
    leaves,
    read,
    secret_paths,
)

MOST_NAMES: Final = 12

WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "replace": "to replace",
        "delete": "to delete",
        "create": "to create",
        "update": "to update",
        "same": "unchanged",
    }
)
CONTENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "aws:s3/bucket:Bucket": "every object in it",
        "aws:s3/bucketObjectv2:BucketObjectv2": "its data",
        "aws:ecr/repository:Repository": "every image in it",
        "aws:cloudwatch/logGroup:LogGroup": "its logs",
        "aws:sqs/queue:Queue": "the messages in it",
        "aws:sns/topic:Topic": "its subscribers, who would have to confirm again",
        "aws:sns/topicSubscription:TopicSubscription": "its confirmation",
        "aws:kms/key:Key": "whatever it encrypted",
    }
)
"""What goes with a resource that goes."""


def comment(
    events: Iterable[Any],
    *,
    stack: str,
    region: str,
    metrics: bool = False,
) -> str:
    """Return the comment on a preview, for a new comment or in place of an older one.

    Its first line finds the older one. Events are those of `pulumi preview --event-log`, as parsed
    JSON, or what `on_event` of Pulumi's Automation API hands over. `metrics` says whether the
    stack's settings have it write some, which no resource tells.
    """
    preview = read(events)
    writer = Writer(tuple(sorted(preview.secrets, key=len, reverse=True)))
    finished = preview.result is not None or preview.failed
    head = [
        watermark("preview", stack),
        _title(stack, region, preview, finished=finished, writer=writer),
    ]
    head.append(_counts(preview))
    if not preview.failed and finished:
        head.append(_idle_cost(preview, region, metrics=metrics))
    replaced, deleted, created, updated = map(
        preview.operations, ("replace", "delete", "create", "update")
    )
    updated = [change for change in updated if not _is_told_by_permissions(change)]
    sections = [
        Section("What failed", _errors(preview, writer), most=18_000),
        Section("Policy violations", _violations(preview, writer), most=9_000),
        Section(
            "Replaced: a new one is made, the old one deleted",
            _going(replaced, writer),
            most=14_000,
        ),
        Section("Deleted", _going(deleted, writer), most=6_000),
        _permissions(preview, writer),
        Section(f"Updated ({len(updated)})", _updates(updated, writer), folded=True),
        Section(
            f"Created ({len(created)})",
            _creations(created, writer, in_new_stack=_is_new(preview)),
            folded=True,
        ),
        Section(f"Warnings ({len(preview.warnings)})", _warnings(preview, writer), folded=True),
    ]
    return fit("\n\n".join(filter(None, head)), sections)


def _title(stack: str, region: str, preview: Preview, *, finished: bool, writer: Writer) -> str:
    where = f"{writer.code(stack)} in {writer.code(region)}"
    if preview.result == "canceled":
        return f"## Preview of {where} was cancelled"
    if preview.failed:
        return f"## ❌ Preview of {where} failed"
    return f"## Preview of {where}" if finished else f"## Preview of {where} did not finish"


def _counts(preview: Preview) -> str:
    counts = preview.counts
    if not counts:
        counts = defaultdict[str, int](int)
        for change in preview.changes.values():
            counts[change.operation] += 1
    known = {word: counts.get(operation, 0) for operation, word in WORDS.items()}
    text = " · ".join(
        f"{count} {word}" if word == WORDS["same"] else f"**{count} {word}**"
        for word, count in known.items()
        if count
    )
    if preview.failed:
        return f"Seen before it failed: {text}" if text else ""
    if not any(count for word, count in known.items() if word != WORDS["same"]):
        return f"**No changes.** {text}"
    return text


def _idle_cost(preview: Preview, region: str, *, metrics: bool) -> str:
    if region not in cost.regions():
        return f"Idle cost: not known, the price table has {', '.join(cost.regions())}."
    previous: list[cost.Resource] = [
        (change.kind, {**change.before, **(change.old.get("outputs") or {})})
        for change in preview.changes.values()
        if change.old
    ]
    # Whether the settings had them before, nobody tells: a stack that was there counts as now.
    before = cost.idle_cost(previous, region, metrics=metrics and bool(previous))
    after = cost.idle_cost(
        [
            (change.kind, change.after)
            for change in preview.changes.values()
            if change.operation != "delete"
        ],
        region,
        metrics=metrics,
    )
    if before.monthly == after.monthly:
        text = f"Idle cost: **{cost.dollars(after.monthly)} a month**, before and after."
    else:
        difference = after.monthly - before.monthly
        sign = "+" if difference > 0 else "-"
        was, now = cost.dollars(before.monthly), cost.dollars(after.monthly)
        text = f"Idle cost: {was} → **{now} a month** ({sign}{cost.dollars(abs(difference))})"
    old_lines = {line.what: line for line in before.lines}
    new_lines = {line.what: line for line in after.lines}
    for what in dict.fromkeys((*old_lines, *new_lines)):
        old, new = old_lines.get(what), new_lines.get(what)
        counts = [f"{line.count:g}" if line else "0" for line in (old, new)]
        totals = [line.total if line else 0 for line in (old, new)]
        if counts[0] != counts[1]:
            text += f"\n- {what}: {' → '.join(counts)}, {' → '.join(map(cost.dollars, totals))}"
    if after.unpriced:
        text += f"\n- {cost.NOT_COUNTED}: {', '.join(after.unpriced)}"
    return text + "".join(f"\n- {note}" for note in after.notes)


def _errors(preview: Preview, writer: Writer) -> list[str]:
    return [
        (f"{writer.code(name)}:\n\n" if name else "") + writer.text_block(text)
        for name, text in preview.errors
    ]


def _violations(preview: Preview, writer: Writer) -> list[str]:
    """Tell each rule's complaint once, with all resources that it is about, mandatory first."""
    order = {"mandatory": 0, "remediate": 1}
    about: dict[tuple[int, str, str, str], list[str]] = defaultdict(list)
    for found in preview.violations:
        pack = f"{found.get('policyPackName', '')} {found.get('policyPackVersion') or ''}".strip()
        rank = order.get(str(found.get("enforcementLevel")), 2)
        rule = (rank, str(found.get("policyName", "")), pack, str(found.get("message", "")))
        name = str(found.get("resourceUrn") or "").rpartition("::")[2]
        about[rule] += [name] if name else []
    chunks: list[str] = []
    # Sorted by rank alone: within one, as the engine told them.
    for rule, names in sorted(about.items(), key=lambda entry: entry[0][0]):
        rank, policy, pack, message = rule
        shown = ", ".join(map(writer.code, names[:MOST_NAMES]))
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        chunks.append(
            f"{'advisory' if rank else '**mandatory**'}: {writer.code(policy)} of "
            f"{writer.code(pack)}"
            + (f" on {shown}{more}" if names else "")
            + "\n\n"
            + writer.text_block(message)
        )
    return chunks


def _warnings(preview: Preview, writer: Writer) -> list[str]:
    return [
        f"- {writer.code(name)}: {writer.code(text)}" if name else f"- {writer.code(text)}"
        for name, text in preview.warnings
    ]


def _label(change: Change, writer: Writer) -> str:
    package, _, rest = change.kind.partition(":")
    module, _, class_name = rest.partition(":")
    module = module.partition("/")[0]
    kind = f"{package if module == 'index' else module}.{class_name}"
    parts = [f"**{writer.code(change.name)}** · {writer.code(kind)}"]
    if change.operation == "replace" and change.keys:
        parts[0] += " · forced by " + ", ".join(map(writer.code, change.keys[:MOST_NAMES]))
    if change.operation in ("replace", "delete"):
        if change.old.get("protect"):
            parts.append("**It is protected: `pulumi up` will refuse to delete it.**")
        parts.append(_loss(change))
    return "  \n".join(filter(None, parts))


def _going(changes: Sequence[Change], writer: Writer) -> list[str]:
    """Tell why resources go and what goes with them, worst first."""
    worst = sorted(changes, key=lambda change: _loss(change) == "")
    return _grouped(
        [
            (change, _difference(change, writer) if change.operation == "replace" else [])
            for change in worst
        ],
        writer,
    )


def _loss(change: Change) -> str:
    if change.old.get("retainOnDelete"):
        return "The old one stays in the account, and Pulumi forgets it."
    contents = CONTENTS.get(change.kind)
    return f"**Deletes {contents}.**" if contents else ""


def _grouped(changes: Sequence[tuple[Change, list[str]]], writer: Writer) -> list[str]:
    """Show resources to which the same happens together, so that the rest can be seen."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for change, rows in changes:
        groups[tuple(rows)].append(_label(change, writer))
    chunks: list[str] = []
    for rows, labels in groups.items():
        for start in range(0, len(labels), MOST_NAMES):
            some = labels[start : start + MOST_NAMES]
            text = some[0] if len(some) == 1 else "\n".join(f"- {label}" for label in some)
            chunks.append(text + (f"\n\n{writer.block(rows)}" if rows else ""))
    return chunks


def _updates(updated: Sequence[Change], writer: Writer) -> list[str]:
    return _grouped([(change, _difference(change, writer)) for change in updated], writer)


def _creations(created: Sequence[Change], writer: Writer, *, in_new_stack: bool) -> list[str]:
    if in_new_stack:
        # All of a new stack is new: its names are enough.
        return [f"- {_label(change, writer)}" for change in created]
    return _grouped([(change, _difference(change, writer)) for change in created], writer)


def _is_new(preview: Preview) -> bool:
    return all(change.operation == "create" for change in preview.changes.values())


def _difference(change: Change, writer: Writer) -> list[str]:
    """Return the lines of a diff, by path; policies are told apart, grant by grant."""
    hidden = secret_paths(change)
    before, after = change.before, change.after
    keys = [key for key in dict.fromkeys((*before, *after)) if not key.startswith("__")]
    if change.changed and change.operation != "create":
        # What others changed shows in the old outputs only.
        outputs: Properties = change.old.get("outputs") or {}
        before = {
            key: outputs[key] if before.get(key) == after.get(key) and key in outputs else value
            for key, value in before.items()
        }
        keys = [key for key in keys if key in change.changed]
    policies = grants.POLICIES.get(change.kind, ())
    rows: dict[str, None] = {}
    for key in keys:
        if key in policies:
            continue
        old = dict(leaves(key, before[key])) if key in before else {}
        new = dict(leaves(key, after[key])) if key in after else {}
        for path in dict.fromkeys((*old, *new)):
            if is_under(path, hidden):
                rows[f"! {path}: {SECRET}"] = None
            elif path not in old or path not in new or old[path] != new[path]:
                rows |= {f"- {path}: {writer.value(old[path])}": None} if path in old else {}
                rows |= {f"+ {path}: {writer.value(new[path])}": None} if path in new else {}
    return list(rows)


# Permissions


@dataclass
class _Permission:
    """What a change does to one resource's policies."""

    rows: list[str]
    unknown: bool


def _permission(change: Change) -> _Permission:
    """Compare the policies of before and after, grant by grant."""
    found = _Permission(rows=[], unknown=False)
    old = {} if change.operation == "create" else grants.documents(change.kind, change.before)
    new = {} if change.operation == "delete" else grants.documents(change.kind, change.after)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) == new.get(name):
            continue
        if name in secret_paths(change):
            found.rows.append(f"! {name}: {SECRET}")
            continue
        if UNKNOWN_VALUES & {str(old.get(name)), str(new.get(name))}:
            found.unknown = True
            continue
        try:
            before = grants.read(old.get(name) or [])
            after = grants.read(new.get(name) or [])
        except grants.UnreadableError as error:
            found.rows.append(f"! {name}: {error}")
            continue
        gone = {grant: sid for grant, sid in before.items() if grant not in after}
        come = {grant: sid for grant, sid in after.items() if grant not in before}
        found.rows += [f"- {row}" for row in grants.write(gone)]
        found.rows += [f"+ {row}" for row in grants.write(come)]
        found.rows += [f"! {row}" for row in grants.wide(come)]
    for value in UNKNOWN_VALUES:
        found.rows = [row.replace(value, f"({UNKNOWN})") for row in found.rows]
    return found


def _is_told_by_permissions(change: Change) -> bool:
    policies = set(grants.POLICIES.get(change.kind, ()))
    told = _permission(change)
    return change.changed <= policies and (told.unknown or bool(told.rows))


def _permissions(preview: Preview, writer: Writer) -> Section:
    changed = [change for change in preview.changes.values() if change.operation != "same"]
    found = [(change, _permission(change)) for change in changed]
    chunks = _grouped([(change, entry.rows) for change, entry in found if entry.rows], writer)
    if unknown := [change for change, entry in found if entry.unknown]:
        names = ", ".join(writer.code(change.name) for change in unknown[:MOST_NAMES])
        more = f" and {len(unknown) - MOST_NAMES} more" if len(unknown) > MOST_NAMES else ""
        chunks.append(
            f"The new policies of {names}{more} are {UNKNOWN}: they name something that does not "
            "exist yet."
        )
    new = _is_new(preview)
    return Section("Permissions", chunks, most=MOST_CHARACTERS if new else 14_000, folded=new)
