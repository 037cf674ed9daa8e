"""Read-after-write verification: an object counts as stored when it has been read back and found identical.

The assurance filter for eventually consistent stores. `Confirmation` decides, without waiting, what comes after
each look; `put_verified` and `put_new_verified` do it for callers that may wait in their thread, the uploader
does it on the event loop. Must never: decide what a failure means for the caller's data, or retry an error of
the store (retry.py does).

    put    -> settle -> look
    SAME              done
    MISSING           look later, for 20 s in all: stores that answer 404 for seconds after a put; then put again
    DIFFERENT         look later, 3 times in 2 s: an old version, or damaged on the way; then put again
    third put wrong   give up: StoreLiesError
"""

from __future__ import annotations

import enum
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreLiesError, UsageError
from cubefs.store.base import Store
from cubefs.store.meter import Meter

PUTS_MAX = 3  # a store that is wrong three times in a row is not having an accident


# -- how much is read back ---------------------------------------------------------------------------------------


class How(enum.Enum):
    """How much of an object is read back. The value is what `pack.verified_how` records."""

    FULL = "full"  # every byte
    HEAD = "head"  # existence and size only


_SAMPLE = re.compile(r"sample:([0-9]{1,3}(?:\.[0-9]{1,3})?)%", re.ASCII)


@dataclass(frozen=True)
class Policy:
    """How much is read back of each object: `full`, `head`, or `sample:N%` (N % in full, the others by head)."""

    full_percent: float = 100.0

    @classmethod
    def parse(cls, text: str) -> Policy:
        """Understand what `str()` gives. Raises UsageError."""
        word = text.strip()
        if word == How.FULL.value:
            return cls(100.0)
        if word == How.HEAD.value:
            return cls(0.0)
        found = _SAMPLE.fullmatch(word)
        if not found:
            raise UsageError(f"unknown way to verify {text!r}; write full, head, or sample:10%")
        if not 0 < float(found[1]) <= 100:
            raise UsageError(f"{text!r} is out of range: sample more than 0% and at most 100%, like sample:10%")
        return cls(float(found[1]))

    def __str__(self) -> str:
        """Return the word for it."""
        if self.full_percent >= 100:
            return How.FULL.value
        return f"sample:{self.full_percent:g}%" if self.full_percent > 0 else How.HEAD.value

    def choose(self, rng: random.Random) -> How:
        """Return how the next object is verified."""
        return How.FULL if rng.random() * 100 < self.full_percent else How.HEAD


# -- one look ----------------------------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """What one look found."""

    SAME = "same"
    MISSING = "missing"
    DIFFERENT = "different"


def look(store: Store, name: str, *, how: How, size_bytes: int, matches: Callable[[bytes], bool]) -> Outcome:
    """Read an object back once, or ask for its size, and say what is there; one request.

    matches: whether these bytes are what was put; asked only when the size is right, in the caller's thread.
    Errors of the store other than ObjectMissingError are raised: they say nothing about the object.
    """
    try:
        if how is How.HEAD:
            return Outcome.SAME if store.head(name, newest=True).size_bytes == size_bytes else Outcome.DIFFERENT
        data = store.get(name, newest=True)
    except ObjectMissingError:
        return Outcome.MISSING
    return Outcome.SAME if len(data) == size_bytes and matches(data) else Outcome.DIFFERENT


# -- what comes after a look -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patience:
    """How long a store may take until a put is seen. The defaults are for stores nobody knows."""

    missing_s: float = 20.0  # stores that were eventually consistent took seconds for a new object, not minutes
    missing_first_s: float = 0.25
    missing_longest_s: float = 4.0
    different_count: int = 3  # an old version goes away soon; a damaged object never does
    different_first_s: float = 0.3  # 0.3 + 0.6 + 1.2 = about 2 s
    again_first_s: float = 1.0  # before the second put; the double before the third


PATIENCE = Patience()


@dataclass(frozen=True)
class Done:
    """The object is stored."""


@dataclass(frozen=True)
class Look:
    """Look again after `wait_s`."""

    wait_s: float


@dataclass(frozen=True)
class PutAgain:
    """Put it again after `wait_s`, let it settle (`Confirmation.start`), and look."""

    wait_s: float


@dataclass(frozen=True)
class GiveUp:
    """The store cannot be trusted with this object: see `lies`."""


Step = Done | Look | PutAgain | GiveUp


