"""`__consumer_offsets` and `__transaction_state`: topics that no log holds, made from the tables when they are read.

Groups, offsets and transactions are rows of tables. Tools that watch groups read Kafka's internal topics instead of
asking for groups: for them each row is shown as the record that a Kafka would have (`messages.py`), in the partition in
which it would be, and every change of a row as a further record. Nobody pays for that while nobody reads.

Keeps: as long as there are groups or transactions, their topic is listed; by its name it is always found. A real topic
of such a name, made by an earlier release, goes before.

Table `internaltopics`: b"next" -> u32 big-endian, the number of the next process's block of offsets. Block n begins at
n * 2^42: 4 * 10^12 changes of one partition, for two million processes that are read from.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.store import Store
from core.streams.live import Stream
from core.streams.policy import StreamPolicy
from core.streams.state import new_stream
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups.persistence import GROUPS_TABLE, OFFSETS_TABLE
from gateway.internal_topics.messages import (
    InternalRecord,
    group_of_offset,
    group_record,
    offset_record,
    partition_of,
    transaction_record,
)
from gateway.internal_topics.slots import InternalSlot, Row
from gateway.topics.topics import CONSUMER_OFFSETS, TRANSACTION_STATE
from gateway.transactions.persistence import TRANSACTIONS_TABLE

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.known_writers import KnownWriters

TABLE: Final = "internaltopics"
NEXT_KEY: Final = b"next"
_BLOCK: Final = struct.Struct(">I")
BLOCK_OFFSETS: Final = 2**42
CONFIGS: Final = {"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": "104857600"}
"""As Kafka sets them for its own."""
_NAMESPACE: Final = UUID("8f0c6c0e-30a5-4a8c-9d0e-6f4d8a6f7e15")
_TABLES: Final = {CONSUMER_OFFSETS: (OFFSETS_TABLE, GROUPS_TABLE), TRANSACTION_STATE: (TRANSACTIONS_TABLE,)}


class Offsets:
    """The blocks of offsets: one for each process, claimed when somebody reads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        stored = store.registry.settings(TABLE).get(NEXT_KEY)
        self.next = 0 if stored is None else _BLOCK.unpack(stored)[0]
        self._claimed: asyncio.Task[None] | None = None

    @property
    def told_end(self) -> int:
        """Behind all offsets of earlier processes."""
        return self.next * BLOCK_OFFSETS

    async def first(self) -> int:
        """The first offset of this process's block, which is durable. Raises StoreError."""
        if self._claimed is None or (self._claimed.done() and self._claimed.exception() is not None):
            self._claimed = asyncio.create_task(self._claim(), name="internal-topics")
        await asyncio.shield(self._claimed)
        return self.told_end

    async def _claim(self) -> None:
        await self._store.registry.change_settings(TABLE, {NEXT_KEY: _BLOCK.pack(self.next + 1)})


