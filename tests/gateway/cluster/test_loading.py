"""A node takes a container over that has much to load: partitions are served at once, groups when all of it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from kio.schema.errors import ErrorCode

from gateway.broker import Broker
from gateway.coordination.homes import Homes
from gateway.groups.persistence import OFFSETS_TABLE
from gateway.groups.share.format import GROUPS_TABLE as SHARE_GROUPS_TABLE
from tests.core.support import run, tries, until
from tests.gateway.cluster.test_groups import consumes, shares
from tests.gateway.cluster.test_machines import CONTAINERS, Machines, are_loading, machines_in
from tests.gateway.coordination.test_loading import Held
from tests.gateway.harness import Client, batch

pytestmark = pytest.mark.slow

OFFSET_COMMIT, OFFSET_FETCH, FIND_COORDINATOR, LIST_GROUPS, LIST_TRANSACTIONS = 8, 9, 10, 16, 66
LOADS: Final = ErrorCode.coordinator_load_in_progress
PARTITIONS: Final = 8


async def commit(client: Client, group: str, offset: int) -> int:
    place = {"partition_index": 0, "committed_offset": offset, "committed_leader_epoch": -1, "committed_metadata": None}
    asked = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None}
    answer = await client.ask(OFFSET_COMMIT, 8, {**asked, "topics": [{"name": "t", "partitions": [place]}]})
    return int(answer.topics[0].partitions[0].error_code)


async def fetch(client: Client, group: str) -> tuple[int, int]:
    """An error, and the offset."""
    groups = [{"group_id": group, "topics": [{"name": "t", "partition_indexes": [0]}]}]
    (answer,) = (await client.ask(OFFSET_FETCH, 8, {"groups": groups, "require_stable": False})).groups
    return answer.error_code, -1 if answer.error_code else answer.topics[0].partitions[0].committed_offset


async def answered(ask: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Ask until there is no error."""
    async for _ in tries():
        if not await ask():
            return
    raise AssertionError("it is never answered")


@asynccontextmanager
async def taken_over(
    machines: Machines, monkeypatch: pytest.MonkeyPatch, container: int, table: str
) -> AsyncIterator[Broker]:
    """The owner of a container loses its lease; inside, the next owner loads what lies in it, and stands still."""
    (number, _) = next((n, one) for n, one in enumerate(machines.brokers) if one.store.serves(container))
    heir = machines.brokers[1 - number]
    with monkeypatch.context() as patch:
        held = Held(patch, table)
        try:
            machines.coordinator.end(machines.chairs[number].life)
            await until(lambda: heir.store.serves(container))
            await held.is_reached.wait()
            yield heir
        finally:
            held.goes_on.set()
    await until(lambda: len(heir.store.containers) == CONTAINERS and not are_loading(heir))


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[Machines]:
    async with machines_in(directory) as machines:
        first = await machines.join()
        await machines.at_rest([CONTAINERS])
        client = await Client.connect(first)
        await client.create("t", PARTITIONS)
        assert await commit(client, "g", 7) == ErrorCode.none
        assert (await shares(client, 0)).error_code == ErrorCode.none
        await machines.join()
        await machines.at_rest([CONTAINERS // 2] * 2)
        yield machines


def test_a_takeover_of_many_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are told to come again, and find what they have committed; producers do not wait for that."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as machines:
            container = Homes(range(CONTAINERS)).of("g")
            async with taken_over(machines, monkeypatch, container, OFFSETS_TABLE) as heir:
                client = await Client.connect(heir)
                stream = heir.topics.get("t")
                assert stream is not None
                places = [n for n in range(PARTITIONS) if stream.state.container_of_slot(n) == container]

                async def produce() -> int:
                    return int((await client.produce("t", batch(b"x"), partition=places[0])).error_code)

                await answered(produce)
                assert await fetch(client, "g") == (LOADS, -1)
                assert await commit(client, "g", 8) == LOADS
                listed = await client.ask(LIST_GROUPS, 4, {"states_filter": []})
                assert (listed.error_code, list(listed.groups)) == (LOADS, [])
                filters: dict[str, Any] = {"state_filters": [], "producer_id_filters": []}
                assert (await client.ask(LIST_TRANSACTIONS, 0, filters)).error_code == LOADS
                found = await client.ask(FIND_COORDINATOR, 4, {"key_type": 0, "coordinator_keys": ["g"]})
                assert [one.node_id for one in found.coordinators] == [heir.node_id]
            assert await fetch(client, "g") == (ErrorCode.none, 7)
            assert await commit(client, "g", 8) == ErrorCode.none
            assert await fetch(client, "g") == (ErrorCode.none, 8)
            listed = await client.ask(LIST_GROUPS, 4, {"states_filter": []})
            assert listed.error_code == ErrorCode.none
            assert {one.group_id for one in listed.groups} == {"g", "sharers"}

    run(scenario())


def test_a_share_groups_name_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No group of another protocol gets it."""

    async def scenario() -> None:
        async with two_nodes(tmp_path) as machines:
            container = Homes(range(CONTAINERS)).of("sharers")
            async with taken_over(machines, monkeypatch, container, SHARE_GROUPS_TABLE) as heir:
                client = await Client.connect(heir)
                stream = heir.topics.get("t")
                assert stream is not None
                assert (await consumes(client, 0, stream.uuid, "sharers")).error_code == LOADS
            refused = await consumes(client, 0, stream.uuid, "sharers")
            assert refused.error_code == ErrorCode.inconsistent_group_protocol
            assert (await shares(client, 0)).error_code == ErrorCode.none

    run(scenario())
