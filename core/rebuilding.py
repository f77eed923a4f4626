"""A cluster's keys in etcd are made anew from its containers, when etcd has lost its data for good.

Each container has copies of the streams whose slots it has, and its log names the epochs that were given. Dynamic
settings come from a copy of them, if the caller has one (`gateway.cluster.settings_copy`). What only etcd had cannot
come back: streams of which no container ever heard.

Keys are written in an order that may stop anywhere: first `rebuild`, with which no node begins the cluster; then all
others; in the end `meta` takes the place of `rebuild`. So a second run begins anew, and nobody sees half of it.

**Invariants**

- No epoch, no id of a stream and no id of a writer is ever given twice: the counters begin far above all that was seen.
- Nothing is written where a cluster is. Nothing in the object store is changed.
- Of two copies of a stream the one with the higher revision is right, and a name belongs to the newest stream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from core.cluster.coordination import LINKS_MAX
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import CALLS, Session
from core.cluster.etcd.wire import Delete, KeyValue, Put, Range, absent, end_of
from core.cluster.etcd_keys import (
    EPOCH,
    FORMAT,
    LINKS,
    META,
    NAMES,
    NEXT_STREAM,
    NEXT_WRITER,
    REBUILD,
    SETTINGS,
    Meta,
    alike_key,
    stream_key,
)
from core.cluster.registry import common_form
from core.config import StoreConfig
from core.container.container import Container
from core.errors import CoordinatorRefuses
from core.hosted import container_directory, log_directory
from core.log.objects.looking import copied, highest_epoch
from core.log.objects.protocol import Link
from core.offline import looked_at
from core.streams.state import STREAMS_TABLE, StreamState, decode_stream
from core.tiering.rows import parse_chunk_key
from core.tiering.snapshots.format import parse_snapshot_key, snapshot_prefix
from tier2.storage import Storage

logger = logging.getLogger(__name__)

EPOCHS_APART: Final = 1_000
"""More claims than a cluster makes after the last one that has left a trace in the object store."""
STREAMS_APART: Final = 1 << 20
"""More streams than were made and deleted since the newest one that is left; ids have room for 4,000 rebuilds."""
WRITERS_APART: Final = 1 << 40
"""More ids of writers than were given since the last one that is known; there is room for millions of rebuilds."""
KEYS_AT_ONCE: Final = 50
KEYS_MAX: Final = 1_000_000

WriterIds = Callable[[Container], int]
"""The highest id of a writer in tables that the store does not read; -1 if there is none."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What one container tells."""

    container: int
    epoch: int  # the highest that was given for it
    links: Sequence[Link] = ()
    streams: Sequence[StreamState] = ()
    stream: int = 0  # the highest id that it has heard of
    writer: int = -1  # the highest id that it has heard of


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the keys will say. `dropped`: copies that lost their name to a newer stream."""

    streams: Sequence[StreamState]
    dropped: Sequence[StreamState]
    links: Mapping[int, Sequence[Link]]
    epoch: int
    next_stream: int
    next_writer: int
    settings: Sequence[tuple[str, bytes, bytes]] = ()  # kind, key, value


@dataclass(slots=True)
class _Slots:
    """The highest ids in a container's slots."""

    stream: int = 0
    writer: int = -1
    streams: list[StreamState] = field(default_factory=list)


async def look_at(
    storage: Storage, container: int, config: StoreConfig, scratch: Path | None, writer_ids: WriterIds
) -> ContainerFacts:
    """Read one container, in a directory below `scratch` that is gone afterwards.

    Raises StorageFailure, CorruptLog, CorruptState, StorageError, OSError.
    """
    epoch = await highest_epoch(storage, container)
    epoch = max(epoch, await _highest_in_chunks(storage, container))
    with tempfile.TemporaryDirectory(prefix="penstock-rebuild-", dir=scratch, ignore_cleanup_errors=True) as made:
        store = Path(made)
        own, logs = container_directory(store, container), log_directory(store, container)
        await asyncio.to_thread(logs.mkdir, parents=True)
        log = await copied(storage, container, own, logs)
        alone = replace(config, container_ids=(container,), directories=())
        async with looked_at(store, alone) as opened:
            (hosted,) = opened
            found = await asyncio.to_thread(_slots_of, hosted.container)
            writer = max(found.writer, writer_ids(hosted.container))
            epoch = max(epoch, hosted.recovered.epoch, log.place.epoch)
    return ContainerFacts(container, epoch, log.links, found.streams, found.stream, writer)


def _slots_of(container: Container) -> _Slots:
    found = _Slots()
    for value in container.table(STREAMS_TABLE).entries.values():
        found.streams.append(decode_stream(value))
    for stream in container.streams.values():
        found.stream = max(found.stream, stream.id)
        for slot in stream.written_slots():
            found.writer = max(found.writer, max(slot.writers or (), default=-1))
    return found


