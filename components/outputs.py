"""Outputs that wait for more than their own resource."""

from typing import Any, TypeVar

from pulumi import Output

T = TypeVar("T")


def after(value: Output[T], *others: Output[Any]) -> Output[T]:
    """Return the value once the others are known: their resources made, their checks passed."""
    return Output.all(value, *others).apply(lambda known: known[0])
