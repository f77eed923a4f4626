"""A data directory that one process served begins to be served by several: the registry takes over from its tables.

Keeps: the registry appears as a whole, by a rename, or not at all; the tables stay as they are. From then on the
registry decides, however many processes serve the directory.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from core.cluster.sqlite_registry import Adopted, SqliteRegistry
from core.cluster.table_registry import COUNTERS_TABLE, EPOCH_KEY, NEXT_KEY, WRITERS_TABLE
from core.config import StoreConfig
from core.container.container import Container
from core.offline import looked_at
from core.streams.state import NEXT_STREAM_KEY, REGISTRY_DECIDES, STREAM_IDS_TABLE
from gateway.durable_files import sync_directory
from gateway.internal_topics.topics import TABLE as INTERNAL_TOPICS
from gateway.kafka_configs.broker_configs import SETTINGS as BROKER_CONFIGS
from gateway.kafka_configs.features import TABLE as FEATURES
from gateway.kafka_configs.resource_configs import SETTINGS as RESOURCE_CONFIGS
from gateway.quotas.quotas import TABLE as QUOTAS
from gateway.security.acl_format import TABLE as ACLS
from gateway.security.delegation_rows import TABLE as DELEGATION_TOKENS
from gateway.security.scram_users import TABLE as USERS

SETTINGS: Final = (
    ACLS,
    BROKER_CONFIGS,
    DELEGATION_TOKENS,
    FEATURES,
    INTERNAL_TOPICS,
    QUOTAS,
    RESOURCE_CONFIGS,
    USERS,
)
_NUMBER: Final = struct.Struct(">Q")


async def adopt(store: Path, config: StoreConfig, registry: Path, *, fresh: bool) -> None:
    """Make the registry, if there is none yet. The caller owns the store, and nobody has it open.

    Raises CorruptLog, CorruptState, StorageFailure.
    """
    scratch = registry.with_name(f".{registry.name}.new")
    if not await asyncio.to_thread(_begin, registry, scratch):
        return
    made = await SqliteRegistry.open(scratch)
    try:
        if not fresh:
            async with looked_at(store, config) as containers:
                if containers:
                    await made.adopt(_found(containers[0].container))
    finally:
        await made.close()
    scratch.replace(registry)
    sync_directory(registry.parent)


def _begin(registry: Path, scratch: Path) -> bool:
    """Whether there is none yet; then nothing of an earlier try is left."""
    if registry.exists():
        return False
    for left in scratch.parent.glob(f"{scratch.name}*"):
        left.unlink()
    return True


def _found(home: Container) -> Adopted:
    tables: Mapping[str, Mapping[bytes, bytes]] = {kind: dict(home.table(kind).entries) for kind in SETTINGS}
    streams = [stream.state.decided_by(REGISTRY_DECIDES) for stream in home.streams.values()]
    next_stream = int.from_bytes(home.table(STREAM_IDS_TABLE).get(NEXT_STREAM_KEY) or b"", "big")
    return Adopted(
        streams=streams,
        settings=tables,
        next_stream=max([next_stream, 1, *(state.id + 1 for state in streams)]),
        next_writer=_counter(home, WRITERS_TABLE, NEXT_KEY),
        epoch=_counter(home, COUNTERS_TABLE, EPOCH_KEY),
    )


def _counter(home: Container, table: str, key: bytes) -> int:
    value = home.table(table).get(key)
    return 0 if value is None else int(_NUMBER.unpack(value)[0])