class _Leader:
    """The owner of all internal partitions: the container that keeps tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def known_writers(self) -> KnownWriters:
        return self._store.known_writers

    @property
    def id(self) -> int:
        return self._store.home.id

    @property
    def epoch(self) -> int:
        return self._store.home.epoch


class InternalTopic:
    """One topic, and the source of its partitions' rows."""

    def __init__(
        self,
        name: str,
        uuid: UUID,
        counts: Mapping[str, int],
        policy: StreamPolicy,
        store: Store,
        clock: Clock,
        offsets: Offsets,
    ) -> None:
        self.name = name
        self.partitions = counts[name]
        self._group_partitions = counts[CONSUMER_OFFSETS]
        self._store = store
        self._clock = clock
        self._offsets = offsets
        self._followed: set[int] = set()  # containers of whose changes this hears
        self._passing = asyncio.Lock()
        self._next_pass: asyncio.Task[None] | None = None  # not begun yet
        self._wanting: dict[int, Callable[[Row], None]] = {}  # of the next pass, by partition
        state = new_stream(
            stream_id=0,
            name=name,
            uuid=uuid,
            slots=self.partitions,
            created_ms=0,
            container=store.home.id,
            config=CONFIGS,
        )
        leader = _Leader(store)
        self.stream = Stream(state, policy, partial(self._slot, leader))

    def __repr__(self) -> str:
        return f"<InternalTopic {self.name} {self.partitions} partitions>"

    def _slot(self, leader: _Leader, stream: Stream, number: int) -> InternalSlot:
        return InternalSlot(leader, stream, number, self, self._offsets.told_end)

    @property
    def is_in_use(self) -> bool:
        """Whether there is anything to read."""
        return any(len(container.table(name)) for container in self._containers() for name in _TABLES[self.name])

    def _containers(self) -> Iterable[Container]:
        return (hosted.container for hosted in self._store.containers.values())

    # --- Source of the partitions -------------------------------------------------------------

    async def fill(self, partition: int, take: Callable[[Row], None]) -> None:
        """Partitions that are asked for at about the same time are filled in one pass."""
        for container in self._containers():
            self._follow(container)
        if self._next_pass is None:
            self._next_pass = asyncio.create_task(self._pass(), name=f"fill {self.name}")
        self._wanting[partition] = take
        await asyncio.shield(self._next_pass)

    async def _pass(self) -> None:
        async with self._passing:
            await asyncio.sleep(0)
            wanting, self._wanting, self._next_pass = self._wanting, {}, None
            for container in list(self._containers()):
                for name in _TABLES[self.name]:
                    table = container.table(name)
                    async for key, _ in in_turns(table.items()):
                        take = wanting.get(self._partition(name, key))
                        if take is not None:
                            take(Row(table, key))

    def record(self, row: Row, value: bytes | None) -> InternalRecord:
        match row.table.name:
            case "offsets":
                return offset_record(row.key, value)
            case "groups":
                return group_record(row.key, value)
            case _:
                return transaction_record(row.key, value, self._topic_of, self._group_partitions)

    def _topic_of(self, stream_id: int) -> str | None:
        stream = self._store.stream_of(stream_id)
        return None if stream is None else stream.name

    async def first_offset(self) -> int:
        return await self._offsets.first()

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    def _partition(self, table: str, key: bytes) -> int:
        name = group_of_offset(key) if table == OFFSETS_TABLE else key.decode()
        return partition_of(name, self.partitions)

    def _follow(self, container: Container) -> None:
        """Hear of a container's changes from now on."""
        if container.id not in self._followed:
            self._followed.add(container.id)
            for name in _TABLES[self.name]:
                container.on_applied(name, self._listener(container, name))

    def _listener(self, container: Container, name: str) -> Callable[[Put | Delete], None]:
        table = container.table(name)

        def applied(operation: Put | Delete) -> None:
            slot = self.stream.known_slot(self._partition(name, operation.key))
            if isinstance(slot, InternalSlot) and slot.is_viewed:
                slot.noted(Row(table, operation.key), gone=isinstance(operation, Delete))

        return applied


class InternalTopics:
    """Both topics, by name and id. A process that has a part of the containers shows none: its views would lack the
    rest."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        cluster_id: str,
        policy_for: Callable[[Mapping[str, str]], StreamPolicy],
    ) -> None:
        self._store = store
        offsets = Offsets(store)
        counts = {
            CONSUMER_OFFSETS: config.offsets_topic_num_partitions,
            TRANSACTION_STATE: config.transaction_state_log_num_partitions,
        }
        self._topics = {
            name: InternalTopic(
                name, uuid5(_NAMESPACE, f"{cluster_id} {name}"), counts, policy_for(CONFIGS), store, clock, offsets
            )
            for name in (() if store.is_shared else counts)
        }
        self._by_uuid = {topic.stream.uuid: topic for topic in self._topics.values()}

    def find(self, topic: str | UUID | None) -> Stream | None:
        """The topic of that name or id, unless a real one has the name."""
        found = self._topics.get(topic) if isinstance(topic, str) else self._by_uuid.get(topic)  # type: ignore[arg-type]
        return None if found is None or self._store.streams.get(found.name) is not None else found.stream

    def listed(self) -> list[Stream]:
        """The topics that hold anything."""
        used = (topic for topic in self._topics.values() if topic.is_in_use)
        return [topic.stream for topic in used if self.find(topic.name) is not None]