class Confirmation:
    """Decides what comes after each look at an object that was put. Pure: the caller waits, puts and looks.

    One for each object, not thread-safe. Counts in the meter: verified_full_count, verified_head_count,
    verify_late_count (right, though not at the first look), verify_put_again_count, verify_gave_up_count.
    """

    def __init__(
        self,
        *,
        how: How = How.FULL,
        settle_s: float = 0.0,
        may_replace: bool = True,
        rng: random.Random | None = None,
        meter: Meter | None = None,
        patience: Patience | None = None,
    ) -> None:
        """settle_s: how long this store needs after a put before looking makes sense.

        may_replace: whether an object that is different may be put again; one that is missing always may.
        """
        self._how = how
        self._settle_s = settle_s
        self._may_replace = may_replace
        self._rng = rng or random.Random()
        self._meter = meter or Meter()
        self._patience = patience or PATIENCE
        self._is_late = False
        self._put_count = 1
        self._begin()

    @property
    def put_count(self) -> int:
        """How often the object was put, the one that is due after PutAgain included."""
        return self._put_count

    def start(self) -> float:
        """Return how long to wait after a put, in seconds, before the first look."""
        return self._settle_s

    def next(self, outcome: Outcome) -> Step:
        """Return what to do after a look; nothing more is asked after Done or GiveUp."""
        if outcome is Outcome.SAME:
            self._meter.add(f"verified_{self._how.value}_count")
            if self._is_late:
                self._meter.add("verify_late_count")
            return Done()
        self._is_late = True
        wait_s = self._missing_wait_s() if outcome is Outcome.MISSING else self._different_wait_s()
        if wait_s is not None:
            return Look(wait_s)
        if self._put_count >= PUTS_MAX or (outcome is Outcome.DIFFERENT and not self._may_replace):
            self._meter.add("verify_gave_up_count")
            return GiveUp()
        self._meter.add("verify_put_again_count")
        wait_s = self._jittered(self._patience.again_first_s * 2.0 ** (self._put_count - 1))
        self._put_count += 1
        self._begin()
        return PutAgain(wait_s)

    def _begin(self) -> None:
        """Be patient anew: something was put."""
        self._missing_count = 0
        self._missing_left_s = self._patience.missing_s
        self._different_count = 0

    def _missing_wait_s(self) -> float | None:
        """Return how long to wait for a missing object, None when that was long enough."""
        if self._missing_left_s <= 0:
            return None
        bound_s = min(self._patience.missing_longest_s, self._patience.missing_first_s * 2.0**self._missing_count)
        wait_s = min(self._jittered(bound_s), self._missing_left_s)
        self._missing_count += 1
        self._missing_left_s -= wait_s
        return wait_s

    def _different_wait_s(self) -> float | None:
        """Return how long to wait for other contents, None when that was often enough."""
        if self._different_count >= self._patience.different_count:
            return None
        self._different_count += 1
        return self._jittered(self._patience.different_first_s * 2.0 ** (self._different_count - 1))

    def _jittered(self, bound_s: float) -> float:
        """Return between half and all of it: the waits of many objects part, the sum stays what it says."""
        return bound_s * self._rng.uniform(0.5, 1.0)


def lies(store: Store, name: str, puts: int = PUTS_MAX) -> StoreLiesError:
    """Return the error for a store that took an object `puts` times and does not have it."""
    times = "once" if puts == 1 else f"{puts} times"
    return StoreLiesError(
        f"{store.describe()} accepted {name} {times}, but what is read back differs or is missing: do not trust"
        " this store"
    )


# -- putting and waiting in one call -------------------------------------------------------------------------------


def put_verified(
    store: Store,
    name: str,
    data: bytes | memoryview,
    *,
    how: How = How.FULL,
    settle_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
    meter: Meter | None = None,
) -> None:
    """Put an object, replacing what was there, and read it back until it is there; waits in this thread.

    Missing or wrong for too long: put again, then StoreLiesError. About a minute at most, beside the requests.
    """
    confirmation = Confirmation(how=how, settle_s=settle_s, rng=rng, meter=meter)
    store.put(name, data)
    sleep(confirmation.start())
    while True:
        match confirmation.next(_look_for(store, name, data, how)):
            case Done():
                return
            case Look(wait_s):
                sleep(wait_s)
            case PutAgain(wait_s):
                sleep(wait_s)
                store.put(name, data)
                sleep(confirmation.start())
            case GiveUp():
                raise lies(store, name, confirmation.put_count)


def put_new_verified(
    store: Store,
    name: str,
    data: bytes | memoryview,
    *,
    settle_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
    meter: Meter | None = None,
) -> None:
    """Create an object exclusively and read it back in full, with the same patience.

    A name taken by exactly these bytes is success: they are those of our own earlier attempt. One that goes on
    missing is created again, exclusively again: nothing is ever replaced. Raises ObjectExistsError when
    somebody else's bytes are there, StoreLiesError when the store took ours and returns others or nothing.
    """
    confirmation = Confirmation(settle_s=settle_s, may_replace=False, rng=rng, meter=meter)
    is_created = _create(store, name, data)
    sleep(confirmation.start())
    while True:
        outcome = _look_for(store, name, data, How.FULL)
        match confirmation.next(outcome):
            case Done():
                return
            case Look(wait_s):
                sleep(wait_s)
            case PutAgain(wait_s):
                sleep(wait_s)
                is_created = _create(store, name, data)
                sleep(confirmation.start())
            case GiveUp() if outcome is Outcome.DIFFERENT and not is_created:
                raise ObjectExistsError(f"{name} exists already in {store.describe()}, with other contents")
            case GiveUp():
                raise lies(store, name, confirmation.put_count)


def _create(store: Store, name: str, data: bytes | memoryview) -> bool:
    """Put exclusively; return whether the name was free."""
    try:
        store.put_new(name, data)
    except ObjectExistsError:
        return False
    return True


def _look_for(store: Store, name: str, data: bytes | memoryview, how: How) -> Outcome:
    return look(store, name, how=how, size_bytes=memoryview(data).nbytes, matches=lambda found: found == data)
