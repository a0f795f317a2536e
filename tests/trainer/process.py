"""A Python process of its own, in which a test finds what its own has long loaded or set up."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**changes):
    """This process's, without what would be a run's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PUSHTRAIN_")}
    return {**plain, "PYTHONPATH": str(ROOT), **changes}


def python(*argv, cwd=ROOT, **changes):
    """Run Python to its end, with changes to its environment."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
