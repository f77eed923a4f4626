"""What waits in a container for the log: updates, appends, and callers who want all of it.

**Invariant**: an error in one who is told keeps the news from nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.container.ports import AppendWaiter
from core.errors import StorageFailure
from core.log.records import Operation
from core.streams.live import Slot

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class AllDurable:
    """A waiter that is done once everything up to its point is durable."""

    future: asyncio.Future[None]

    def appended(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def append_failed(self, error: StorageFailure) -> None:
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(slots=True)
class Update:
    """An update record on its way: its operations, and the future that waits for it."""

    operations: Sequence[Operation]
    future: asyncio.Future[None] | None = None  # None: no caller waits for this record alone

    def settle(self, apply: Callable[[Sequence[Operation]], None]) -> None:
        """Apply the operations of the durable record, and tell the waiter."""
        apply(self.operations)
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def fail(self, error: StorageFailure) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


Append = tuple[Slot, int, int, AppendWaiter | None]
"""An append on its way: the slot, its end behind it, bytes, waiter. A plain tuple, as there is one for each append."""


def tell(waiter: AppendWaiter) -> None:
    """Tell one waiter. An error in it must not keep the news from the others."""
    try:
        waiter.appended()
    except Exception:
        logger.exception("an append was durable, but telling so failed", extra={"waiter": repr(waiter)})
