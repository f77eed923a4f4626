"""Stores of several containers, for tests: opened quietly, looked at as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from core.clock import Clock, ManualClock
from core.config import StoreConfig
from core.store import Store
from core.streams.live import Stream
from core.streams.policy import StreamPolicy
from core.streams.state import STREAMS_TABLE, stream_key
from tests.core.support import SMALL, policy_from

CONTAINERS: Final = 4
FOUR: Final = replace(SMALL, container_ids=tuple(range(CONTAINERS)))


def placed_policy(config: Mapping[str, str]) -> StreamPolicy:
    """As the tests' other policies, and `one` keeps a stream in one container."""
    return replace(policy_from(config), spread="one" not in config)


async def open_several(directory: Path, config: StoreConfig = FOUR, clock: Clock | None = None) -> Store:
    store = await Store.open(directory, config, placed_policy, clock or ManualClock())
    for hosted in store.containers.values():
        await hosted.maintenance.stop()  # the test says when
    return store


def places_of(stream: Stream) -> list[int]:
    """The container of each slot."""
    return [stream.slot(number).container_id for number in range(stream.slot_count)]


def slots_by_container(store: Store) -> Counter[int]:
    return Counter(place for stream in store.streams for place in places_of(stream))


def check_copies(store: Store) -> None:
    """All containers of a stream have the same row of it, and none has a row of another one."""
    rows = {id: dict(one.container.table(STREAMS_TABLE).entries) for id, one in store.containers.items()}
    expected: dict[int, dict[bytes, bytes]] = {id: {} for id in store.containers}
    for stream in store.streams:
        for place in stream.state.containers | {stream.state.container}:
            expected[place][stream_key(stream.id)] = stream.state.encode()
    assert rows == expected
    for id, hosted in store.containers.items():
        assert {stream_key(stream_id) for stream_id in hosted.container.streams} == rows[id].keys()
