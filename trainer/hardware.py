"""The machine a run finds itself on."""

import os
import platform


def cores() -> int:
    """Count the cores this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, str | int]:
    """Say what the seconds of a run were measured on."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": cores(),
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - no folder in sight
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, "")
    except OSError:
        return platform.processor()
