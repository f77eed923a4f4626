"""What groups begin together: they share a look at what other processes have decided, and the records of the log.

A session may name ten thousand partitions that its group has never read. A log record for each, one behind the other,
would take as many waits for the disk.

Keeps: a look began after all who share it had asked. A row goes to the log only if it still shall in that very step:
its partition may have been about to move since it was asked for, or an operator may have said where its group begins.
One that the log refuses together with others goes by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from core.applied.tables import Put
from core.container.container import Container
from core.errors import StoreError
from core.store import Store
from gateway.groups.share.live_partition import ROWS_TOGETHER_MAX


class _Beginning(NamedTuple):
    """`row` says what is to be stored, in the step in which that goes to the log: None for nothing."""

    row: Callable[[], Put | None]
    stored: asyncio.Future[None]


class Beginnings:
    """See the module. One for a process. What waits here does so for one turn of the loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[Container, list[_Beginning]] = {}
        self._look: asyncio.Task[None] | None = None  # one that has not begun

    def __repr__(self) -> str:
        return f"<Beginnings {sum(map(len, self._waiting.values()))} rows>"

    async def catch_up(self) -> None:
        """Know all that other processes have decided by now. Raises StoreError."""
        if self._look is None:
            self._look = asyncio.create_task(self._caught_up())
        await asyncio.shield(self._look)

    async def _caught_up(self) -> None:
        self._look = None
        await self._store.catch_up()

    async def store(self, container: Container, row: Callable[[], Put | None]) -> None:
        """Have a row stored; returns when it is durable. Raises StoreError, and what `row` raises of that kind."""
        loop = asyncio.get_running_loop()
        if container not in self._waiting:
            self._waiting[container] = []
            loop.call_soon(self._hand_on, container)
        stored: asyncio.Future[None] = loop.create_future()
        self._waiting[container].append(_Beginning(row, stored))
        await stored

    def _hand_on(self, container: Container) -> None:
        waiting = self._waiting.pop(container)
        for first in range(0, len(waiting), ROWS_TOGETHER_MAX):
            _submit(container, waiting[first : first + ROWS_TOGETHER_MAX])


def _submit(container: Container, together: Sequence[_Beginning]) -> None:
    """Have rows written in one record of the log."""
    rows: list[Put] = []
    written: list[_Beginning] = []
    for one in together:
        if one.stored.done():  # who waited for it was cut off
            continue
        try:
            row = one.row()
        except Exception as why:  # whatever it is: others wait in this step, too
            one.stored.set_exception(why)
            continue
        if row is None:
            one.stored.set_result(None)
        else:
            rows.append(row)
            written.append(one)
    if not rows:
        return
    try:
        landing = container.submit(rows)
    except StoreError as why:
        if len(written) == 1:
            written[0].stored.set_exception(why)
        for one in written if len(written) > 1 else ():
            _submit(container, [one])
        return
    except Exception as why:
        for one in written:
            one.stored.set_exception(why)
        return
    landing.add_done_callback(partial(_landed, [one.stored for one in written]))


def _landed(stored: Sequence[asyncio.Future[None]], landing: asyncio.Future[None]) -> None:
    """A record has come to its end, and with it those who wait for its rows."""
    failure = None if landing.cancelled() else landing.exception()
    for one in stored:
        if one.done():
            continue
        if landing.cancelled():
            one.cancel()
        elif failure is not None:
            one.set_exception(failure)
        else:
            one.set_result(None)
