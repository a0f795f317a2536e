"""How long each part of a run took, and what of the log says so."""

import contextlib
import time
from collections.abc import Generator


class Phases:
    """Seconds by phase, in the order in which they were; what an earlier attempt spent counts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, phase: str) -> Generator[None]:
        """Add what the code inside takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - started)

    def add(self, phase: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + seconds, 3)
