"""Each row of the matrix on the embedded cloud, with the real Lambdas."""

import pytest

from tests.faults import docs
from tests.faults.guards import GUARDS, Guard
from tests.faults.rows import ROWS, Row
from tests.faults.stage import ROOT
from tests.faults.verdict import judge

pytestmark = pytest.mark.localcloud

BY_NAME = {row.act.__name__: row for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault.replace(" ", "-"))
def test_a_fault_ends_as_the_table_says(stage, row: Row):
    judge(stage, row)


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "-"))
def test_without_a_guard_its_rows_fail(cast, monkeypatch, guard: Guard):
    monkeypatch.setattr(cast, "patience", 15)
    for name in guard.rows:
        cast.clear()
        # Whatever a row meets then, a record that its schema refuses say, is red.
        with cast.without(guard), pytest.raises(BaseException):  # noqa: B017, PT011
            judge(cast, BY_NAME[name])


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name.replace(" ", "-"))
def test_a_guard_stands_where_it_is_said_to(guard: Guard):
    for file, text, instead in guard.changes:
        source = (ROOT / "handler" / file).read_text()
        assert source.count(text) == 1
        compile(source.replace(text, instead), file, "exec")
    assert set(guard.rows) <= set(BY_NAME)


def test_the_page_of_the_matrix_is_made_of_it():
    """Write it anew with `python -m tests.faults.docs`."""
    assert docs.PAGE.read_text() == docs.page()
