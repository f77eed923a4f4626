"""Everything that a client may ask about offsets of a partition, and how the answers have to fit together.

Reads from the beginning say what is there; these say whether it is found: by time, by the largest timestamp, by the
borders of the tiers. Each is answered from other places (index rows of the log, rows of chunks, both): all are asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tests.faults.client import BATCH_HEADER, OUT_OF_RANGE, Connection, Refused, check
from tests.faults.history import READ_BYTES, Partition

LATEST: Final = -1
EARLIEST: Final = -2
MAX_TIMESTAMP: Final = -3
EARLIEST_LOCAL: Final = -4
LATEST_TIERED: Final = -5
NOTHING: Final = -1
LATER_MS: Final = 3_600_000
TIMES: Final = 12
LOOKED_BACK_MS: Final = 20_000


class Batch(NamedTuple):
    """The place of a batch, and its largest timestamp."""

    first: int
    last: int
    timestamp: int


def ask(connection: Connection, partitions: Iterable[Partition], dice: random.Random) -> list[str]:
    """The faults in the answers, while others may write and delete: for use after each kill."""
    found: list[str] = []
    for partition in partitions:
        try:
            found += (f"{partition}: {what}" for what in _ask(connection, partition, dice))
        except Refused as refused:
            found.append(f"{partition}: {refused}")
    return found


def _ask(connection: Connection, partition: Partition, dice: random.Random) -> Iterator[str]:
    start = connection.tier_offset(*partition, EARLIEST)
    local = connection.tier_offset(*partition, EARLIEST_LOCAL)
    tiered = connection.tier_offset(*partition, LATEST_TIERED)
    newest = connection.tier_offset(*partition, MAX_TIMESTAMP)
    now_ms = time.time_ns() // 1_000_000
    times = [0, now_ms - dice.randrange(LOOKED_BACK_MS), now_ms + LATER_MS]
    answers = [connection.tier_offset(*partition, at) for at in times]
    latest = connection.tier_offset(*partition, LATEST)
    if not start <= local <= latest:
        yield f"the log begins at {local}, outside of [{start}, {latest}]"
    if not NOTHING <= tiered < max(latest, 1):
        yield f"the last tiered offset is {tiered}, the end {latest}"
    for at, offset in zip([MAX_TIMESTAMP, *times], [newest, *answers], strict=True):
        if offset == NOTHING:
            continue
        if not start <= offset < latest:
            yield f"for time {at} it names {offset}, outside of [{start}, {latest})"
            continue
        fetched = connection.fetch_some(*partition, offset)
        if fetched.code == OUT_OF_RANGE:
            continue  # deleted meanwhile
        check(f"Fetch {partition} at {offset}", fetched.code)
        batch = next(batches(fetched.records), None)
        if batch is None or (at > 0 and batch.timestamp < at):
            yield f"for time {at} it names {offset}, where {batch} lies"
    if answers[-1] != NOTHING:
        yield f"it names {answers[-1]} for an hour from now"


def ask_everything(connection: Connection, partitions: Iterable[Partition], dice: random.Random) -> list[str]:
    """The same for what stands still, by all that is there: each answer has to be the right one."""
    return [
        f"{partition}: {what}"
        for partition in partitions
        for what in _compare(connection, partition, list(_read(connection, partition)), dice)
    ]


def _read(connection: Connection, partition: Partition) -> Iterator[Batch]:
    position = connection.tier_offset(*partition, EARLIEST)
    while True:
        fetched = connection.fetch_some(*partition, position, READ_BYTES)
        check(f"Fetch {partition} at {position}", fetched.code)
        if position >= fetched.high_watermark:
            return
        for batch in batches(fetched.records):
            if batch.last >= position:
                yield batch
                position = batch.last + 1


def _compare(connection: Connection, partition: Partition, there: list[Batch], dice: random.Random) -> Iterator[str]:
    start = connection.tier_offset(*partition, EARLIEST)
    borders = {at: connection.tier_offset(*partition, at) for at in (EARLIEST_LOCAL, LATEST_TIERED, LATEST)}
    end = there[-1].last + 1 if there else start
    if borders[LATEST] != end or not start <= borders[EARLIEST_LOCAL] <= end or borders[LATEST_TIERED] >= end:
        yield f"borders {borders}, read from {start} to {end}"
    known = sorted({batch.timestamp for batch in there})
    times = dice.sample(known, min(TIMES, len(known)))
    for at in [*times, *(at + 1 for at in times), *known[:1], *known[-1:]]:
        offset = connection.tier_offset(*partition, at)
        expected = next((batch for batch in there if batch.timestamp >= at), None)
        if not _is_in(offset, expected):
            yield f"for time {at} it names {offset}, expected {expected}"
    offset = connection.tier_offset(*partition, MAX_TIMESTAMP)
    expected = max(there, key=lambda batch: batch.timestamp, default=None)
    if not _is_in(offset, expected):
        yield f"for the largest timestamp it names {offset}, expected {expected}"


def _is_in(offset: int, batch: Batch | None) -> bool:
    return offset == NOTHING if batch is None else batch.first <= offset <= batch.last


def batches(data: bytes) -> Iterator[Batch]:
    """Every whole batch."""
    position = 0
    while len(data) - position >= BATCH_HEADER.size:
        base, length, _, _, _, _, delta, _, newest, *_ = BATCH_HEADER.unpack_from(data, position)
        position += 12 + length
        if position <= len(data):
            yield Batch(base, base + delta, newest)
