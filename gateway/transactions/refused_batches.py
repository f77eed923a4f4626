"""Batches that were refused for a passing reason: what their producers had sent behind them is refused likewise.

An idempotent producer has up to five requests under way. When a batch of it is refused, those behind it come in before
the producer knows, and do not follow the last one that is stored. Kafka calls that OUT_OF_ORDER_SEQUENCE_NUMBER if the
reason has passed meanwhile. librdkafka then raises the epoch of its producer, and with it sends anew all that was not
acknowledged, to every partition: a batch that is stored, but whose answer was lost or was an error, is stored twice
(librdkafka's issue 4953). So what comes where a refused batch is missing is answered with that one's code, and the
producer sends both again, in order. A gap with no such reason is still called one.

A producer that is new to a partition may begin anywhere. What it had sent behind a refused batch may not: it would be
stored before that one.

**Invariants**

- A batch that follows what is stored is never refused for what is remembered here.
- A producer that has given up a refused batch hears of the gap after `FOLLOWERS_MAX` more refusals.
- The memory is bounded, however many producers there are; one that is forgotten is answered as Kafka does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.errors import SequenceGap
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

_Key = tuple[Place, int, int]


class _Refused:
    """Of one producer in one partition."""

    __slots__ = ("codes", "left")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}  # by sequence, in the order in which they were first refused
        self.left = FOLLOWERS_MAX

    def note(self, sequence: int, code: int) -> None:
        self.codes[sequence] = code
        self.left = FOLLOWERS_MAX
        if len(self.codes) > UNDER_WAY_MAX:
            del self.codes[next(iter(self.codes))]


class RefusedBatches:
    """See the module. For the event loop."""

    def __init__(self) -> None:
        self._refused: dict[_Key, _Refused] = {}  # the one that was refused last at the end

    def __repr__(self) -> str:
        return f"<RefusedBatches of {len(self._refused)} producers>"

    def note(self, place: Place, batch: BatchHeader, code: int) -> None:
        """A batch is answered with this code, whether or not it was checked or stored."""
        if batch.producer_id < 0 or code not in SENT_AGAIN:
            return
        key = _key(place, batch)
        refused = self._refused.pop(key, None) or _Refused()
        self._refused[key] = refused
        refused.note(batch.base_sequence, int(code))
        if len(self._refused) > PRODUCERS_MAX:
            del self._refused[next(iter(self._refused))]

    def check_first(self, place: Place, batch: BatchHeader) -> None:
        """Raises SequenceGap for a batch whose producer the partition does not know, if an earlier one was refused."""
        refused = self._refused.get(_key(place, batch)) if self._refused else None
        if refused is None:
            return
        oldest = next(iter(refused.codes))
        if oldest != batch.base_sequence:
            raise SequenceGap(batch.producer_id, oldest, batch.base_sequence)

    def code_behind(self, place: Place, batch: BatchHeader, expected: int) -> int | None:
        """The code of the refused batch that should have come in place of this one; None if there was none."""
        key = _key(place, batch)
        refused = self._refused.get(key)
        code = None if refused is None else refused.codes.get(expected)
        if refused is None or code is None:
            return None
        if not refused.left:
            del self._refused[key]
            return None
        refused.left -= 1
        return code


def _key(place: Place, batch: BatchHeader) -> _Key:
    return place, batch.producer_id, batch.producer_epoch
