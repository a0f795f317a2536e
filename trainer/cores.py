"""How a process may use this machine's cores: asked before torch is there."""

import os
from typing import Final

BRIEFLY_AWAKE: Final = {"GOMP_SPINCOUNT": "50000"}
"""Environment by which threads that wait for each other stay awake, but not for long; torch's
read it when it is loaded. Asleep at once, they made a training a third slower on a machine at
rest; awake for as long as is their default, twice as slow on a busy one."""


def cores() -> int:
    """Count the cores this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
