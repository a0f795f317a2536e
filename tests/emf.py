"""The rules of CloudWatch's embedded metric format, as a schema and what a schema cannot say.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
Units: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
"""

import json
import math
from typing import Any

import jsonschema

PREFIXES = ("", "Kilo", "Mega", "Giga", "Tera")
AMOUNTS = [f"{prefix}{what}".capitalize() for what in ("bytes", "bits") for prefix in PREFIXES]
UNITS = ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"]
UNITS += [*AMOUNTS, *(f"{amount}/Second" for amount in AMOUNTS)]
NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
METRIC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["Name"],
    "properties": {
        "Name": NAME,
        "Unit": {"enum": UNITS},
        "StorageResolution": {"enum": [1, 60]},
    },
}
DIRECTIVE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["Namespace", "Dimensions", "Metrics"],
    "properties": {
        "Namespace": NAME,
        "Dimensions": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "array", "maxItems": 30, "items": NAME, "uniqueItems": True},
        },
        "Metrics": {"type": "array", "maxItems": 100, "items": METRIC},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "additionalProperties": False,
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                # Milliseconds: seconds would be of 1970, and nanoseconds of no year at all.
                "Timestamp": {"type": "integer", "minimum": 10**12, "maximum": 10**13},
                "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": DIRECTIVE},
            },
        }
    },
}
LONGEST_DIMENSION = 1024
LONGEST_EVENT = 256 * 1024
"""Bytes; some pages of AWS say 1 MB by now."""


def read(line: str) -> dict[str, Any]:
    """Hold one line of a log against the format, and return its document."""
    assert "\n" not in line
    assert len(line.encode()) <= LONGEST_EVENT
    document = json.loads(line, parse_constant=_refuse)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    for directive in document["_aws"]["CloudWatchMetrics"]:
        names = [metric["Name"] for metric in directive["Metrics"]]
        assert len(names) == len(set(names))
        for name in names:
            value = document[name]
            assert type(value) in {int, float}
            assert math.isfinite(value)
            # https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
            assert abs(value) <= 2**360
        for name in {name for names in directive["Dimensions"] for name in names}:
            assert isinstance(document[name], str)
            assert 1 <= len(document[name]) <= LONGEST_DIMENSION
    return document


def metrics_of(line: str) -> dict[str, tuple[float, str]]:
    """Return each metric's value and unit."""
    document = read(line)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "pushtrain"
    assert directive["Dimensions"] == [["stack"]]
    return {each["Name"]: (document[each["Name"]], each["Unit"]) for each in directive["Metrics"]}


def is_one(line: str) -> bool:
    """Say whether the line is meant to be a document of the format."""
    return '"_aws"' in line


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
