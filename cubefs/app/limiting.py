"""The limits on traffic with the store, as options and `cubefs limit` spell them.

Must never: enforce them (store/throttle.py does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cubefs.store.rates import (
    format_byte_rate,
    format_operation_rate,
    parse_byte_rate,
    parse_operation_rate,
)
from cubefs.store.throttle import Kind, Limits

_KINDS = {"put": Kind.PUT, "get": Kind.GET, "list": Kind.LIST, "delete": Kind.DELETE}
WORDS = ("up", "down", *_KINDS)
NO_LIMITS = Limits()


def changed(limits: Limits, given: Mapping[str, str]) -> Limits:
    """Return `limits` with the words in `given` set anew; the value `none` lifts a limit. Raises UsageError."""
    operations = dict(limits.operations)
    for word, value in given.items():
        if word == "up":
            limits = replace(limits, up_bytes_per_s=parse_byte_rate(value))
        elif word == "down":
            limits = replace(limits, down_bytes_per_s=parse_byte_rate(value))
        else:
            rate = parse_operation_rate(value)
            operations.pop(_KINDS[word], None)
            if rate is not None:
                operations[_KINDS[word]] = rate
    return replace(limits, operations=operations)


def spelled(limits: Limits) -> dict[str, str]:
    """Return the words and their values; `none` where there is no limit."""
    return {
        "up": format_byte_rate(limits.up_bytes_per_s),
        "down": format_byte_rate(limits.down_bytes_per_s),
        **{word: format_operation_rate(limits.operations.get(kind)) for word, kind in _KINDS.items()},
    }
