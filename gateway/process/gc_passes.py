"""The collector of cyclic garbage, in passes too short to notice.

Python stops every thread during a pass, for 0.4 µs an object: a pass over all objects takes a second with 50,000
groups. So a pass looks at the objects made since the last one, and those that survive a few passes are set aside.

Keeps: a pass looks at some 15,000 objects at most. One long pass looks for old cyclic garbage when twice as many
objects are set aside as after the last long one, and `OLD_MIN` at least.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

logger = logging.getLogger(__name__)

THRESHOLDS: Final = (1_000, 3, 1)
"""New objects before a pass over them; such passes before one over their survivors; those before one over old ones."""
OLDEST: Final = 2
OLD_MIN: Final = 4_000_000
"""Objects: twice those of 50,000 groups."""


class ShortPasses:
    """Sets surviving objects aside. `later` calls a function soon, on the event loop, from any thread."""

    def __init__(self, later: Callable[[Callable[[], None]], object], old_min: int = OLD_MIN) -> None:
        self._later = later
        self._old_min = old_min
        self._set_aside = 0
        """Number of objects, at most: some may be gone."""
        self._look_at = old_min

    def begin(self) -> None:
        """Set all present objects aside, and begin with passes."""
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
        """Make a long pass, unless most objects that were set aside are gone by themselves."""
        self._set_aside = gc.get_freeze_count()
        if self._set_aside < self._look_at:
            return
        gc.unfreeze()
        self._set_aside = 0
        gc.collect()  # after it `_passed` sets the survivors aside
        self._look_at = max(self._old_min, 2 * self._set_aside)
        _forget_the_last_pass()
        logger.info("looked for old cyclic garbage", extra={"objects": self._set_aside})


def _forget_the_last_pass() -> None:
    """Python delays a pass over old objects until a quarter of those that its last one saw are new: let it see none."""
    gc.collect()