async def _highest_in_chunks(storage: Storage, container: int) -> int:
    """The highest epoch in the names of a container's chunks and snapshots."""
    highest = 0
    async for info in storage.list(f"chunks/{container}/"):
        if (chunk := parse_chunk_key(info.key)) is not None:
            highest = max(highest, chunk.epoch)
    async for info in storage.list(snapshot_prefix(container)):
        if (snapshot := parse_snapshot_key(info.key)) is not None:
            highest = max(highest, snapshot[1].epoch)
    return highest


def agreed(
    facts: Iterable[ContainerFacts], settings: Sequence[tuple[str, bytes, bytes]] = (), epoch: int = 0
) -> Rebuilt:
    """Make one cluster of what its containers tell, with these settings; `epoch`: another one that was given."""
    known = list(facts)
    newest: dict[int, StreamState] = {}
    for copy in (state for one in known for state in one.streams):
        if copy.id not in newest or copy.revision > newest[copy.id].revision:
            newest[copy.id] = copy
    by_name: dict[str, StreamState] = {}
    dropped: list[StreamState] = []
    for stream_id in sorted(newest):
        name = common_form(newest[stream_id].name)
        if name in by_name:
            dropped.append(by_name[name])
        by_name[name] = newest[stream_id]
    highest = max([*newest, *(one.stream for one in known)], default=0)
    return Rebuilt(
        streams=sorted(by_name.values(), key=lambda state: state.id),
        dropped=dropped,
        links={one.container: one.links[-LINKS_MAX:] for one in known if one.links},
        epoch=max([epoch, *(one.epoch for one in known)]) + EPOCHS_APART,
        next_stream=highest + 1 + STREAMS_APART,
        next_writer=max((one.writer for one in known), default=-1) + 1 + WRITERS_APART,
        settings=settings,
    )


# etcd


async def refuse_where_cluster_is(client: EtcdClient, prefix: bytes) -> None:
    """Raise CoordinatorRefuses unless there is nothing below the prefix, or what another rebuild has left."""
    keys = await _keys(client, prefix)
    name = prefix.decode()
    if prefix + META in keys or (keys and prefix + REBUILD not in keys):
        raise CoordinatorRefuses(
            f"etcd has {len(keys)} keys below {name}: a cluster is there, and nothing is rebuilt. If a node has begun "
            f"it anew after etcd lost its data, stop all nodes, and remove what it made: etcdctl del --prefix {name}"
        )


async def write(client: EtcdClient, session: Session, prefix: bytes, meta: Meta, rebuilt: Rebuilt) -> None:
    """Write all keys. Raises CoordinatorRefuses if a cluster is there, CoordinatorAway; then it may be called again."""
    await refuse_where_cluster_is(client, prefix)
    mark = Put(prefix + REBUILD, json.dumps({"v": FORMAT, "cluster": meta.cluster}, separators=(",", ":")).encode())
    if not (await session.change((absent(prefix + META),), (mark,))).succeeded:
        raise CoordinatorRefuses(f"a node has begun the cluster below {prefix.decode()} meanwhile: stop all nodes")
    left = [Delete(key) for key in await _keys(client, prefix) if key != prefix + REBUILD]
    puts = [Put(prefix + key, value) for key, value in _values(rebuilt)]
    changes: list[Put | Delete] = [*left, *puts]
    for begin in range(0, len(changes), KEYS_AT_ONCE):
        done = await session.change((absent(prefix + META),), changes[begin : begin + KEYS_AT_ONCE])
        if not done.succeeded:
            raise CoordinatorRefuses(f"a cluster has come to be below {prefix.decode()} meanwhile: stop all nodes")
    end = Put(prefix + META, meta.encode()), Delete(prefix + REBUILD)
    if not (await session.change((absent(prefix + META),), end)).succeeded:
        raise CoordinatorRefuses(f"a cluster has come to be below {prefix.decode()} meanwhile: stop all nodes")


def _values(rebuilt: Rebuilt) -> Iterable[tuple[bytes, bytes]]:
    for state in rebuilt.streams:
        yield NAMES + state.name.encode(), b"%d" % state.id
        yield alike_key(state.name), state.name.encode()
        yield stream_key(state.id), state.encode()
    for container, links in sorted(rebuilt.links.items()):
        stored = {"v": FORMAT, "links": [[one.epoch, one.lsn, one.next_epoch] for one in links]}
        yield LINKS + b"%d" % container, json.dumps(stored, separators=(",", ":")).encode()
    for kind, key, setting in rebuilt.settings:
        yield SETTINGS + kind.encode() + b"/" + key, setting
    yield EPOCH, b"%d" % rebuilt.epoch
    yield NEXT_STREAM, b"%d" % rebuilt.next_stream
    yield NEXT_WRITER, b"%d" % rebuilt.next_writer


async def _keys(client: EtcdClient, prefix: bytes) -> dict[bytes, KeyValue]:
    """All keys below the prefix but those of sessions, which end by themselves."""
    found: dict[bytes, KeyValue] = {}
    start, end = prefix, end_of(prefix)
    while len(found) < KEYS_MAX:
        page = await client.read(Range(start, end, limit=500, keys_only=True))
        found |= {one.key: one for one in page.keys if not one.key.startswith(prefix + CALLS)}
        if not page.more or not page.keys:
            break
        start = page.keys[-1].key + b"\0"
    return found
