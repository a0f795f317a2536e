"""Write docs/faults.md from the rows and the guards: `python -m tests.faults.docs`."""
# ruff: noqa: E501 -- the page has longer lines

from typing import Final

from tests.faults.guards import GUARDS
from tests.faults.rows import ROWS, Row
from tests.faults.stage import ROOT

PAGE: Final = ROOT / "docs" / "faults.md"
_HEAD: Final = """\
# What happens on a bad day

Each row is a fault that the tests inject into the embedded cloud, where the real Lambdas meet it over HTTP, and what must have come
of it: `make test` runs them all (`tests/faults/rows.py`; this page is made of it by `python -m tests.faults.docs`). After each row,
nothing may be left open: no mark, no slot, no task, no task definition; the record is final, says why and what to do; never had the
run two tasks at a time; and reconcile finds nothing to do.

- *Attempts*: the cause that each ended with, `-` for one that did its work. *Tasks*: how many were ever started.
- *Told*: messages to people / events to programs. *Queue*: what lies in the stack's queues, for `pushtrain redrive`.

| fault | where | run | attempts | tasks | told | queue |
|---|---|---|---|---|---|---|
"""
_GUARDS: Final = """
## What each guard is for

Each guard was taken out of the handlers, alone, and these rows failed. `pytest -m slow tests/faults/test_matrix.py` does it again.

| guard | without it these fail |
|---|---|
"""


def page() -> str:
    """Return the whole page."""
    faults = {row.act.__name__: row.fault for row in ROWS}
    guards = [
        f"| {guard.name} | {'; '.join(faults[name] for name in guard.rows)} |" for guard in GUARDS
    ]
    return _HEAD + "\n".join(map(_line, ROWS)) + "\n" + _GUARDS + "\n".join(guards) + "\n"


def _line(row: Row) -> str:
    state = row.state if row.cause is None else f"{row.state}: {row.cause}"
    attempts = ", ".join(cause or "-" for cause in row.attempts) or "none"
    if row.providers:
        attempts += f" on {', '.join(row.providers)}"
    queue = ", ".join(f"{name} {count}" for name, count in row.queue.items()) or "-"
    told = f"{_times(row.notices)} / {_times(row.events)}"
    cells = row.fault, row.where, state, attempts, str(row.tasks), told, queue
    return f"| {' | '.join(cells)} |"


def _times(number: int | None) -> str:
    return "1 or more" if number is None else str(number)


if __name__ == "__main__":
    PAGE.write_text(page())
