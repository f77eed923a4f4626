"""How long the loop is held by a classic group of as many members as one may have.

Members join, sync, come back, fall silent, change to the consumer protocol and back, on a coordinator over a real
store; time is moved by hand. A beat on the same loop measures the turns, in CPU time of the loop's thread.

    python -m bench.large_groups --members 5000 --protocols 4
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.loading import Beat
from core.clock import ManualClock
from core.store import Store
from gateway.apis.describe_groups import _described
from gateway.config.loading import Config, load
from gateway.coordination.homes import Homes
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import JoinRequest, JoinResult, LeavingMember, Protocol, SyncRequest, SyncResult
from gateway.groups.classic.states import GroupState
from gateway.groups.consumer.embedded import Subscription, write_assignment, write_subscription
from gateway.groups.consumer.messages import Heartbeat
from gateway.groups.coordinator import GroupCoordinator
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.settings import settings_of, streams_settings_of
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.process.gc_passes import ShortPasses
from gateway.topics.topics import Topics, WantedTopic

SESSION_MS: Final = 100_000
REBALANCE_MS: Final = 60_000
PARTITIONS: Final = 100
REQUESTS_AT_ONCE: Final = 50
"""Requests that come in one pass of the loop."""
SUBSCRIPTION: Final = write_subscription(Subscription(1, ("t",), None, {}))


class Members:
    """Clients of one group, each with a request in flight at most."""

    def __init__(self, groups: GroupCoordinator, clock: ManualClock, count: int, protocols: int) -> None:
        self.groups = groups
        self.clock = clock
        self.count = count
        names = [f"p{number}" for number in range(protocols)]
        self.protocols = tuple(Protocol(name, SUBSCRIPTION) for name in names)
        self.joined: list[JoinResult] = []

    def group(self) -> Group:
        group = self.groups.get("g")
        assert isinstance(group, Group)
        return group

    def join(self, member_id: str = "", instance: str | None = None) -> Awaitable[JoinResult]:
        request = JoinRequest(
            member_id=member_id,
            instance_id=instance,
            client_id="consumer-of-a-service-1",
            client_host="/10.0.0.1",
            protocol_type="consumer",
            protocols=self.protocols,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            reason=None,
            requires_known_member_id=False,
            supports_skip_assignment=True,
        )
        return self.groups.join("g", request)

    def sync(self, one: JoinResult) -> Awaitable[SyncResult]:
        shares = tuple(
            (each.member_id, write_assignment(1, {"t": (number,)} if number < PARTITIONS else {}))
            for number, each in enumerate(one.members)
        )
        request = SyncRequest(
            member_id=one.member_id,
            instance_id=None,
            generation=one.generation,
            protocol_type=None,
            protocol_name=None,
            assignments=shares,
        )
        return self.groups.sync("g", request)

    async def all(self, calls: Sequence[Callable[[], Awaitable[Any]]], seconds: float) -> list[Any]:
        """All requests, then so much time passes."""
        tasks = []
        for call in calls:
            tasks.append(asyncio.ensure_future(call()))
            if len(tasks) % REQUESTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.pass_time(seconds)
        while seconds and self.group().state is GroupState.PREPARING_REBALANCE:
            self.pass_time(1)
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # what was decided is a turn of its own
        return [await task for task in tasks]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.groups._classic._alarms._on_timer()

    async def come(self) -> None:
        self.joined = await self.all([self.join] * self.count, 4)

    async def assign(self) -> None:
        in_order = sorted(self.joined, key=lambda one: len(one.members))  # the leader comes last
        told = await self.all([lambda one=one: self.sync(one) for one in in_order], 0)
        assert all(one.assignment for one in told)

    async def rejoin(self) -> None:
        leader = next(one for one in self.joined if one.members)
        others = [one for one in self.joined if one is not leader]
        in_order = [leader, *others]
        self.joined = await self.all([lambda one=one: self.join(one.member_id) for one in in_order], 0)

    async def leader_alone_rejoins(self) -> None:
        leader = next(one for one in self.joined if one.members)
        (one,) = await self.all([lambda: self.join(leader.member_id)], REBALANCE_MS / 1_000)
        assert len(one.members) == 1
        self.groups.leave("g", [LeavingMember(one.member_id, None, None)])

    async def fall_silent(self) -> None:
        self.pass_time(SESSION_MS / 1_000)
        while self.group().state is not GroupState.EMPTY:  # noqa: ASYNC110 - nothing sets an event for a bench
            await asyncio.sleep(0.001)

    async def describe(self) -> None:
        assert len(_described(self.group())["members"]) == self.count

    async def upgrade_and_downgrade(self) -> None:
        joining = Heartbeat(member_id="m", epoch=0, rebalance_timeout_ms=1_000, owned={}, names=frozenset({"t"}))
        await self.groups.consumer_heartbeat("g", joining)
        await self.groups.consumer_heartbeat("g", Heartbeat(member_id="m", epoch=-1))
        while self.groups.is_closed("g") or not isinstance(self.groups.get("g"), Group):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def measured(directory: Path, config: Config, count: int, protocols: int) -> None:
    clock, configs = ManualClock(), BrokerConfigs(config)
    store = await Store.open(directory, config.store_config(), configs.policy_for, clock)
    topics = Topics(config, store, configs)
    await topics.create([WantedTopic("t", PARTITIONS)])

    def coordinators() -> GroupCoordinators:
        settings, streams = settings_of(config, lambda _: {}), streams_settings_of(config, lambda _: {})
        homes, elsewhere = Homes([store.home.id]), Elsewhere(lambda _: None)
        return GroupCoordinators(config, store, clock, topics, topics, homes, settings, streams, elsewhere)

    groups = coordinators()
    await groups.load()
    await groups.start()
    passes = ShortPasses(asyncio.get_running_loop().call_soon_threadsafe)
    passes.begin()
    beat = Beat()
    members = Members(groups.of("g"), clock, count, protocols)

    async def step(name: str, work: Callable[[], Awaitable[None]]) -> None:
        beat.take_ms()
        await work()
        await asyncio.sleep(0.01)
        print(f"{name:>45}: longest turn {beat.take_ms():6.1f} ms", flush=True)

    async def stable() -> None:
        """All are in the group, and the leader has assigned."""
        await step("all join", members.come)
        await step("the leader assigns", members.assign)

    await stable()
    await step("described", members.describe)
    await step("all rejoin", members.rejoin)
    await step("the leader assigns", members.assign)
    await step("all but the leader are away", members.leader_alone_rejoins)
    await stable()
    await step("all sessions end", members.fall_silent)
    await stable()
    await step("to the consumer protocol and back", members.upgrade_and_downgrade)
    await step("all stop", groups.stop)
    groups = coordinators()
    await step("the group is loaded", groups.load)
    await groups.start()
    await groups.stop()
    await store.close()
    passes.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", type=int, default=5_000)
    parser.add_argument("--protocols", type=int, default=4, help="that each member offers")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    config = load(
        environ={},
        assignments=["groups.metadata.max.bytes=1073741824", "group.consumer.max.size=1000000"],
    )
    directory = Path(tempfile.mkdtemp(prefix="penstock-large-groups-"))
    try:
        uvloop.run(measured(directory, config, asked.members, asked.protocols))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
