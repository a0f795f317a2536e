"""Deploys a stack from a script, waits for the training that its image starts, tells the result.

python examples/train_from_a_script.py dev ~/cifar10.zip
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from automation.stacks import Stack, StackError

POLL_SECONDS = 5


def wait_for_run(stack: Stack, bucket: str, image: str) -> dict[str, Any]:
    """Return an image's run record (docs/run-record.md) once it is final."""
    run = image.rpartition(":")[2][:12]
    with stack.client("s3") as s3:
        while True:
            try:
                answer = s3.get_object(Bucket=bucket, Key=f"runs/{run}/run.json")
            except s3.exceptions.NoSuchKey:
                record = None
            else:
                record = json.load(answer["Body"])
            if record and record["ended_at"]:
                return record
            time.sleep(POLL_SECONDS)


def train(stack: Stack) -> dict[str, Any]:
    """Deploy, which pushes the image if its files have changed; return the record of its run."""
    update = stack.up(on_event=lambda _: print(".", end="", flush=True))
    print(f"\n{len(update.changes)} changes in {update.seconds:.0f} s")
    return wait_for_run(stack, update.outputs["bucket"], update.outputs["image"])


def main() -> None:
    """Train on the data set that the command line names."""
    name, data = sys.argv[1:]
    settings = {"data.path": str(Path(data).resolve()), "parameters": ["epochs=20", "seed=1"]}
    stack = Stack(name, settings=settings)
    try:
        record = train(stack)
        bucket = stack.outputs()["bucket"]
    except StackError as error:
        sys.exit(f"error: {error}")
    if record["state"] != "SUCCEEDED":
        sys.exit(f"run {record['run']} {record['state']}: {record['diagnosis']['summary']}")
    print(f"run {record['run']}: accuracy {record['metrics']['accuracy']:.1%}")
    print(f"model: s3://{bucket}/runs/{record['run']}/")


if __name__ == "__main__":
    main()
