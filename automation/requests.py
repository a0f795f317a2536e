"""What the commands ask of a stack's handlers: by invoking them directly, and waiting."""

import getpass
import json
import socket
from collections.abc import Mapping
from typing import Any, Final, cast

from botocore.exceptions import BotoCoreError, ClientError

from automation.aws import one_line, told_as
from automation.deployed import Deployed
from automation.errors import StackError

LONGEST_SECONDS: Final = 910
"""Lambda's own limit is 900."""
SOURCE: Final = "pushtrain"

Answer = dict[str, Any]


class RequestError(StackError):
    """The handler failed, or there is none."""


class RefusedError(StackError):
    """The handler will not do what was asked; the text is its reason."""


class Handlers:
    """The Lambdas of a stack."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        # Asked twice, a handler does a thing once; but each would wait for its answer.
        self._lambda = deployed.client("lambda", read_timeout=LONGEST_SECONDS)

    def ask(self, output: str, kind: str, detail: Mapping[str, Any]) -> Answer:
        """Send a request of ours to the function that an output names; RefusedError if it says no.

        The answer has an `outcome`, and mostly `run` and `state`.
        """
        answer = self.invoke(output, {"source": SOURCE, "detail-type": kind, "detail": detail})
        if answer.get("outcome") == "refused":
            raise RefusedError(str(answer.get("reason") or "the handler gave no reason"))
        return answer

    def invoke(self, output: str, event: object) -> Answer:
        """Hand an event to the function that an output names, and give its answer."""
        function = self._deployed.output(output)
        with told_as(RequestError):
            answer = self._lambda.invoke(
                FunctionName=function,
                InvocationType="RequestResponse",
                Payload=json.dumps(event).encode(),
            )
            payload: object = json.loads(answer["Payload"].read() or b"null")
        document = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
        if answer.get("FunctionError"):
            said = document.get("errorMessage") or "no reason"
            kind = document.get("errorType") or answer["FunctionError"]
            raise RequestError(f"{function} failed with {kind}: {one_line(Exception(said))}")
        return document


def caller(deployed: Deployed) -> str:
    """Name who asks, for the record: the identity that AWS knows, or the user of this machine."""
    try:
        arn: str = deployed.client("sts").get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError):
        return f"{getpass.getuser()}@{socket.gethostname()}"
    return arn.split(":", 5)[-1]
