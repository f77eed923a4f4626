"""Batches that were refused for a passing reason: what their producers had sent behind them is refused likewise.

An idempotent producer has up to five requests under way. When a batch of it is refused, those behind it come in before
the producer knows, and do not follow the last one that is stored. Kafka calls that OUT_OF_ORDER_SEQUENCE_NUMBER if the
reason has passed meanwhile. librdkafka then raises the epoch of its producer, and with it sends anew all that was not
acknowledged, to every partition: a batch that is stored, but whose answer was lost or was an error, is stored twice
(librdkafka's issue 4953). So what comes where a refused batch is missing is answered with that one's code, and the
producer sends both again, in order. A gap with no such reason is still called one.

A producer that is new to a partition may begin anywhere, and so may one whose newest batches there are lost. What it
had sent behind a refused batch may not: it would be stored before that one.

**Invariants**

- A batch that follows what is stored is never refused for what is remembered here.
- No batch is refused for one that comes behind it in the producer's own order, whichever came here first.
- A producer that has given up a refused batch hears of the gap after `FOLLOWERS_MAX` more refusals.
- What was refused counts for as long as somebody may send it again: no longer than a silent producer is known.
- The memory is bounded, however many producers there are; one that is forgotten is answered as Kafka does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from core.container.forgetting import SILENT_MS_MIN
from core.errors import SequenceGap
from core.streams.writers import SEQUENCE_MAX
from gateway.transactions.places import Place
from gateway.wire.error_codes import (
    CONCURRENT_TRANSACTIONS,
    KAFKA_STORAGE_ERROR,
    NOT_ENOUGH_REPLICAS,
    NOT_LEADER_OR_FOLLOWER,
)

if TYPE_CHECKING:
    from gateway.records.record_batch import BatchHeader

SENT_AGAIN: Final = frozenset(
    (NOT_LEADER_OR_FOLLOWER, NOT_ENOUGH_REPLICAS, KAFKA_STORAGE_ERROR, CONCURRENT_TRANSACTIONS)
)
"""Codes on which a producer sends the same batch again, with the same sequence."""
UNDER_WAY_MAX: Final = 5
"""Requests of an idempotent producer for one partition (KIP-98)."""
FOLLOWERS_MAX: Final = UNDER_WAY_MAX - 1
PRODUCERS_MAX: Final = 10_000
"""Producers that are remembered, each once for a partition and an epoch: at most 10 MB."""
REMEMBERED_S: Final = SILENT_MS_MIN / 1000
"""Longer than clients go on sending a batch. A producer that is silent for longer may be forgotten by its partition."""
_SEQUENCES: Final = SEQUENCE_MAX + 1

_Key = tuple[Place, int, int]


class _Refused:
    """Of one producer in one partition."""

    __slots__ = ("codes", "left", "noted_s")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}  # by sequence, in the order in which they were last refused
        self.left = FOLLOWERS_MAX
        self.noted_s = 0.0  # the last one, monotonic

    def note(self, sequence: int, code: int, now_s: float) -> None:
        self.codes.pop(sequence, None)
        self.codes[sequence] = code
        self.left = FOLLOWERS_MAX
        self.noted_s = now_s
        if len(self.codes) > UNDER_WAY_MAX:
            del self.codes[next(iter(self.codes))]

    def first_before(self, sequence: int) -> int | None:
        """The first of those that come before this one, by sequences that wrap."""
        distances = ((sequence - one) % _SEQUENCES for one in self.codes)
        longest = max((one for one in distances if one < _SEQUENCES // 2), default=0)
        return (sequence - longest) % _SEQUENCES if longest else None


class RefusedBatches:
    """See the module. For the event loop."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._refused: dict[_Key, _Refused] = {}  # the one that was refused last at the end

    def __repr__(self) -> str:
        return f"<RefusedBatches of {len(self._refused)} producers>"

    def note(self, place: Place, batch: BatchHeader, code: int) -> None:
        """A batch is answered with this code, whether or not it was checked or stored."""
        if batch.producer_id < 0 or code not in SENT_AGAIN:
            return
        key = _key(place, batch)
        refused = self._known(key) or _Refused()
        self._refused.pop(key, None)
        self._refused[key] = refused
        refused.note(batch.base_sequence, int(code), self._monotonic_s())
        if len(self._refused) > PRODUCERS_MAX:
            del self._refused[next(iter(self._refused))]

    def check_first(self, place: Place, batch: BatchHeader) -> None:
        """Raises SequenceGap for a batch whose producer may begin anywhere in the partition, if an earlier one was
        refused."""
        refused = self._known(_key(place, batch)) if self._refused else None
        missing = None if refused is None else refused.first_before(batch.base_sequence)
        if missing is not None:
            raise SequenceGap(batch.producer_id, missing, batch.base_sequence)

    def code_behind(self, place: Place, batch: BatchHeader, expected: int) -> int | None:
        """The code of the refused batch that should have come in place of this one; None if there was none."""
        key = _key(place, batch)
        refused = self._known(key)
        code = None if refused is None else refused.codes.get(expected)
        if refused is None or code is None:
            return None
        if not refused.left:
            del self._refused[key]
            return None
        refused.left -= 1
        return code

    def _known(self, key: _Key) -> _Refused | None:
        """What is remembered, unless nobody sends it again by now."""
        refused = self._refused.get(key)
        if refused is not None and self._monotonic_s() - refused.noted_s >= REMEMBERED_S:
            del self._refused[key]
            return None
        return refused


def _key(place: Place, batch: BatchHeader) -> _Key:
    return place, batch.producer_id, batch.producer_epoch
