"""What each guard of the handlers is for: taken away, these rows of the matrix turn red."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One guard, as the text of handler/ that is it, and that text without it."""

    name: str
    changes: tuple[tuple[str, str, str], ...]
    """File, its text, and what stands there instead."""
    rows: tuple[str, ...]
    """Functions of rows.py, each of which must fail without the guard."""


def guard(name: str, file: str, old: str, new: str, *rows: str) -> Guard:
    """Enter a guard of one place."""
    return Guard(name=name, changes=((file, old, new),), rows=rows)


GUARDS = (
    guard(
        "the claim is made with If-None-Match",
        "store.py",
        'self._write(run, IfNoneMatch="*")',
        "self._write(run)",
        "late_claim",
    ),
    guard(
        "a record is changed with If-Match",
        "store.py",
        "self._write(changed, IfMatch=etag)",
        "self._write(changed)",
        "ends_before_recorded",
    ),
    guard(
        "the mark of an open run comes before its claim",
        "store.py",
        'self._s3.put_object(Bucket=self._bucket, Key=f"{_OPEN}{run[\'run\']}", Body=b"")',
        "pass",
        "no_capacity",
    ),
    guard(
        "the full digest is compared, not its twelve digits",
        "invoke.py",
        'if run["image"]["digest"] != digest:',
        "if False:",
        "digest_clash",
    ),
    guard(
        "RunTask is asked with a clientToken of run and attempt",
        "tasks.py",
        '        "clientToken": hashlib.sha256(token.encode()).hexdigest(),\n',
        "",
        "killed_after_run_task",
    ),
    guard(
        "the request is on record before RunTask",
        "advance.py",
        'return store.change(run["run"], functools.partial(runs.attempted, build=build))',
        "return runs.attempted(run, build)",
        "killed_after_run_task_always",
    ),
    guard(
        "failures[] are no task",
        "tasks.py",
        'for failure in answer.get("failures", [])\n    ]',
        'for failure in answer.get("failures", [])\n    ]\n    return "arn:none", ""',
        "failures_resource",
        "no_capacity",
    ),
    guard(
        "the task that a ConflictException names is the attempt's",
        "tasks.py",
        'return arns[0], ""',
        "raise",
        "conflict",
    ),
    guard(
        "an error of RunTask that is not about the request is raised",
        "tasks.py",
        "if error_code(error) not in _REFUSALS:\n            raise",
        "if error_code(error) not in _REFUSALS:\n            return '', 'no'",
        "run_task_denied",
    ),
    guard(
        "a wait has its time",
        "runs.py",
        "(not_before is None or not_before <= time)",
        "True",
        "no_capacity",
    ),
    guard(
        "the next attempt asks the next capacity provider",
        "recovery.py",
        'step = 1 if _cause_of(last).provider == "next" else 0',
        "step = 0",
        "spot",
        "failures_capacity",
    ),
    guard(
        "the slots are changed on condition",
        "slots.py",
        'condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}',
        "condition: dict[str, str] = {}",
        "last_slot",
    ),
    Guard(
        name="a run that is over gives its slot back",
        changes=(
            (
                "ending.py",
                'Slots(clients.s3, wires["bucket"], wires["max_concurrent_runs"]).free(run["run"])',
                "pass",
            ),
            ("advance.py", 'slots.free(run["run"])', "pass"),
        ),
        rows=("killed_with_slot",),
    ),
    guard(
        "leaked slots are freed one by one",
        "reconcile.py",
        "self._try(lambda name=name: self._free_if_over(name, slots))",
        "self._free_if_over(name, slots)",
        "slots_of_strangers",
    ),
    guard(
        "a stop is on record before StopTask",
        "living.py",
        'run = store.change(run["run"], functools.partial(runs.to_be_stopped, stop=stop))',
        "run = runs.to_be_stopped(run, stop)",
        "never_ends",
    ),
    guard(
        "a cancel is on record before StopTask",
        "cancel.py",
        'run = store.change(run["run"], functools.partial(recovery.stop, stop=stop))',
        "pass",
        "cancelled",
    ),
    guard(
        "what we stopped is never tried again",
        "diagnosis.py",
        'matches=lambda end: end.we_stopped == "cancel"',
        "matches=lambda end: False",
        "cancelled_and_reclaimed",
    ),
    guard(
        "reconcile stops again what is to be stopped",
        "living.py",
        'if run["stop"] and not runs.is_final(run):',
        "if False:",
        "killed_before_stop",
    ),
    guard(
        "the time of all attempts counts",
        "living.py",
        'if earlier["task_arn"] and earlier["stopped_at"]:',
        "if False:",
        "time_over_attempts",
        "time_of_a_lost_task",
    ),
    guard(
        "a task that was lost has its time too",
        "living.py",
        'if earlier["task_arn"] and earlier["stopped_at"]:',
        'if earlier["started_at"] and earlier["stopped_at"]:',
        "time_of_a_lost_task",
    ),
    guard(
        "a task that ECS does not know is lost only after an hour",
        "living.py",
        "< _FORGETS_AFTER:",
        "< timedelta(0):",
        "vanished",
    ),
    guard(
        "a task that ECS has forgotten is judged by its manifest",
        "ending.py",
        "if end.exit_code == 0 or end.forgotten:",
        "if end.exit_code == 0:",
        "end_lost_and_forgotten",
    ),
    guard(
        "every published file is hashed",
        "manifest.py",
        "if (actual := _digest(found)) != sha256:",
        "if (actual := _digest(found)) == '':",
        "wrong_hash",
    ),
    Guard(
        name="an end that is marked as told is not told again",
        changes=(
            ("ending.py", 'if not run["notified_at"]:', "if True:"),
            ("observe.py", ' and not run["notified_at"]:', ":"),
        ),
        rows=("end_again",),
    ),
    guard(
        "an end is marked as told only when all were",
        "ending.py",
        'notices.send(clients, run, wires["topic"])\n'
        "        metrics.say(wires, lambda: metrics.of_end(run, datetime.now(UTC)))\n"
        '        run = store.change(run["run"], runs.notified)',
        'run = store.change(run["run"], runs.notified)\n'
        '        notices.send(clients, run, wires["topic"])\n'
        "        metrics.say(wires, lambda: metrics.of_end(run, datetime.now(UTC)))",
        "killed_before_notice",
    ),
    guard(
        "the event bus's refusal is an error",
        "notices.py",
        'if answer["FailedEntryCount"]:',
        "if False:",
        "put_events_fails",
    ),
    guard(
        "the champion is changed on condition",
        "champion.py",
        'condition: Any = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}',
        "condition: Any = {}",
        "champion_meanwhile",
    ),
    guard(
        "definitions of a run go with it",
        "ending.py",
        "definitions.retire(clients.ecs, run)",
        "pass",
        "good_day",
    ),
    guard(
        "a round goes on after a run that fails",
        "reconcile.py",
        "self._errors.append(error)",
        "raise",
        "damaged_neighbour",
        "push_lost_beside_damage",
    ),
    guard(
        "an unreadable record is not none",
        "store.py",
        'return self._parse(run, answer["Body"].read()), answer["ETag"]',
        'try:\n            return self._parse(run, answer["Body"].read()), answer["ETag"]\n'
        "        except RecordError:\n            return None",
        "record_not_json",
        "record_newer",
    ),
    guard(
        "parameters are refused before the claim",
        "tasks.py",
        "(size := len(json.dumps(overrides))) > _OVERRIDES_LIMIT",
        "(size := 0) > _OVERRIDES_LIMIT",
        "parameters_too_long",
    ),
    guard(
        "once an hour, images without a run are delivered",
        "reconcile.py",
        "self._try(self._deliver_lost_pushes)",
        "pass",
        "push_lost",
    ),
)
