"""What a fetch must read because it is not in memory, and what is logged when that fails."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.streams.live import Slot
    from gateway.fetching.sessions import Target

logger = logging.getLogger(__name__)

REPORT_AGAIN_S: Final = 60.0
"""How often it is logged that a partition cannot be read: its clients may ask many times a second."""
REPORTED_MAX: Final = 1000


class ColdRead:
    """What must be read for a partition: it is not in memory."""

    __slots__ = ("at_least_one", "end", "fits_nothing", "room", "slot", "target")

    def __init__(self, target: Target, slot: Slot, end: int, room: int, at_least_one: bool) -> None:
        self.target = target
        self.slot = slot
        self.end = end
        self.room = room
        self.at_least_one = at_least_one
        self.fits_nothing = False  # there are entries, and the first is larger than the room


_reported: Final[OrderedDict[tuple[str, int, str], float]] = OrderedDict()


def report(slot: Slot, error: Exception) -> None:
    """Log that a partition cannot be read, once in a while."""
    key = slot.stream.name, slot.number, str(error)
    now = time.monotonic()
    if now - _reported.get(key, -REPORT_AGAIN_S) < REPORT_AGAIN_S:
        return
    logger.error("partition cannot be read", extra={"partition": repr(slot), "error": str(error)})
    _reported[key] = now
    _reported.move_to_end(key)
    if len(_reported) > REPORTED_MAX:
        _reported.popitem(last=False)
