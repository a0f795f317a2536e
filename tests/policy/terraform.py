"""What a program registered, in Terraform's language, for tools that read nothing else."""

import json
import re
from collections.abc import Generator, Iterable
from typing import Any

from pulumi import AssetArchive, FileAsset

TYPES = {
    "aws:s3/bucketObjectv2:BucketObjectv2": "aws_s3_object",
    "aws:cloudwatch/logGroup:LogGroup": "aws_cloudwatch_log_group",
}
"""Types that Terraform has another name for."""
PREFIXES = {"ec2": "aws_"}
NAMES = {
    "code": "filename",
    "encryptionConfigurations": "encryption_configuration",
    "function": "function_name",
    "rules": "rule",
    "settings": "setting",
}
"""Properties that Terraform has another name for: a list is named for each of its blocks."""
MAPS = {"tags", "variables", "metadata"}
"""What is a value with keys, where others that look so are blocks."""


def terraform_type(token: str) -> str:
    """Return Terraform's name for a type: aws_s3_bucket for aws:s3/bucket:Bucket."""
    module, name = token.split(":")[1].split("/")
    return TYPES.get(token) or PREFIXES.get(module, f"aws_{module}_") + snake(name)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def address(made) -> str:
    return f"{terraform_type(made.typ)}.{label(made)}"


def label(made) -> str:
    return made.name.replace("-", "_")


def written(registrations: Iterable[Any]) -> str:
    """Write resources, with what one takes of another as a reference."""
    resources = list(registrations)
    known = {
        value: f"${{{address(made)}.{snake(key)}}}"
        for made in resources
        for key, value in {"id": f"{made.name}-id", **made.outputs}.items()
        if key not in made.inputs and isinstance(value, str)
        if key != "bucket" or made.typ == "aws:s3/bucket:Bucket"
    }
    # Longest first: an ARN has the name in it.
    mentioned = re.compile("|".join(re.escape(each) for each in sorted(known, key=len)[::-1]))
    lines = []
    for made in resources:
        lines.append(f'resource "{terraform_type(made.typ)}" "{label(made)}" {{')
        lines += body(made.inputs)
        lines.append("}")
    # A dollar that is IAM's own is doubled before those of references come in.
    text = "\n".join(lines).replace("${", "$${")
    return mentioned.sub(lambda found: known[found[0]], text) + "\n"


def body(inputs: dict[str, Any]) -> Generator[str]:
    for key, value in inputs.items():
        name = NAMES.get(key) or snake(key)
        if isinstance(value, AssetArchive | FileAsset):
            yield f'{name} = "file"'
        elif isinstance(value, float) and value.is_integer():
            yield f"{name} = {value:.0f}"
        elif isinstance(value, dict) and name not in MAPS:
            yield from block(name, value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                yield from block(name, item)
        elif isinstance(value, str) and value.startswith(("{", "[")):
            yield f"{name} = jsonencode({json.dumps(json.loads(value))})"
        else:
            yield f"{name} = {json.dumps(value)}"


def block(name: str, inputs: dict[str, Any]) -> Generator[str]:
    yield f"{name} {{"
    yield from body(inputs)
    yield "}"
