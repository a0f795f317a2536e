"""The entry point: says at once what runs, then loads what takes seconds to import."""

import os
import signal
import sys
from collections.abc import Sequence

from trainer.config import check_job, parse_flags, read_config, read_job
from trainer.cores import BRIEFLY_AWAKE
from trainer.errors import TrainerError
from trainer.log import say
from trainer.stop import Stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer; 2 says that the parameters are bad, 1 that data or storage are."""
    # As PID 1 of a container a process ignores SIGTERM unless it handles it.
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.handle)
    try:
        flags = parse_flags(argv)
        job = read_job(flags)
        say(str(job))
        check_job(job)
        config = read_config(flags)
        # Libgomp would take it over a policy that somebody chose.
        if "OMP_WAIT_POLICY" not in os.environ:
            for name, text in BRIEFLY_AWAKE.items():
                os.environ.setdefault(name, text)
        # What a GPU's matrix products need to come out the same twice.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from trainer.train import run  # noqa: PLC0415 - torch takes seconds, the line above none

        run(job, config, stop)
    except TrainerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is published, no thread is left; taking torch and the images down in order would only
    # keep the container a second or two longer.
    os._exit(code)
