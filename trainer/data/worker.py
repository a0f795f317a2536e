"""One of the processes that decode: `python -m trainer.data.worker zip|folder PATH`.

It gets a line of file names, and answers with a line of shapes and then the pixels. It ends with
its input, so that no end of the trainer, however sudden, leaves one behind.
"""

import json
import signal
import sys
from pathlib import Path
from typing import IO

from trainer.data.images import decode_some
from trainer.data.sources import SOURCES, Source
from trainer.errors import DataError


def work(source: Source, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Decode what is asked for until nobody asks any more."""
    for line in orders:
        try:
            images = decode_some(source, json.loads(line))
        except DataError as error:
            answers.write(json.dumps({"error": str(error)}).encode() + b"\n")
        else:
            answers.write(
                json.dumps({"shapes": [image.shape for image in images]}).encode() + b"\n"
            )
            for image in images:
                answers.write(image.tobytes())
        answers.flush()


if __name__ == "__main__":
    # Ctrl-C reaches a terminal's whole group; the trainer ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work(SOURCES[sys.argv[1]](Path(sys.argv[2])), sys.stdin.buffer, sys.stdout.buffer)
