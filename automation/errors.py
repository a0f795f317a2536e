"""What goes wrong with a stack, said in one line that tells what to do."""

import itertools
import re
from collections.abc import Sequence
from typing import Final


class StackError(RuntimeError):
    """An operation that could not begin, or did not end well; the text says what to do."""


class MissingCliError(StackError):
    """There is no Pulumi CLI on PATH."""


class ProjectError(StackError):
    """The folder is no Pulumi project."""


class UnknownStackError(StackError):
    """The backend has no such stack."""


class LockedStackError(StackError):
    """Another operation holds the stack, or died while it did."""


class PassphraseError(StackError):
    """The stack's secrets cannot be read."""


class AccessError(StackError):
    """Backend, account or Docker did not let us in, or could not be reached."""


class ProtectedError(StackError):
    """Resources that hold models, data or images are protected from `destroy`."""


class OutputError(StackError):
    """The stack's outputs lack what a command needs."""


class OperationError(StackError):
    """The engine, the program or a provider refused; the text is theirs."""


KNOWN_FAULTS: Final[tuple[tuple[str, type[StackError], str], ...]] = (
    (
        r"no stack named .* found",
        UnknownStackError,
        "there is no stack {stack} in this backend; create it: pushtrain up -s {stack}",
    ),
    (
        r"the stack is currently locked by|Another update is currently in progress",
        LockedStackError,
        (
            "stack {stack} is locked by another operation; wait for it, or, if none is running any "
            "more: pulumi cancel -s {stack}"
        ),
    ),
    (
        "incorrect passphrase",
        PassphraseError,
        (
            "the passphrase must be the one that stack {stack} was created with: set "
            "PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE"
        ),
    ),
    (
        "passphrase must be set",
        PassphraseError,
        (
            "stack {stack} needs its passphrase: set PULUMI_CONFIG_PASSPHRASE or "
            "PULUMI_CONFIG_PASSPHRASE_FILE"
        ),
    ),
    (
        "PULUMI_ACCESS_TOKEN must be set|you must run `pulumi login`",
        AccessError,
        "pulumi is not logged in to a backend: pulumi login, or set PULUMI_BACKEND_URL",
    ),
    (
        (
            "No valid credential sources|NoCredentialProviders|no EC2 IMDS role found|"
            "Unable to locate credentials|ExpiredToken|InvalidClientTokenId|"
            "UnrecognizedClientException|SignatureDoesNotMatch|"
            "failed to refresh cached credentials|security token included in the request is"
        ),
        AccessError,
        "AWS credentials are missing or no longer valid: aws sts get-caller-identity must answer",
    ),
    (
        (
            "Cannot connect to the Docker daemon|Is the docker daemon running|"
            "failed to connect to any docker daemon"
        ),
        AccessError,
        "the Docker engine does not answer; start it: docker info must answer",
    ),
    (
        (
            "no such host|dial tcp|connection refused|network is unreachable|i/o timeout|"
            "TLS handshake timeout|Could not connect to the endpoint"
        ),
        AccessError,
        "the network or an endpoint does not answer",
    ),
)
"""What the engine and the providers say, whose fault that is, and what to do."""
MOST_DETAIL: Final = 300
END = re.compile("[a-z]+ failed")


def explain(stack: str, said: str, diagnostics: Sequence[str]) -> StackError:
    """Return the error that tells a user what the engine said, and what to do.

    said: all that the CLI wrote; diagnostics: the engine's own errors, if it got that far.
    """
    texts = [plain for text in diagnostics if (plain := without_traceback(text))]
    # The engine's own word comes last, and says nothing where a resource's error stands before it.
    texts = [text for text in texts if not END.fullmatch(text)] or texts
    whole = "\n".join([*texts, said])
    for pattern, kind, advice in KNOWN_FAULTS:
        if found := re.search(pattern, whole):
            message = advice.format(stack=stack)
            if kind is AccessError:
                start = whole.rfind("\n", 0, found.start()) + 1
                detail = whole[start:].partition("\n")[0].strip()
                detail = re.sub(r"\A(stdout: |stderr: )?(error: )?", "", detail)[:MOST_DETAIL]
                message += f" ({detail})"
            return kind(message)
    if not texts:
        stderr = said.rpartition("\n stderr: ")[2].strip() or said.strip()
        texts = [stderr.removeprefix("error: ")]
    return OperationError("\n".join(dict.fromkeys(texts)))


def without_traceback(text: str) -> str:
    """Return what an error of the program says, without the way there."""
    if "Traceback (most recent call last)" not in text:
        return text.strip()
    lines = text.splitlines()
    last = max(at for at, line in enumerate(lines) if line.lstrip().startswith('File "'))
    depth = len(lines[last]) - len(lines[last].lstrip())
    rest = itertools.dropwhile(
        lambda line: not line.strip() or len(line) - len(line.lstrip()) >= depth, lines[last:]
    )
    said = "\n".join(rest).strip()
    return re.sub(r"\A[A-Za-z_][\w.]*: ", "", said)
