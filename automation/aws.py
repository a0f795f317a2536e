"""AWS as the commands meet it: where it is, and what goes wrong with it, said in one line."""

import contextlib
import ipaddress
from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ProfileNotFound,
    SSOError,
)

BAD_CREDENTIALS: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "UnrecognizedClientException",
    }
)
FORBIDDEN: Final = frozenset(
    {"403", "AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
)
NOT_THERE: Final = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "ClientException",
        "NoSuchBucket",
        "ParameterNotFound",
        "QueueDoesNotExist",
        "RepositoryNotFoundException",
        "ResourceNotFoundException",
    }
)
"""ECS says ClientException of a task definition that it does not know."""
PERMISSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ChangeMessageVisibility": "sqs:ChangeMessageVisibility",
        "CompleteMultipartUpload": "s3:PutObject",
        "CreateMultipartUpload": "s3:PutObject",
        "DeleteMessage": "sqs:DeleteMessage",
        "DeleteParameter": "ssm:DeleteParameter",
        "DescribeImages": "ecr:DescribeImages",
        "DescribeTaskDefinition": "ecs:DescribeTaskDefinition",
        "GetAuthorizationToken": "ecr:GetAuthorizationToken",
        "GetLogEvents": "logs:GetLogEvents",
        "GetObject": "s3:GetObject",
        "GetParameter": "ssm:GetParameter",
        "HeadObject": "s3:GetObject",
        "Invoke": "lambda:InvokeFunction",
        "ListObjectsV2": "s3:ListBucket",
        "PutObject": "s3:PutObject",
        "PutParameter": "ssm:PutParameter",
        "ReceiveMessage": "sqs:ReceiveMessage",
        "UploadPart": "s3:PutObject",
    }
)
"""What IAM calls the permission for an operation that the commands ask for."""


def is_loopback(host: str | None) -> bool:
    """Tell whether a host is this machine, which then is an embedded cloud and not AWS."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def is_embedded(endpoint: str | None) -> bool:
    """Tell whether an endpoint is that of an embedded cloud."""
    return is_loopback(urlsplit(endpoint or "").hostname)


@contextlib.contextmanager
def told_as(kind: type[Exception]) -> Generator[None]:
    """Turn what boto3 raises into an error of this kind: one line that tells what to do."""
    try:
        yield
    except (CredentialRetrievalError, NoCredentialsError, ProfileNotFound, SSOError) as error:
        raise kind(_credentials_fault(error)) from error
    except ClientError as error:
        raise kind(_client_fault(error)) from error
    except BotoCoreError as error:
        raise kind(f"{one_line(error)}: pushtrain doctor looks for the cause") from error


def code_of(error: ClientError) -> str:
    """Return AWS's name of the error."""
    return error.response.get("Error", {}).get("Code", "")


def one_line(error: Exception) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split())


def _client_fault(error: ClientError) -> str:
    code = code_of(error)
    if code in BAD_CREDENTIALS:
        return _credentials_fault(error)
    if code in FORBIDDEN:
        operation = error.operation_name
        permission = PERMISSIONS.get(operation, f"the permission for {operation}")
        return (
            f"these AWS credentials must have {permission}, got: {one_line(error)}: ask whoever "
            "manages the account, or use another AWS_PROFILE"
        )
    if code in NOT_THERE:
        return (
            f"{one_line(error)}: these are not this account's or not an up-to-date stack's "
            "outputs: run pushtrain up"
        )
    return f"{one_line(error)}: pushtrain doctor looks for the cause"


def _credentials_fault(error: Exception) -> str:
    return (
        f"AWS credentials must be valid, got: {one_line(error)}: aws sso login, or aws configure, "
        "or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )
