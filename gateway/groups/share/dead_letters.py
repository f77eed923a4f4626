"""Dead letters (KIP-1191): for each record that a share group has given up, a record in the group's dead-letter topic.

Its headers, named as Kafka names them, say where the dead record lies, which group gave it up, after how many
deliveries, and why. If the group's config says so, it has the dead record's key, value and headers too, unless they
make it larger than the topic takes. It lies in the partition with the dead record's number, modulo the topic's.

Keeps: a letter is durable before its record counts as settled; so a crash, or a worker that does not answer, may double
a letter, and none is lost. Only a topic that says that it is for dead letters gets any, and only if its name begins as
the operator demands: whoever makes a group fail must not write to any topic by it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.errors import NotHosted, StorageFailure, StoreError
from core.store import Store
from core.streams.live import Slot, Stream
from gateway.cluster.peer import Peer, PeerAway
from gateway.config.model import Config
from gateway.fetching.readers import reader_of
from gateway.groups.share.format import PlaceKey
from gateway.groups.share.partition import Dead, State
from gateway.groups.share.settings import ShareSettings
from gateway.kafka_configs.topic_config import config_of
from gateway.kafka_configs.topic_keys import TAKES_DEAD
from gateway.records.adaptation import adapt_batch, stamp
from gateway.records.openers import Openers, Pace
from gateway.records.record_batch import LENGTH_PREFIX_BYTES, PLACE, BatchHeader, read_header, validate_batch
from gateway.records.records import KEEP_BYTES, VARINT_BYTES_MAX, Record, build_batch, iter_records
from gateway.refusals import Refusal
from gateway.topics.topics import WantedTopic
from gateway.wire.errors import InvalidBatch

if TYPE_CHECKING:
    from gateway.topics.topics import Topics

REASONS: Final[Mapping[State, str]] = {
    State.REJECTED: "Offset rejected by client.",
    State.EXHAUSTED: "Offset delivery count exceeded the threshold.",
}
"""Kafka's words."""
LETTER_HEADERS: Final = 6
LETTERS_AT_ONCE: Final = 100
"""Letters of one batch."""
READ_BYTES: Final = 1024 * 1024
COPIED_BYTES_MAX: Final = 4 * READ_BYTES
"""Bytes of dead records in memory at which no more are read for one batch; one batch more at most."""
PRODUCE: Final = (0, 9)
RECORD_BYTES_MAX: Final = 100
"""Bytes of a record and its batch beside its fields."""
ANSWER_S: Final = 10.0
"""Longest wait for another worker, which syncs its disk."""
HOLD_S_MAX: Final = 5.0
"""Longest wait for a log that is nearly full."""


class Undeliverable(Exception):
    """A letter cannot be written now; the record stays dead, and it is tried again."""


class WritesLetters(Protocol):
    """What a share-partition asks of this module."""

    async def write(self, key: PlaceKey, dead: Dead) -> int:
        """Write letters for dead records, in order; the last offset that has one. Raises Undeliverable."""


