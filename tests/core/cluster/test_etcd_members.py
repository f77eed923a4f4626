"""Rows of nodes in etcd: kept by each, noted by others when it has gone, gone when it is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from core.clock import ManualClock
from core.cluster import etcd_members
from core.cluster.etcd.session import Outcome, Session
from core.cluster.etcd.wire import Compare, Delete, Put, Range
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_keys import MEMBERS
from core.cluster.etcd_members import EtcdMembers
from core.cluster.members import Member
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until
from tests.core.cluster.test_etcd_coordination import claimed, joined

pytestmark = pytest.mark.slow

CLOCK = ManualClock()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_members, "GATHER_S", 0.01)


@asynccontextmanager
async def member(etcd: EtcdServer, prefix: bytes, node: int) -> AsyncIterator[tuple[EtcdCoordination, EtcdMembers]]:
    """A node that keeps its row, and dies at the end: it is not noted that it was stopped."""
    async with joined(etcd.settings(), prefix, node, 30) as coordination:
        rows = EtcdMembers(coordination._mirror, Session(coordination._client, prefix), coordination, CLOCK.wall_ms)
        rows.start()
        try:
            yield coordination, rows
        finally:
            await rows._background.stop()


async def serves(node: EtcdCoordination, container: int) -> int:
    claim = await claimed(node, container)
    assert await node.confirm(claim, ())
    return claim.epoch


def test_a_node_that_dies_is_known_with_what_it_had(etcd: EtcdServer) -> None:
    """Until it is back: then its row is that of its new life."""

    async def test() -> None:
        prefix = new_prefix()
        async with member(etcd, prefix, 1) as (one, _):
            async with member(etcd, prefix, 2) as (two, _):
                epochs = {container: await serves(two, container) for container in (1, 3)}
                row = Member(node=2, life=two.life, served=epochs, told=one.nodes()[2])
                await until(lambda: one.members().get(2) == row)
                assert one.members()[1].served == {}
            await until(lambda: 2 not in one.lives())
            await until(lambda: one.members()[2] == replace(row, ended_ms=CLOCK.wall_ms()))
            assert row.told["listeners"] == {"PLAINTEXT": ["127.0.0.1", 9002]}
            async with member(etcd, prefix, 2) as (back, _):
                await until(lambda: one.members()[2].life == back.life)
                assert one.members()[2].ended_ms is None
                assert one.members()[2].served == {}

    run(test())


def test_a_node_that_is_stopped_has_left(etcd: EtcdServer) -> None:
    """Also if nobody else lives to hear of it."""

    async def test() -> None:
        prefix = new_prefix()
        async with member(etcd, prefix, 2) as (two, rows):
            await serves(two, 1)
            await until(lambda: two.members().get(2) is not None and two.members()[2].served)
            await two.give_up(await claimed(two, 1))
            await rows.leave()
        async with member(etcd, prefix, 1) as (one, rows):
            await until(lambda: 1 in one.members())
            left = one.members()[2]
            assert (left.has_left, left.ended_ms, left.served) == (True, CLOCK.wall_ms(), {})

    run(test())


def test_one_that_has_gone_is_forgotten_and_one_that_lives_is_not(etcd: EtcdServer) -> None:
    async def test() -> None:
        prefix = new_prefix()
        async with member(etcd, prefix, 1) as (one, rows):
            async with member(etcd, prefix, 2):
                await until(lambda: 2 in one.members())
                assert not await rows.forget(2)
            await until(lambda: 2 not in one.lives() and one.members()[2].ended_ms)
            assert not await rows.forget(3)
            assert await rows.forget(2)
            assert one.members().keys() == {1}

    run(test())


def test_one_that_came_back_behind_the_mirror_is_not_forgotten(etcd: EtcdServer) -> None:
    """What this node sees is old: neither is the row taken away, nor an end noted."""

    async def test() -> None:
        prefix = new_prefix()
        async with member(etcd, prefix, 1) as (one, rows), connected(etcd.settings()) as other:
            gone = b'{"v":1,"life":"L","served":[[3,9]],"told":{},"ended":5}'
            await other.decide((), (Put(prefix + b"members/7", gone),))
            await until(lambda: 7 in one.members())
            await rows._background.stop()
            await one._mirror.close()
            await other.decide((), (Put(prefix + b"nodes/7", b'{"v":1,"life":"M","draining":false,"told":{}}'),))
            assert not await rows.forget(7)
            await rows._write(replace(one.members()[7], ended_ms=6), rows._row(MEMBERS, 7))
            assert (await other.read(Range(prefix + b"members/7"))).keys[0].value == gone

    run(test())


def test_one_that_is_forgotten_meanwhile_stays_forgotten(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ends are to be noted; while the first is, an operator has the other node forgotten."""

    async def test() -> None:
        prefix = new_prefix()
        async with member(etcd, prefix, 1) as (one, rows), connected(etcd.settings()) as other:
            await until(lambda: 1 in one.members())
            await rows._background.stop()
            gone = [Put(prefix + b"members/%d" % node, b'{"v":1,"life":"L","served":[],"told":{}}') for node in (7, 8)]
            await one._mirror.reached((await other.decide((), gone)).revision)
            change = rows._session.change

            async def forgotten_behind(compares: Sequence[Compare], changes: Sequence[Put | Delete]) -> Outcome:
                outcome = await change(compares, changes)
                await one._mirror.reached((await other.decide((), (Delete(prefix + b"members/8"),))).revision)
                return outcome

            monkeypatch.setattr(rows._session, "change", forgotten_behind)
            await rows._step()
            assert one.members().keys() == {1, 7}
            assert one.members()[7].ended_ms is not None

    run(test())


def test_the_bytes(etcd: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """What is written, byte by byte; what cannot be read counts as if it were not there. No row is under a lease."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            await client.decide((), (Put(prefix + b"members/7", b'{"v":1,"life":"L","served":7,"told":{}}'),))
            async with member(etcd, prefix, 1) as (one, rows):
                await serves(one, 2)
                await until(lambda: one.members().get(1) is not None and one.members()[1].served)
                assert one.members().keys() == {1}
                (row,) = (await client.read(Range(prefix + b"members/1"))).keys
                told = b'"told":{"listeners":{"PLAINTEXT":["127.0.0.1",9001]},"host":"h1","load":0}}'
                life = one.life.encode()
                assert row.value == b'{"v":1,"life":"%s","served":[[2,1]],%s' % (life, told)
                assert row.lease == 0
                await rows.leave()
                (row,) = (await client.read(Range(prefix + b"members/1"))).keys
                ended = b',"ended":%d,"left":true}' % CLOCK.wall_ms()
                assert row.value == b'{"v":1,"life":"%s","served":[[2,1]],%s' % (life, told[:-1] + ended)

    run(test())
