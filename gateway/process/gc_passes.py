"""The collector of cyclic garbage, in passes too short to notice.

Python holds every thread for the whole of a pass, at 0.4 µs an object: one over everything takes a second beside 50,000
groups. So a pass looks at what was made since the one before, and what survives a few of them is set aside.

Keeps: a pass looks at some 40,000 objects at most. Old cyclic garbage is looked for, in one long pass, when twice as
many objects are set aside as after the last such pass, and `OLD_MIN` at least.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

THRESHOLDS: Final = (3_000, 3, 1)
"""New objects before a pass over them; such passes before one over what survived them; those before what is old."""
OLDEST: Final = 2
OLD_MIN: Final = 4_000_000
"""Objects: twice what 50,000 groups are."""


class ShortPasses:
    """Sets aside what survives. `later` calls a function soon, on the event loop, from whatever thread."""

    def __init__(self, later: Callable[[Callable[[], None]], object], old_min: int = OLD_MIN) -> None:
        self._later = later
        self._old_min = old_min
        self._set_aside = 0
        """Objects at most: some may be gone."""
        self._look_at = old_min

    def begin(self) -> None:
        """What was made until now stays, and is not looked at."""
        gc.freeze()
        self._set_aside = gc.get_freeze_count()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._passed)
        _forget_the_last_pass()
        gc.enable()

    def end(self) -> None:
        gc.callbacks.remove(self._passed)

    def _passed(self, phase: str, info: Mapping[str, Any]) -> None:
        if phase != "stop" or info["generation"] != OLDEST:
            return
        before = self._set_aside
        self._set_aside += len(gc.get_objects(OLDEST))
        gc.freeze()
        if before < self._look_at <= self._set_aside:
            self._later(self._look_at_all)

    def _look_at_all(self) -> None:
        """Unless most of what was set aside is gone by itself."""
        self._set_aside = gc.get_freeze_count()
        if self._set_aside < self._look_at:
            return
        gc.unfreeze()
        self._set_aside = 0
        gc.collect()  # and `_passed` sets aside what is there
        self._look_at = max(self._old_min, 2 * self._set_aside)
        _forget_the_last_pass()
        logger.info("looked for old cyclic garbage", extra={"objects": self._set_aside})


def _forget_the_last_pass() -> None:
    """Python waits with a pass over what is old until a quarter of what it saw in the last one is new: see nothing."""
    gc.collect()
