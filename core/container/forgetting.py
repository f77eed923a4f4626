"""Forgetting writers: the expired ones, and if there are too many, also those that have been silent for longest.

A client gives up sending a batch after some minutes. A writer that was silent for longer loses nothing by being
forgotten: its next batch is taken at any sequence, like that of a new writer. So if there are too many writers, those
silent for `SILENT_MS_MIN` count as expired, the longest silent first.

**Invariants**

- No writer is forgotten that has a transaction open or something in flight.
- No writer that was heard of in the last `SILENT_MS_MIN` is forgotten, unless it has expired.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from core.streams.known_writers import KnownWriters
from core.streams.writers import WriterState
from core.turns import Turn

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Slot
    from core.trusted_time import TrustedTime

logger = logging.getLogger(__name__)

SILENT_MS_MIN: Final = 600_000
"""Longer than clients go on sending a batch: 2 minutes in Java (delivery.timeout.ms), 5 in librdkafka."""
AGE_MS: Final = 10_000
"""Ages that differ by less than this count as equal."""
FREED_PER_STEP: Final = 500
PAUSE_S: Final = 10.0
"""The pause between two looks while there are too many writers."""

MayForget = Callable[[WriterState], bool]


async def forget_expired(container: Container, now: TrustedTime) -> None:
    """Forget the container's writers that were silent for `writer_expiration_ms`."""
    expiration_ms = container.config.writer_expiration_ms
    await _forget(container, lambda state: now.age_ms(state.last_use_ms) > expiration_ms)


async def make_room(known: KnownWriters, containers: Iterable[Container]) -> int:
    """Forget the longest silent of too many writers; returns the number forgotten."""
    containers = list(containers)
    if not known.is_pressed or not containers:
        return 0
    wanted, now = known.surplus, containers[0].trusted.now()

    def age_of(state: WriterState) -> int:
        return now.age_ms(state.last_use_ms) // AGE_MS

    ages: Counter[int] = Counter()
    for container in containers:
        await Turn().through(_count_ages(container, age_of, ages))
    limit, left = _oldest(ages, wanted)

    def may_forget(state: WriterState) -> bool:
        nonlocal left
        age = age_of(state)
        if age == limit and left > 0:
            left -= 1
            return True
        return age > limit

    return sum([await _forget(container, may_forget) for container in containers])


def _oldest(ages: Counter[int], wanted: int) -> tuple[int, int]:
    """The age beyond which all writers are forgotten, and the number to forget of that age, to forget `wanted`."""
    least = SILENT_MS_MIN // AGE_MS
    for age in sorted(ages, reverse=True):
        if age < least:
            break
        if ages[age] >= wanted:
            return age, wanted
        wanted -= ages[age]
    return least, ages[least]


def _count_ages(
    container: Container, age_of: Callable[[WriterState], int], ages: Counter[int]
) -> Generator[None, None, None]:
    for slot in _slots(container):
        for states in slot.writers_stepwise():
            ages.update(
                age_of(state)
                for writer_id, state in states
                if age_of(state) * AGE_MS >= SILENT_MS_MIN and not _is_busy(slot, writer_id, state)
            )
            yield


async def _forget(container: Container, may_forget: MayForget) -> int:
    return await Turn().through(_forgetting(container, may_forget))


def _forgetting(container: Container, may_forget: MayForget) -> Generator[None, None, int]:
    forgotten = 0
    for slot in _slots(container):
        for states in slot.writers_stepwise():
            gone = [
                writer_id for writer_id, state in states if not _is_busy(slot, writer_id, state) and may_forget(state)
            ]
            if gone:
                slot.forget_writers(gone)
                container.mark_dirty(slot)
                forgotten += len(gone)
            yield
    return forgotten


def _is_busy(slot: Slot, writer_id: int, state: WriterState) -> bool:
    """Whether it has a transaction open, or something that is not durable yet."""
    in_flight = bool(state.batches) and state.batches[-1].base >= slot.durable_end
    return in_flight or slot.has_open_transaction(writer_id)


def _slots(container: Container) -> Iterator[Slot]:
    for stream in list(container.streams.values()):
        yield from list(stream.slots_in(container.id))


class Forgetting:
    """The background work that makes room while a store runs, and frees the writers of deleted streams."""

    def __init__(self, known: KnownWriters, containers: Callable[[], Iterable[Container]]) -> None:
        self._known = known
        self._containers = containers
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._known.has_loop = True
        self._task = asyncio.create_task(self._run(), name="forgetting-writers")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        known = self._known
        while True:
            await known.woken.wait()
            known.woken.clear()
            try:
                await Turn().through(_freeing(known))
                forgotten = await make_room(known, self._containers())
            except Exception:
                logger.exception("writers could not be forgotten, will be tried again")
                forgotten = 0
            if forgotten:
                known.forgotten_early += forgotten
                facts = {"forgotten": forgotten, "left": known.count, "limit": known.limit}
                logger.warning("there are many writers: those silent for longest are forgotten early", extra=facts)
            if known.is_pressed:
                await asyncio.sleep(PAUSE_S)
                known.woken.set()


def _freeing(known: KnownWriters) -> Generator[None, None, None]:
    while known.unfreed:
        writers = known.unfreed[-1]
        for _ in range(min(FREED_PER_STEP, len(writers))):
            writers.popitem()
        if not writers:
            known.unfreed.pop()
        yield
