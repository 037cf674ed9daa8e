"""Owns what goes wrong at the moment: settings, rules, and the objects that pretend not to exist yet.

Must never: touch a connection.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tests.support.servers.fault_proxy.rules import (
    Corrupt,
    CutRequest,
    CutResponse,
    HideNew,
    Latency,
    Rule,
    RuleError,
    Stall,
    make_rule,
)
from tests.support.servers.fault_proxy.stream import Lane, Rate, Tamper

HIDDEN_MAX_COUNT = 1000


@dataclass(frozen=True)
class Settings:
    """What concerns every request. Rates are bytes per second, 0 is unlimited; up is from the client."""

    latency_ms: float = 0  # once per request
    jitter_ms: float = 0  # plus or minus so much, uniform
    conn_up: float = 0  # of each connection
    conn_down: float = 0
    total_up: float = 0  # of all connections together
    total_down: float = 0
    seed: int | None = None  # setting it restarts the random choices

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "seed" and (not isinstance(value, int | float) or value < 0):
                raise RuleError(f"{item.name} must be a number, 0 or more")


class Scenario:
    """The settings and rules in force."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.rng = random.Random()
        self._total = {"up": Rate(), "down": Rate()}
        self.rules: list[Rule] = []
        self._next_id = 1
        self._hidden: dict[str, float] = {}  # path -> until when

    def change(self, changes: Mapping[str, Any]) -> None:
        """Change some settings. Raises RuleError."""
        unknown = changes.keys() - asdict(self.settings).keys()
        if unknown:
            raise RuleError(f"unknown setting: {', '.join(sorted(unknown))}")
        self.settings = replace(self.settings, **changes)
        if "seed" in changes:
            self.rng.seed(self.settings.seed)
        self._total["up"].bytes_per_s = self.settings.total_up
        self._total["down"].bytes_per_s = self.settings.total_down

    def add(self, specs: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add rules, all or none; return their numbers. Raises RuleError."""
        rules = [make_rule(self._next_id + place, spec) for place, spec in enumerate(specs)]
        self._next_id += len(rules)
        self.rules = self.rules + rules
        return [rule.id for rule in rules]

    def remove(self, number: int | None = None) -> None:
        """Remove a rule, or all of them. Raises RuleError where there is none of that number."""
        if number is not None and number not in [rule.id for rule in self.rules]:
            raise RuleError(f"there is no rule {number}")
        self.rules = [rule for rule in self.rules if number is not None and rule.id != number]
        if not any(isinstance(rule.action, HideNew) for rule in self.rules):
            self._hidden.clear()

    def clear(self) -> None:
        """No faults any more."""
        self.remove()
        self.change(asdict(Settings()))

    def reset_counters(self) -> None:
        """Let every rule begin anew."""
        for rule in self.rules:
            rule.seen = rule.hits = 0

    # -- asked for every request

    def rules_for(self, *, answers: bool) -> list[Rule]:
        """Return the rules that look at answers, or those that look at requests."""
        return [rule for rule in self.rules if rule.is_for_answers == answers]

    def latency_s(self, rules: Sequence[Rule], *, method: str, target: str, size: int | None) -> float:
        """Return how long this request has to wait: what is set, and what all the rules for it add."""
        wait_ms = self.settings.latency_ms + self._jitter(self.settings.jitter_ms)
        for rule in rules:
            if isinstance(rule.action, Latency) and rule.strikes(self.rng, method=method, target=target, size=size):
                wait_ms += rule.action.ms + self._jitter(rule.action.jitter_ms)
        return max(0.0, wait_ms / 1000)

    def _jitter(self, most_ms: float) -> float:
        return self.rng.uniform(-most_ms, most_ms) if most_ms else 0.0

    def tamper(self, action: CutRequest | CutResponse | Corrupt | Stall, length: int | None) -> Tamper:
        """Return what an action does to a body of this length."""
        offset = action.offset(self.rng, length)
        match action:
            case Corrupt(xor=xor):
                return Tamper(offset, xor=xor)
            case Stall(seconds=seconds):
                return Tamper(offset, silence_s=seconds)
            case CutRequest(how=how) | CutResponse(how=how):
                return Tamper(offset, cut=how)

    def lanes(self) -> tuple[Lane, Lane]:
        """Return the way up and the way down of a new connection."""
        return (
            Lane(lambda: self.settings.conn_up, self._total["up"]),
            Lane(lambda: self.settings.conn_down, self._total["down"]),
        )

    def hide(self, path: str, seconds: float) -> None:
        """Let an object not exist for so long."""
        now = time.monotonic()
        if len(self._hidden) >= HIDDEN_MAX_COUNT:
            self._hidden = {kept: until for kept, until in self._hidden.items() if until > now}
        self._hidden[path] = now + seconds

    def is_hidden(self, path: str) -> bool:
        """Tell whether an object pretends not to exist."""
        until = self._hidden.get(path)
        if until is not None and until <= time.monotonic():
            del self._hidden[path]
            return False
        return until is not None
