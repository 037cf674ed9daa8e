"""What is wrong with the store at the moment, for the log and for `cubefs status`.

A store that is down for hours must neither fill the log nor be silent. Must never: decide whether to try again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from cubefs.errors import CubefsError

REMIND_NS = 600 * 10**9  # the log says each kind of trouble once in ten minutes at most


class Trouble:
    """The errors of one kind of work, from the first failure until nothing of it fails any more."""

    def __init__(self, log: logging.Logger, *, work: str, clock_ns: Callable[[], int]) -> None:
        """work: what fails, as the log's line begins: "storing packs"."""
        self._log = log
        self._work = work
        self._clock_ns = clock_ns
        self._failing: dict[Hashable, str] = {}  # what fails -> why, the latest last
        self._logged_ns: dict[type[CubefsError], int] = {}
        self._is_announced = False
        self.since_ns: int | None = None

    @property
    def last_error(self) -> str | None:
        """Why something fails at the moment, None when nothing does."""
        return next(reversed(self._failing.values()), None)

    def failed(self, error: CubefsError, *, what: Hashable = None) -> None:
        """Note that `what` has failed, one of several things under way at once."""
        now_ns = self._clock_ns()
        self._failing.pop(what, None)
        self._failing[what] = str(error)
        if self.since_ns is None:
            self.since_ns = now_ns
        logged_ns = self._logged_ns.get(type(error))
        if logged_ns is None or now_ns - logged_ns >= REMIND_NS:
            self._logged_ns[type(error)] = now_ns
            self._is_announced = True
            self._log.warning("%s fails, will try again: %s", self._work, error)

    def worked(self, *, what: Hashable = None) -> None:
        """Note a success of `what`. When nothing else fails the trouble is over."""
        if self._failing.pop(what, None) is None or self._failing:
            return
        self.since_ns = None
        if self._is_announced:
            self._is_announced = False
            self._log.info("%s works again", self._work)
