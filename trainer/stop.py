"""Being told to stop: at once, or where nothing is lost by it."""

import contextlib
import signal
import sys
from collections.abc import Generator
from types import FrameType

from trainer.log import say


class Stop:
    """What a signal asks for; `handle` is its handler."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._deferred = False

    @property
    def requested(self) -> bool:
        """Whether a signal came that was deferred."""
        return self._signal is not None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """End the process, or leave it to whoever defers that."""
        self._signal = signal.Signals(signum)
        if not self._deferred:
            self.end("nothing is published")

    @contextlib.contextmanager
    def deferred(self) -> Generator[None]:
        """Let the code inside look at `requested`, and call `end` once it is ready."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:  # after the last look
            self.end("nothing is published")

    def end(self, what_is_left: str) -> None:
        """Leave with the shell's code for the signal."""
        found = self._signal or signal.SIGTERM
        say(f"stopped by {found.name}: {what_is_left}")
        sys.exit(128 + found)