class DeadLetters:
    """See the module. `peer_of` gives the node that has a container which is not here, if one has."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        topics: Topics,
        openers: Openers,
        settings: Callable[[str], ShareSettings],
        peer_of: Callable[[int], Peer | None],
        *,
        validates_fully: bool,
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._topics = topics
        self._openers = openers
        self._settings = settings
        self._peer_of = peer_of
        self._full = validates_fully
        self.written = 0
        """Letters since the start."""

    def __repr__(self) -> str:
        return f"<DeadLetters {self.written} written>"

    async def write(self, key: PlaceKey, dead: Dead) -> int:
        """See WritesLetters."""
        settings = self._settings(key.group_id)
        origin = self._topics.by_uuid(key.topic)
        if origin is None or not settings.dead_letter_topic:
            return dead.last  # nobody asks for letters any more
        topic = await self._topic(settings.dead_letter_topic)
        offsets = range(dead.first, min(dead.last, dead.first + LETTERS_AT_ONCE - 1) + 1)
        copies: dict[int, Record] = {}
        try:
            if settings.copies_dead:
                offsets, copies = await self._read(origin.slot(key.partition), offsets)
            letters = self._letters(key, origin.name, dead, offsets, copies)
            partition = key.partition % topic.slot_count
            for batch in _batches(letters, config_of(topic).max_message_bytes):
                await self._append(topic, partition, batch)
                self.written += len(batch)
        except (StoreError, InvalidBatch) as error:
            raise Undeliverable(str(error)) from error
        return offsets[-1]

    async def _topic(self, name: str) -> Stream:
        """Raises Undeliverable."""
        prefix = self._config.errors_deadletterqueue_topic_name_prefix
        if not name.startswith(prefix):
            raise Undeliverable(f"its name does not begin with errors.deadletterqueue.topic.name.prefix={prefix}")
        topic = self._topics.get(name)
        if topic is None:
            if not self._config.errors_deadletterqueue_auto_create_topics_enable:
                raise Undeliverable(
                    "there is no such topic, and errors.deadletterqueue.auto.create.topics.enable=false"
                )
            (made,) = await self._topics.create([WantedTopic(name, overrides={TAKES_DEAD: "true"})])
            if isinstance(made, Refusal):
                raise Undeliverable(f"it could not be created: {made}")
            topic = self._topics.existing(name)
        if not config_of(topic).takes_dead:
            raise Undeliverable(f"its config {TAKES_DEAD} is not true")
        return topic

    async def _read(self, slot: Slot, offsets: range) -> tuple[range, dict[int, Record]]:
        """The dead records, as far as they are still there; fewer offsets if they are large. Raises StoreError,
        InvalidBatch."""
        found: dict[int, Record] = {}
        at = max(offsets[0], slot.start)
        while at <= offsets[-1]:
            read = await reader_of(self._store, slot).read(slot, at, slot.durable_end, READ_BYTES, True, None)
            if not read.size:
                break
            data = b"".join(read.parts)
            at, records = await self._openers.run(partial(_opened, data, offsets))
            found |= records
            if sum(map(_size_of, found.values())) >= COPIED_BYTES_MAX:
                return range(offsets[0], min(at, offsets.stop)), found
        return offsets, found

    def _letters(
        self, key: PlaceKey, topic: str, dead: Dead, offsets: Iterable[int], records: Mapping[int, Record]
    ) -> list[Record]:
        now_ms = self._clock.wall_ms()
        count, why = str(dead.deliveries).encode(), REASONS[dead.state].encode()
        letters: list[Record] = []
        for offset in offsets:
            headers = (
                ("__dlq.errors.topic", topic.encode()),
                ("__dlq.errors.partition", str(key.partition).encode()),
                ("__dlq.errors.offset", str(offset).encode()),
                ("__dlq.errors.group", key.group_id.encode()),
                ("__dlq.errors.delivery.count", count),
                ("__dlq.errors.message", why),
            )
            record = records.get(offset)
            letters.append(
                Record(0, now_ms, None, None, headers)
                if record is None
                else Record(0, now_ms, record.key, record.value, (*record.headers, *headers))
            )
        return letters

    # Writing

    async def _append(self, topic: Stream, partition: int, letters: Sequence[Record]) -> None:
        """Return when the letters are durable. Raises Undeliverable, StoreError, InvalidBatch."""
        data = await self._openers.run(lambda pace: build_batch(_numbered(letters)))
        slot = topic.slot(partition)
        try:
            await self._append_here(slot, data)
        except NotHosted as elsewhere:
            peer = self._peer_of(topic.state.container_of_slot(partition))
            if peer is None:
                raise Undeliverable(str(elsewhere)) from elsewhere
            await _send(peer, topic.name, partition, bytes(data))

    async def _append_here(self, slot: Slot, data: bytearray) -> None:
        config = config_of(slot.stream)
        now_ms = self._clock.wall_ms()

        def adapted(pace: Pace) -> tuple[BatchHeader, memoryview]:
            batch = validate_batch(memoryview(data))
            return adapt_batch(batch, memoryview(data), config, now_ms, self._full, pace)

        container = self._store.hosted(slot).container
        batch, view = await self._openers.run(adapted)
        if container.throttle.is_on:
            hold_s = container.throttle.hold_s(container.clock.monotonic_s(), len(view))
            await asyncio.sleep(min(hold_s, HOLD_S_MAX))
        if slot.stream.deleted:
            raise Undeliverable("it was deleted meanwhile")
        if config.timestamp_type_append:
            batch = stamp(batch, view, time.time_ns() // 1_000_000)
        PLACE.pack_into(view, 0, slot.end, len(view) - LENGTH_PREFIX_BYTES, container.epoch)
        durable = _Durable()
        container.append(slot, view, batch.record_count, batch.max_timestamp, durable)
        await durable.future


class _Durable:
    """Waits for an append."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def appended(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def append_failed(self, error: StorageFailure) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def _send(peer: Peer, topic: str, partition: int, records: bytes) -> None:
    """Have another worker append. Raises Undeliverable."""
    placed = {"index": partition, "records": records}
    topics = [{"name": topic, "partition_data": [placed]}]
    values: dict[str, Any] = {"acks": -1, "timeout": int(ANSWER_S * 1_000), "topic_data": topics}
    try:
        answer = await peer.ask(*PRODUCE, values, ANSWER_S)
    except PeerAway as away:
        raise Undeliverable(str(away)) from away
    code = answer.responses[0].partition_responses[0].error_code
    if code:
        raise Undeliverable(f"the worker that has its partition {partition} refuses: {ErrorCode(code).name}")


def _opened(data: bytes, wanted: range, pace: Pace) -> tuple[int, dict[int, Record]]:
    """The wanted records of stored batches, and the offset behind these. Raises InvalidBatch."""
    found: dict[int, Record] = {}
    position = end = 0
    view = memoryview(data)
    while position < len(data):
        header = read_header(data, position)
        end = header.last_offset + 1
        if not header.is_control and header.base_offset <= wanted[-1] and end > wanted[0]:
            for record in iter_records(view[position : position + header.size]):
                pace.spend(1)
                if record.offset in wanted:
                    found[record.offset] = record
        position += header.size
    return end, found


def _batches(letters: Sequence[Record], bytes_max: int) -> Iterable[list[Record]]:
    """Letters in order, in batches that their topic takes; one that is too large alone has its headers only."""
    some: list[Record] = []
    size = 0
    for full in letters:
        is_too_large = _size_of(full) > bytes_max
        letter = full._replace(key=None, value=None, headers=full.headers[-LETTER_HEADERS:]) if is_too_large else full
        its_size = _size_of(letter)
        if some and size + its_size > bytes_max:
            yield some
            some, size = [], 0
        some.append(letter)
        size += its_size
    if some:
        yield some


def _size_of(record: Record) -> int:
    """The bytes of a record in a batch, at most."""
    fields = (
        record.key,
        record.value,
        *(part for name, value in record.headers for part in (name.encode(errors=KEEP_BYTES), value)),
    )
    return RECORD_BYTES_MAX + sum(len(field or b"") + VARINT_BYTES_MAX for field in fields)


def _numbered(records: Iterable[Record]) -> Iterable[Record]:
    return (record._replace(offset=place) for place, record in enumerate(records))
