"""The run's log: plain lines on stdout, since its reader is a log stream and no terminal."""

import sys


def say(line: str) -> None:
    """Write a line at once, so that a follower sees it when it happens."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
