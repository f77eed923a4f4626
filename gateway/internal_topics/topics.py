"""`__consumer_offsets` and `__transaction_state`: topics that no log holds, made from the tables when they are read.

Groups, offsets and transactions are rows of tables. Tools that watch groups read Kafka's internal topics instead of
asking for groups: for them each row is shown as the record that a Kafka would have (`messages.py`), in a partition of
its container (`partitions.py`), and every change of a row as a further record. Nobody pays for that while nobody reads.

Keeps: once somebody has asked for a coordinator, and as long as there are groups or transactions, their topic is
listed, as Kafka makes it then; by its name it is always found. A process that has a part of the containers does not
know whether the others have any, and lists both. It shows its own containers' partitions, and all processes together
show each partition once. A real topic of such a name, made by an earlier release, goes before.

Table `internaltopics` of each container: b"next" -> u32 big-endian, the number of the next block of offsets of its
partitions. Block n begins at n * 2^42: 4 * 10^12 changes of one partition, for two million openings that are read
from. Earlier releases had one number for all containers, in the registry: no block begins before that one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid5

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.state import new_stream
from gateway.config.loading import Config
from gateway.coordination.homes import Homes
from gateway.groups.consumer.format import CONSUMER_TABLE
from gateway.groups.persistence import GROUP_BYTES_AT_ONCE, GROUPS_TABLE, OFFSETS_TABLE
from gateway.internal_topics.messages import (
    InternalRecord,
    group_of_offset,
    group_record,
    offset_record,
    transaction_record,
)
from gateway.internal_topics.partitions import Partitions
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
_SAME_USE: Final = {CONSUMER_OFFSETS: (CONSUMER_TABLE,)}
"""Tables whose rows are not shown, and are in use of the topic all the same."""


class Offsets:
    """The blocks of offsets of a container's partitions: one for each opening, claimed when somebody reads.

    They lie in the container, so they go on where it goes.
    """

    def __init__(self, store: Store, container: Container) -> None:
        self.container = container
        stored = (container.table(TABLE).get(NEXT_KEY), store.registry.settings(TABLE).get(NEXT_KEY))
        self.next: int = max(0 if value is None else _BLOCK.unpack(value)[0] for value in stored)
        self._claimed: asyncio.Task[None] | None = None

    @property
    def told_end(self) -> int:
        """Behind all offsets of earlier openings."""
        return self.next * BLOCK_OFFSETS

    async def first(self) -> int:
        """The first offset of this opening's block, which is durable. Raises StoreError."""
        if self._claimed is None or (self._claimed.done() and self._claimed.exception() is not None):
            self._claimed = asyncio.create_task(self._claim(), name="internal-topics")
        await asyncio.shield(self._claimed)
        return self.told_end

    async def _claim(self) -> None:
        await self.container.update(Put(TABLE, NEXT_KEY, _BLOCK.pack(self.next + 1)))
        await self.container.synced()


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The owner of a partition that another process shows."""

    id: int
    known_writers: KnownWriters
    epoch: int = -1  # not known here


class InternalTopic:
    """One topic, and the source of its partitions' rows."""

    def __init__(
        self,
        name: str,
        uuid: UUID,
        partitions: Mapping[str, Partitions],
        policy: StreamPolicy,
        store: Store,
        clock: Clock,
        offsets: Callable[[Container], Offsets],
    ) -> None:
        self.name = name
        self.partitions = partitions[name]
        self._partition_of_group = partitions[CONSUMER_OFFSETS].of
        self._store = store
        self._clock = clock
        self._offsets = offsets
        self._followed: dict[int, Container] = {}  # by id, those of whose changes this hears
        self._passing = asyncio.Lock()
        self._next_pass: asyncio.Task[None] | None = None  # not begun yet
        self._wanting: dict[int, Callable[[Row], None]] = {}  # of the next pass, by partition
        self.is_asked_for = False
        places = [self.partitions.container_of(number) for number in range(self.partitions.count)]
        state = new_stream(
            stream_id=0,
            name=name,
            uuid=uuid,
            slots=len(places),
            created_ms=0,
            container=places[0],
            config=CONFIGS,
        )
        if len(set(places)) > 1:
            state = state.placed(places, 0, "spread")
        self.stream = Stream(state, policy, self._slot)

    def __repr__(self) -> str:
        return f"<InternalTopic {self.name} {self.partitions!r}>"

    def _slot(self, stream: Stream, number: int) -> Slot:
        container_id = self.partitions.container_of(number)
        if not self._store.serves(container_id):
            return Slot(_Elsewhere(container_id, self._store.known_writers), stream, number)
        container = self._store.containers[container_id].container
        offsets = self._offsets(container)
        return InternalSlot(container, stream, number, self, offsets.first, offsets.told_end)

    def moved(self, container_id: int) -> None:
        """A container came, or goes: its partitions are made anew, and whoever waits for them looks again."""
        if not self._store.serves(container_id):
            self._followed.pop(container_id, None)
        for slot in self.stream.forget_slots(container_id):
            slot.changed()

    @property
    def is_in_use(self) -> bool:
        """Whether there is anything to read, as far as it is known here."""
        if self.is_asked_for or self._store.is_shared:
            return True
        return any(
            len(hosted.container.table(name))
            for hosted in self._store.containers.values()
            for name in (*_TABLES[self.name], *_SAME_USE.get(self.name, ()))
        )

    # --- Source of the partitions -------------------------------------------------------------

    async def fill(self, partition: int, take: Callable[[Row], None]) -> None:
        """Partitions that are asked for at about the same time are filled in one pass."""
        self._follow(self._container_of(partition))
        if self._next_pass is None:
            self._next_pass = asyncio.create_task(self._pass(), name=f"fill {self.name}")
        self._wanting[partition] = take
        await asyncio.shield(self._next_pass)

    async def _pass(self) -> None:
        async with self._passing:
            await asyncio.sleep(0)
            wanting, self._wanting, self._next_pass = self._wanting, {}, None
            for container in {self._container_of(partition) for partition in wanting}:
                for name in _TABLES[self.name]:
                    table = container.table(name)
                    async for rows in table.in_steps():
                        for key, _ in rows:
                            take = wanting.get(self._partition(name, key))
                            if take is not None:
                                take(Row(table, key))

    def _container_of(self, partition: int) -> Container:
        """Raises NotHosted."""
        return self._store.hosted(self.stream.slot(partition)).container

    async def record(self, row: Row, value: bytes | None) -> InternalRecord:
        """What a row says, now. A large group's is made in a thread."""
        match row.table.name:
            case "offsets":
                return offset_record(row.key, value)
            case "groups":
                if value is None or len(value) <= GROUP_BYTES_AT_ONCE:
                    return group_record(row.key, value)
                return await asyncio.to_thread(group_record, row.key, value)
            case _:
                return transaction_record(row.key, value, self._topic_of, self._partition_of_group)

    def _topic_of(self, stream_id: int) -> str | None:
        stream = self._store.stream_of(stream_id)
        return None if stream is None else stream.name

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    def _partition(self, table: str, key: bytes) -> int:
        name = group_of_offset(key) if table == OFFSETS_TABLE else key.decode()
        return self.partitions.of(name)

    def _follow(self, container: Container) -> None:
        """Hear of a container's changes from now on."""
        if self._followed.get(container.id) is not container:
            self._followed[container.id] = container
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
    """Both topics, by name and id."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        cluster_id: str,
        policy_for: Callable[[Mapping[str, str]], StreamPolicy],
    ) -> None:
        self._store = store
        self._offsets: dict[int, Offsets] = {}  # by container
        homes = Homes(store.config.container_ids)
        partitions = {
            CONSUMER_OFFSETS: Partitions(homes, config.offsets_topic_num_partitions),
            TRANSACTION_STATE: Partitions(homes, config.transaction_state_log_num_partitions),
        }
        # Earlier releases had the same partitions with other names in them and other epochs: those were other topics.
        dealt = f" over {len(homes)} containers" if homes.are_several else ""
        self._topics = {
            name: InternalTopic(
                name,
                uuid5(_NAMESPACE, f"{cluster_id} {name}{dealt}"),
                partitions,
                policy_for(CONFIGS),
                store,
                clock,
                self._offsets_of,
            )
            for name in partitions
        }
        self._by_uuid = {topic.stream.uuid: topic for topic in self._topics.values()}

    def _offsets_of(self, container: Container) -> Offsets:
        found = self._offsets.get(container.id)
        if found is None or found.container is not container:
            found = self._offsets[container.id] = Offsets(self._store, container)
        return found

    def moved(self, container_id: int) -> None:
        """A container was opened at runtime, and is to be read, or is about to be released."""
        if not self._store.serves(container_id):
            self._offsets.pop(container_id, None)
        for topic in self._topics.values():
            topic.moved(container_id)

    def find(self, topic: str | UUID | None) -> Stream | None:
        """The topic of that name or id, unless a real one has the name."""
        found = self._topics.get(topic) if isinstance(topic, str) else self._by_uuid.get(topic)  # type: ignore[arg-type]
        return None if found is None or self._store.streams.get(found.name) is not None else found.stream

    def asked_for(self, name: str) -> None:
        """Somebody wants a coordinator, whose topic it is."""
        self._topics[name].is_asked_for = True

    def listed(self) -> list[Stream]:
        """The topics that hold anything."""
        used = (topic for topic in self._topics.values() if topic.is_in_use)
        return [topic.stream for topic in used if self.find(topic.name) is not None]
