"""No process of the cloud outlives the one that holds it, however that one ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Reads "+group" and "-group" lines until the pipe's only writer is gone, then ends what is left.
_REAPER = """
import os, shutil, signal, sys, time
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for _ in range(50):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(0.1)
"""
# A child waits for the word that it has been announced; should we die first, it reads the end.
_HELD = 'read -r _ || exit 1; exec "$@"'


def kill_group(group: int) -> None:
    """End a process group at once; one that is gone already is no fault."""
    # macOS answers EPERM for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class Lifeline:
    """Starts processes that end with this one, and owns the folder that they leave files in.

    A reaper process holds the reading end of a pipe whose writing end only we hold, so it notices
    our end in every case, SIGKILL included.
    """

    def __init__(self, folder: Path) -> None:
        self._children: set[subprocess.Popen[Any]] = set()
        self._lock = threading.Lock()
        reading, self._pipe = os.pipe()
        # A session of its own: Ctrl-C in the terminal must not end the reaper before its work.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _REAPER, str(folder)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(reading)

    def popen(
        self, command: Sequence[str], *, keep_stdin: bool = False, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command as the leader of a process group that the reaper knows of."""
        held = _HELD if keep_stdin else f"{_HELD} </dev/null"
        options = {**options, "stdin": subprocess.PIPE, "start_new_session": True}
        child: subprocess.Popen[Any] = subprocess.Popen(
            ["/bin/sh", "-c", held, "sh", *command], **options
        )
        with self._lock:
            self._children.add(child)
            os.write(self._pipe, f"+{child.pid}\n".encode())
        if child.stdin:
            os.write(child.stdin.fileno(), b"\n")
            if not keep_stdin:
                child.stdin.close()
                child.stdin = None
        return child

    def wait(self, child: subprocess.Popen[Any]) -> int:
        """Wait for a child, end its whole group, and give the code as a container runtime does."""
        code = child.wait()
        self.forget(child)
        return 128 - code if code < 0 else code

    def forget(self, child: subprocess.Popen[Any]) -> None:
        """End what a child that has ended left behind; its number may be used again after that."""
        kill_group(child.pid)
        with self._lock:
            if child in self._children:
                self._children.remove(child)
                os.write(self._pipe, f"-{child.pid}\n".encode())

    def close(self) -> None:
        """End every child that is left, and remove the folder."""
        for child in tuple(self._children):
            kill_group(child.pid)
            self.wait(child)
        os.close(self._pipe)
        self._reaper.wait(10)
