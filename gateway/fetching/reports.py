"""One log line, once in a while, for a partition that cannot be read: its clients may ask many times a second."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from core.streams.live import Slot

logger = logging.getLogger(__name__)

REPORT_AGAIN_S: Final = 60.0
REPORTED_MAX: Final = 1000


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
