"""What the engine says, word for word as it was recorded, and what a user is told of it."""

import pytest

from automation.errors import (
    AccessError,
    LockedStackError,
    OperationError,
    PassphraseError,
    UnknownStackError,
    explain,
    without_traceback,
)

SETTINGS = """Program failed with an unhandled exception:
Traceback (most recent call last):
  File "/home/me/pushtrain/__main__.py", line 8, in <module>
    pipeline = TrainingPipeline("pushtrain", Settings.load())
                                             ^^^^^^^^^^^^^^^
  File "/home/me/pushtrain/components/settings.py", line 113, in load
    raise SettingsError(
components.settings.SettingsError: 1 setting(s) of this stack cannot be used:
  - cpu must be one of 256, 512, got 3: pulumi config set pushtrain:cpu 2048

"""


def said(stderr, stdout="", code=255):
    """Put the CLI's answer as the SDK does."""
    return f"\n code: {code}\n stdout: {stdout}\n stderr: {stderr}"


@pytest.mark.parametrize(
    ("stderr", "kind", "told"),
    [
        (
            "error: no stack named 'nope' found",
            UnknownStackError,
            "there is no stack dev in this backend; create it: pushtrain up -s dev",
        ),
        (
            (
                "error: the stack is currently locked by 1 lock(s). Either wait for the other "
                "process(es) to end or delete the lock file with `pulumi cancel`.\n"
                "  file:///state/.pulumi/locks/organization/pushtrain/dev/1.json: created by me"
            ),
            LockedStackError,
            (
                "stack dev is locked by another operation; wait for it, or, if none is running any "
                "more: pulumi cancel -s dev"
            ),
        ),
        (
            "error: getting stack configuration: get stack secrets manager: incorrect passphrase",
            PassphraseError,
            (
                "the passphrase must be the one that stack dev was created with: set "
                "PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE"
            ),
        ),
        (
            (
                "error: getting stack configuration: get stack secrets manager: passphrase must "
                "be set with PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE "
                "environment variables"
            ),
            PassphraseError,
            (
                "stack dev needs its passphrase: set PULUMI_CONFIG_PASSPHRASE or "
                "PULUMI_CONFIG_PASSPHRASE_FILE"
            ),
        ),
        (
            "error: PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions",
            AccessError,
            (
                "pulumi is not logged in to a backend: pulumi login, or set PULUMI_BACKEND_URL ("
                "PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions)"
            ),
        ),
    ],
)
def test_what_the_cli_refuses_is_told_in_one_line_with_the_mend(stderr, kind, told):
    error = explain("dev", said(stderr), [])

    assert type(error) is kind
    assert str(error) == told


@pytest.mark.parametrize(
    "diagnostic",
    [
        "pulumi-aws:default_7_51_1: No valid credential sources found.",
        (
            "operation error STS: GetCallerIdentity, https response error StatusCode: 403, "
            "api error InvalidClientTokenId: The security token included in the request is invalid."
        ),
        "operation error S3: CreateBucket, api error ExpiredToken: The provided token has expired.",
    ],
)
def test_missing_credentials_are_told_with_the_engines_own_line(diagnostic):
    error = explain("dev", said(""), ["something else", diagnostic])

    assert isinstance(error, AccessError)
    assert str(error) == (
        "AWS credentials are missing or no longer valid: aws sts get-caller-identity must answer "
        f"({diagnostic})"
    )


def test_a_network_that_is_down_is_told_with_who_was_asked():
    line = "dial tcp: lookup sts.us-east-1.amazonaws.com: no such host"
    error = explain("dev", said(f"error: {line}"), [])

    assert isinstance(error, AccessError)
    assert "the network or an endpoint does not answer" in str(error)
    assert line in str(error)


def test_a_docker_engine_that_is_down_is_told():
    error = explain("dev", said(""), ["Cannot connect to the Docker daemon at unix:///x.sock"])

    assert "docker info must answer" in str(error)


def test_refused_settings_come_out_as_the_program_wrote_them():
    error = explain("dev", said("", "much more"), [SETTINGS])

    assert type(error) is OperationError
    assert str(error) == (
        "1 setting(s) of this stack cannot be used:\n"
        "  - cpu must be one of 256, 512, got 3: pulumi config set pushtrain:cpu 2048"
    )


def test_of_two_exceptions_the_last_one_is_told():
    text = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 1, in f\n'
        "    int('x')\n"
        "ValueError: invalid\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        '  File "b.py", line 2, in g\n'
        "    raise RuntimeError('outer: inner') from error\n"
        "RuntimeError: outer: inner\n"
    )

    assert without_traceback(text) == "outer: inner"


def test_a_traceback_of_an_older_provider_is_left_out_with_its_indentation():
    text = (
        "Exception calling application\n"
        "    Traceback (most recent call last):\n"
        '      File "a.py", line 1, in f\n'
        "        raise E\n"
        "    pkg.E: told\n"
    )

    assert without_traceback(text) == "told"


def test_what_nobody_knows_is_told_as_the_engine_said_it_once():
    error = explain(
        "dev", said("error: update failed"), ["bucket: odd\n", "bucket: odd", "b", "update failed"]
    )

    assert type(error) is OperationError
    assert str(error) == "bucket: odd\nb"


def test_the_engines_last_word_is_told_where_there_is_no_other():
    assert str(explain("dev", said(""), ["update failed"])) == "update failed"


def test_an_error_before_the_engine_began_is_told_as_the_cli_said_it():
    assert str(explain("dev", said("error: unknown flag: --x"), [])) == "unknown flag: --x"
