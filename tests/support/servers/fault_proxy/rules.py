"""Owns the vocabulary of faults: what a rule may say, whom it hits, where in a body it strikes.

A rule is {"action": ..., selectors ..., parameters ...}; the fields of Selector and of the action's class.
`at` is an offset in the content of the body, a fraction (a float) of it, or "random"; for cut_response also
"start": the server did its work, the client sees nothing of it. Without an announced length a fraction is one
of 64 KiB. Rules that act on a body hit only messages that have one, and answers only if they are 2xx.
Must never: touch a connection.
"""

from __future__ import annotations

import dataclasses
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

UNKNOWN_LENGTH_BYTES = 65536


class RuleError(ValueError):
    """This rule or setting makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Whom a rule hits; all of it must fit."""

    methods: str | tuple[str, ...] | None = None
    path: str | None = None  # regular expression, searched in the target as it is sent
    skip: int = 0  # spare the first matches
    first: int | None = None  # then hit only so many
    every: int = 1  # hit every nth match
    fraction: float = 1.0  # hit with this probability
    for_seconds: float | None = None  # no longer than this after the rule was made
    min_size: int = 0  # spare smaller bodies (of the direction concerned)

    def __post_init__(self) -> None:
        try:
            re.compile(self.path or "")
        except re.error as error:
            raise RuleError(f"path: {error}") from None
        for name in ("skip", "every", "fraction", "min_size"):
            _check(_is_number(getattr(self, name)), f"{name} must be a number, 0 or more")
        for name in ("first", "for_seconds"):
            value = getattr(self, name)
            _check(value is None or _is_number(value), f"{name} must be a number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Wait before the request is passed on, beside what the settings say; all latencies add up."""

    ms: float = 0
    jitter_ms: float = 0


@dataclass(frozen=True, kw_only=True)
class Error:
    """Answer with an error, `before` or `after` reading the body; `forward`: although the server did the work."""

    status: int = 503
    code: str | None = None
    message: str | None = None
    retry_after: float | str | None = None
    when: str = "after"
    forward: bool = False

    def __post_init__(self) -> None:
        _check(self.when in ("before", "after"), "when must be before or after")
        HTTPStatus(self.status)


@dataclass(frozen=True, kw_only=True)
class _Strike:
    at: float | int | str = 0.5

    def __post_init__(self) -> None:
        known = ("random", "start") if isinstance(self, CutResponse) else ("random",)
        _check(self.at in known or _is_number(self.at), f"at must be a number or one of {known}")
        _check(getattr(self, "how", "fin") in ("fin", "rst"), "how must be fin or rst")
        _check(getattr(self, "direction", "request") in ("request", "response"), "unknown direction")

    def offset(self, rng: random.Random, length: int | None) -> int:
        """Return where in a body of this length to strike."""
        span = UNKNOWN_LENGTH_BYTES if length is None else length
        if self.at == "random":
            return rng.randrange(span) if span else 0
        assert not isinstance(self.at, str), "a cut at the start has no offset"
        offset = int(self.at * span) if isinstance(self.at, float) else self.at
        return offset if length is None else min(offset, max(0, length - 1))


@dataclass(frozen=True, kw_only=True)
class CutRequest(_Strike):
    """Stop in the middle of the request's body; both connections are lost."""

    how: str = "rst"


@dataclass(frozen=True, kw_only=True)
class CutResponse(_Strike):
    """Stop in the middle of the answer's body, or before the answer."""

    how: str = "fin"


@dataclass(frozen=True, kw_only=True)
class Corrupt(_Strike):
    """Flip bits of one byte."""

    direction: str = "response"
    xor: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 < self.xor < 256, "xor must be 1 to 255")


@dataclass(frozen=True, kw_only=True)
class Stall(_Strike):
    """Go silent in the middle of a body."""

    direction: str = "response"
    seconds: float = 60


