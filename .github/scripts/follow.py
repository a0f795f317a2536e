"""Wait until a run has ended, and tell its states: follow.py STACK RUN --minutes N.

Ends well whatever came of the run, and when the time is up: the report says so. Each look takes a
new token of GitHub's, which is good for some minutes, and with it AWS gives a session. So a
training may take longer than a session lasts.
"""

import argparse
import json
import os
import subprocess
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
AUDIENCE = "sts.amazonaws.com"
SECONDS = float(os.environ.get("PUSHTRAIN_FOLLOW_SECONDS", "30"))
"""Between two looks."""


def renew_token() -> None:
    """Put a new token where the SDKs look for one; outside of GitHub there is none to be had."""
    url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    if not url:
        return
    bearer = os.environ["ACTIONS_ID_TOKEN_REQUEST_TOKEN"]
    request = urllib.request.Request(  # noqa: S310 - GitHub's own address
        f"{url}&audience={AUDIENCE}", headers={"Authorization": f"bearer {bearer}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        token = json.load(answer)["value"]
    file = Path(os.environ["AWS_WEB_IDENTITY_TOKEN_FILE"])
    file.touch(mode=0o600)
    file.write_text(token)


def look(stack: str, run: str) -> tuple[str, str]:
    """Give the run's state, or none and the reason."""
    done = subprocess.run(  # noqa: S603 - a list of words, no shell
        ["pushtrain", "runs", "show", run, "-s", stack, "--json"],  # noqa: S607 - CI's PATH
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return "", (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return json.loads(done.stdout)["record"]["state"], ""


def main() -> None:
    """Look, tell, wait."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stack")
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, required=True)
    given = parser.parse_args()
    deadline = time.monotonic() + given.minutes * 60
    told = ""
    while True:
        try:
            renew_token()
            state, why = look(given.stack, given.run)
        # No network, half an answer, or none that can be read: the next look may do better.
        except (OSError, HTTPException, ValueError) as error:
            state, why = "", str(error)
        # A run that is not there yet was pushed a moment ago; once an hour lost pushes are found.
        if (now := state or why) != told:
            print(now, flush=True)
            told = now
        if state in FINAL:
            return
        if time.monotonic() > deadline:
            print(f"not ended within {given.minutes:g} minutes", flush=True)
            return
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
