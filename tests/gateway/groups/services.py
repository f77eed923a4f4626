"""A coordinator on the real store, without sockets; time stands still until a test moves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from kio.schema.errors import ErrorCode

from core.clock import ManualClock
from core.store import Store
from gateway.config.loading import load
from gateway.coordination.homes import Homes
from gateway.groups.classic.messages import JoinRequest, JoinResult, SyncRequest, SyncResult
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.topics.topics import Topics, WantedTopic
from tests.core.support import SCENARIO_S_MAX
from tests.gateway.groups.harness import RANGE, REBALANCE_MS, SESSION_MS

FAST = ("group.initial.rebalance.delay.ms=0", "log.file.bytes=1048576")


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine on the loop that the gateway runs on."""
    uvloop.run(asyncio.wait_for(test, SCENARIO_S_MAX))


class Services:
    """The part of a broker that groups need."""

    def __init__(self, store: Store, topics: Topics, groups: GroupCoordinator, clock: ManualClock) -> None:
        self.store = store
        self.topics = topics
        self.groups = groups
        self.clock = clock

    async def create(self, *names: str, partitions: int = 4) -> None:
        outcomes = await self.topics.create([WantedTopic(name, partitions) for name in names])
        assert [getattr(outcome, "name", None) for outcome in outcomes] == list(names)

    async def commit(self, group: str, topic: str, partition: int, offset: int) -> ErrorCode:
        """A commit of a consumer that assigns by itself."""
        error = self.groups.admission.commit(group, "", None, -1)
        assert error is ErrorCode.none
        (error,) = await self.groups.offsets.commit(group, [OffsetCommit(topic, partition, offset, -1, "")])
        return error

    def offsets(self, group: str) -> dict[tuple[str, int], int]:
        """The visible offsets of a group."""
        return {
            (topic, partition): committed.offset
            for topic, partitions in self.groups.offsets.of_group(group).items()
            for partition, committed in partitions.items()
        }

    async def join(self, group: str, member_id: str = "", **changes: Any) -> JoinResult:
        return await self.groups.join(group, join_request(member_id, **changes))

    async def sync(
        self, group: str, member_id: str, generation: int, shares: dict[str, bytes] | None = None
    ) -> SyncResult:
        request = SyncRequest(
            member_id=member_id,
            instance_id=None,
            generation=generation,
            protocol_type=None,
            protocol_name=None,
            assignments=tuple((shares or {}).items()),
        )
        return await self.groups.sync(group, request)

    async def stable_member(self, group: str, **changes: Any) -> str:
        """A group of one member, in its first generation; the member's id."""
        joined = await self.join(group, **changes)
        assert joined.error is ErrorCode.none
        synced = await self.sync(group, joined.member_id, joined.generation, {joined.member_id: b"all"})
        assert synced.error is ErrorCode.none
        return joined.member_id


def join_request(member_id: str = "", **changes: Any) -> JoinRequest:
    request: dict[str, Any] = {
        "member_id": member_id,
        "instance_id": None,
        "client_id": "c",
        "client_host": "/127.0.0.1",
        "protocol_type": "consumer",
        "protocols": RANGE,
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "reason": None,
        "requires_known_member_id": False,
        "supports_skip_assignment": True,
    }
    return JoinRequest(**(request | changes))


@asynccontextmanager
async def serving(
    directory: Path, *settings: str, clock: ManualClock | None = None, clean: bool = True, writes_ids: bool = True
) -> AsyncIterator[Services]:
    """Open the store in `directory`; close it afterwards, or drop it as a crash would. `writes_ids`: as the level of a
    cluster allows it."""
    clock = clock or ManualClock()
    config = load(environ={}, assignments=[*FAST, *settings])
    configs = BrokerConfigs(config)
    store = await Store.open(directory, config.store_config(), configs.policy_for, clock)
    topics = Topics(config, store, configs)
    coordinators = GroupCoordinators(
        config,
        store,
        clock,
        topics,
        topics,
        Homes([store.home.id]),
        settings_of(config, lambda _: {}),
        streams_settings_of(config, lambda _: {}),
        Elsewhere(lambda container_id: None),
    )
    coordinators.writes_ids = lambda: writes_ids
    await coordinators.load()
    await coordinators.start()
    try:
        yield Services(store, topics, coordinators.of("g"), clock)
    finally:
        if clean:
            await coordinators.stop()
        await store.close(clean=clean)
