"""Clients of a broker that hands its containers over: groups and transactions go on at the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Final

import pytest

from tests.core.support import run, until
from tests.gateway.cluster.test_machines import CONTAINERS, NOT_COORDINATOR, heartbeat, joined, leaders, machines_in
from tests.gateway.harness import Client, batch, produce_body, values

pytestmark = pytest.mark.slow

PRODUCE, INIT_PRODUCER_ID, END_TXN = 0, 22, 26
READ_COMMITTED: Final = 1
NOT_LEADER: Final = 6
UNDER_WAY: Final = 5


def test_a_group_and_a_transaction_go_on_at_the_heir(tmp_path: Path) -> None:
    """The member keeps its generation, and what was written before and after the hand-over is committed together."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([CONTAINERS])
            client = await Client.connect(first)
            await client.create("t", 1)
            member = await joined(client)
            asked = {"transactional_id": "x", "transaction_timeout": 60_000, "producer_id": -1, "producer_epoch": -1}
            producer = await client.ask(INIT_PRODUCER_ID, 4, asked)
            assert producer.error_code == 0
            await written(client, producer.producer_id, 0, b"a")

            second = await machines.join()
            assert first.standing._membership is not None
            await first.standing._membership.drain(20)
            assert not first.store.containers
            await until(lambda: len(second.store.containers) == CONTAINERS and not second.groups.are_loading)
            assert (await heartbeat(client, member)).error_code == NOT_COORDINATOR
            other = await Client.connect(second)
            assert (await heartbeat(other, member)).error_code == 0
            await until(lambda: not second.transactions.are_loading)
            await written(other, producer.producer_id, 1, b"b")
            ended = {"transactional_id": "x", "producer_id": producer.producer_id, "producer_epoch": 0}
            assert (await other.ask(END_TXN, 3, {**ended, "committed": True})).error_code == 0
            found: list[tuple[int, bytes | None]] = []
            while len(found) < 2:
                asked_for = ("t", 0, len(found))
                (answer,) = (await other.fetch(asked_for, isolation_level=READ_COMMITTED)).responses[0].partitions
                assert (answer.error_code, answer.last_stable_offset) == (0, 3), "a marker is behind them"
                found += values(answer.records)
            assert found[:2] == [(0, b"a"), (1, b"b")]

    run(scenario())


def test_whoever_is_refused_is_told_the_heir_at_the_first_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first refusal on the owner names no leader or the next one, never itself; and a producer that comes to
    the heir by that answer is taken, not refused once more."""
    monkeypatch.setattr("gateway.cluster.vacancies.WAIT_S", 20.0)  # of a slow machine
    monkeypatch.setattr("gateway.cluster.vacancies.RECENT_S", 60.0)

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([CONTAINERS])
            client = await Client.connect(first)
            await client.create("t", 1)
            assert (await client.produce("t", batch(b"0"))).error_code == 0
            second = await machines.join()
            other = await Client.connect(second)
            assert first.standing._membership is not None
            draining = asyncio.create_task(first.standing._membership.drain(20))
            count = 1
            while (await client.produce("t", batch(b"%d" % count))).error_code == 0:
                count += 1
            assert await leaders(client, "t") == {0: second.node_id}
            assert (await other.produce("t", batch(b"%d" % count))).error_code == 0
            await draining
            assert await leaders(other, "t") == {0: second.node_id}
            found: list[bytes | None] = []
            while len(found) <= count:
                (answer,) = (await other.fetch(("t", 0, len(found)))).responses[0].partitions
                assert answer.error_code == 0
                found += [value for _, value in values(answer.records)]
            assert found == [b"%d" % number for number in range(count + 1)]

    run(scenario())


def test_a_producer_with_five_requests_under_way_hears_of_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has sent behind the first refused one is refused alike, and the heir takes all of it, in order."""
    monkeypatch.setattr("gateway.cluster.vacancies.WAIT_S", 20.0)  # of a slow machine
    monkeypatch.setattr("gateway.cluster.vacancies.RECENT_S", 60.0)

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([CONTAINERS])
            client = await Client.connect(first)
            await client.create("t", 1)
            second = await machines.join()
            other = await Client.connect(second)
            assert first.standing._membership is not None
            draining = asyncio.create_task(first.standing._membership.drain(20))
            count, under_way = 0, deque[tuple[int, int, int]]()
            codes: list[int] = []
            while not any(codes):
                while len(under_way) < UNDER_WAY:
                    under_way.append(send_numbered(client, count))
                    count += 1
                codes.append(await code_of(client, under_way.popleft()))
            codes += [await code_of(client, one) for one in under_way]
            refused = codes.index(NOT_LEADER)
            assert codes == [0] * refused + [NOT_LEADER] * UNDER_WAY
            assert await leaders(client, "t") == {0: second.node_id}
            again = [send_numbered(other, number) for number in range(refused, count)]
            assert [await code_of(other, one) for one in again] == [0] * UNDER_WAY
            await draining
            found: list[bytes | None] = []
            while len(found) < count:
                (answer,) = (await other.fetch(("t", 0, len(found)))).responses[0].partitions
                assert answer.error_code == 0
                found += [value for _, value in values(answer.records)]
            assert found == [b"%d" % number for number in range(count)]

    run(scenario())


def send_numbered(client: Client, number: int) -> tuple[int, int, int]:
    """A batch of an idempotent producer."""
    record = batch(b"%d" % number, producer_id=7, producer_epoch=0, base_sequence=number)
    return client.send(PRODUCE, 8, produce_body("t", [(0, record)]))


async def code_of(client: Client, sent: tuple[int, int, int]) -> int:
    answer = await client.receive(sent)
    return int(answer.responses[0].partition_responses[0].error_code)


async def written(client: Client, producer_id: int, sequence: int, value: bytes) -> None:
    record = batch(value, producer_id=producer_id, producer_epoch=0, base_sequence=sequence, transactional=True)
    answer = await client.ask(PRODUCE, 12, {**produce_body("t", [(0, record)]), "transactional_id": "x"})
    assert answer.responses[0].partition_responses[0].error_code == 0