@dataclass(frozen=True, kw_only=True)
class LosePut:
    """Answer the PUT of an object with success, and do not pass it on."""


@dataclass(frozen=True, kw_only=True)
class HideNew:
    """Answer GET and HEAD of an object with 404 for `seconds` after it was put, or put again."""

    seconds: float = 5


@dataclass(frozen=True, kw_only=True)
class SkewDate:
    """Let the clock of the server be ahead by `seconds` in the answer's Date; negative: behind."""

    seconds: float = 3600


Action = Latency | Error | CutRequest | CutResponse | Corrupt | Stall | LosePut | HideNew | SkewDate
ACTIONS: Mapping[str, type[Any]] = {
    "latency": Latency,
    "error": Error,
    "cut_request": CutRequest,
    "cut_response": CutResponse,
    "corrupt": Corrupt,
    "stall": Stall,
    "lose_put": LosePut,
    "hide_new": HideNew,
    "skew_date": SkewDate,
}
OF_PUT = (LosePut, HideNew)  # concern only the PUT of objects
SELECTORS = frozenset(item.name for item in dataclasses.fields(Selector))


@dataclass
class Rule:
    """One rule, and how often it matched (`seen`) and struck (`hits`)."""

    id: int
    name: str
    action: Action
    selector: Selector
    spec: Mapping[str, Any]
    created_s: float = field(default_factory=time.monotonic)
    seen: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        methods = self.selector.methods or (("PUT",) if isinstance(self.action, OF_PUT) else ())
        self._methods = frozenset([methods] if isinstance(methods, str) else methods)
        self._path = re.compile(self.selector.path) if self.selector.path else None

    @property
    def is_for_answers(self) -> bool:
        """Whether the rule looks at answers, not at requests."""
        if isinstance(self.action, Corrupt | Stall):
            return self.action.direction == "response"
        return isinstance(self.action, CutResponse | HideNew | SkewDate)

    def strikes(self, rng: random.Random, *, method: str, target: str, size: int | None) -> bool:
        """Count a message, and decide whether it is hit."""
        wanted = self.selector
        if self._methods and method not in self._methods:
            return False
        if self._path is not None and not self._path.search(target):
            return False
        if (size or 0) < wanted.min_size:
            return False
        if wanted.for_seconds is not None and time.monotonic() - self.created_s > wanted.for_seconds:
            return False
        self.seen += 1
        number = self.seen - wanted.skip
        if number <= 0 or (wanted.first is not None and self.hits >= wanted.first):
            return False
        if wanted.every > 1 and number % wanted.every:
            return False
        if wanted.fraction < 1 and rng.random() >= wanted.fraction:
            return False
        self.hits += 1
        return True

    def describe(self) -> dict[str, Any]:
        """Return the rule as it was made, with its counters."""
        return {"id": self.id, **self.spec, "seen": self.seen, "hits": self.hits}


def make_rule(number: int, spec: Mapping[str, Any]) -> Rule:
    """Return the rule that `spec` describes. Raises RuleError."""
    rest = dict(spec)
    name = rest.pop("action", None)
    if name not in ACTIONS:
        raise RuleError(f"unknown action {name!r}; there are {', '.join(ACTIONS)}")
    selectors = {key: rest.pop(key) for key in list(rest) if key in SELECTORS}
    if isinstance(selectors.get("methods"), list):
        selectors["methods"] = tuple(selectors["methods"])
    try:
        action = ACTIONS[name](**rest)
        for item in dataclasses.fields(action):
            value = getattr(action, item.name)
            if item.name != "at" and isinstance(item.default, int | float) and not isinstance(value, int | float):
                raise RuleError(f"{item.name} must be a number")
        return Rule(number, name, action, Selector(**selectors), dict(spec))
    except (TypeError, ValueError) as error:
        raise RuleError(f"{name}: {error}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _check(is_sound: bool, complaint: str) -> None:
    if not is_sound:
        raise RuleError(complaint)
