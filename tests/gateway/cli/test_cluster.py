"""`penstock cluster status|rebalance` over a real etcd: what they show, what they ask for, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from core.cluster import etcd_keys
from core.cluster.coordination import Coordination, Wish
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Outcome, Session
from core.cluster.etcd.wire import Delete, Put
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.levels import FIRST, NEWEST
from core.cluster.loads import Load
from core.cluster.observing import Observer, observed
from core.errors import CoordinatorRefuses
from gateway.cli import cluster_commands, cluster_moves
from gateway.cli.options import Settings
from gateway.cli.output import Output
from gateway.cli.refused import Refused
from gateway.exits import ExitCode
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import new_prefix, run, until

CONTAINERS = 4
BUSY = Load(bytes_in_s=20_000_000, bytes_out_s=10_000_000, loop=0.2, log_bytes=5 << 20)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


class Cluster:
    """Nodes that only coordinate, and whoever observes them."""

    def __init__(self, etcd: EtcdServer, prefix: bytes, undo: AsyncExitStack) -> None:
        self.etcd = etcd
        self.prefix = prefix
        self.name = prefix.split(b"/")[1].decode()
        self._undo = undo

    async def join(self, node: int, level: int = NEWEST, **told: object) -> EtcdCoordination:
        """`level`: of the cluster, if this node begins it."""
        client = EtcdClient(self.etcd.settings())
        self._undo.push_async_callback(client.close)
        mirror = await Mirror.open(client, self.prefix)
        self._undo.push_async_callback(mirror.close)
        session = Session(client, self.prefix)
        await etcd_keys.join(session, self.prefix, etcd_keys.Meta("an-id", CONTAINERS, level))
        joined = await EtcdCoordination.join(
            client, mirror, session, node=node, containers=CONTAINERS, ttl_s=30, told=told
        )
        self._undo.push_async_callback(joined.leave)
        return joined

    async def plant_older(self, node: int) -> Callable[[], Awaitable[None]]:
        """A node of the first release, which tells no level; the result ends it."""
        client = EtcdClient(self.etcd.settings())
        self._undo.push_async_callback(client.close)
        session, key = Session(client, self.prefix), self.prefix + b"nodes/%d" % node
        await session.change((), (Put(key, b'{"v":1,"life":"old","draining":false,"told":{}}'),))

        async def end() -> None:
            await session.change((), (Delete(key),))

        return end

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[Observer]:
        async with observed(self.etcd.settings(), self.name) as seen:
            yield seen


def over(etcd: EtcdServer, test: Callable[[Cluster], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as undo:
            await test(Cluster(etcd, new_prefix(), undo))

    run(scenario())


async def serve(node: Coordination, loads: Mapping[int, Load]) -> None:
    for container in loads:
        claim = await node.claim(container)
        assert claim is not None
        await node.confirm(claim, [])
    await node.tell_loads(loads)


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_status_shows_nodes_and_containers(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.join(1, listeners={"PLAINTEXT": ["broker1", 9092]})
        second = await cluster.join(2, listeners={"PLAINTEXT": ["broker2", 9092]})
        await serve(first, {0: BUSY, 1: Load()})
        assert await second.claim(3) is not None
        await second.drain()
        await second.tell_troubles(["the object store does not answer"])
        await until(lambda: len(first.owners()) == 3)
        third = await cluster.join(3)
        assert await third.ask(0, 3)
        client = EtcdClient(etcd.settings())
        row = b'{"v":1,"target":3,"home":2,"why":"it is sealed"}'
        await client.decide((), [Put(cluster.prefix + b"moves/00000007/1", row)])
        await client.close()
        async with cluster.observed() as seen:
            assert await cluster_commands._status(seen, Output(as_json=True)) == ExitCode.CLEAN
            shown = told(capsys)
            assert await cluster_commands._status(seen, Output(as_json=False)) == ExitCode.CLEAN
        assert (shown["cluster"], shown["level"], shown["epoch"]) == ("an-id", NEWEST, 3)
        assert {node["level"] for node in shown["nodes"]} == {NEWEST}
        assert [(n["id"], n["addresses"], n["draining"], n["containers"], n["load"]) for n in shown["nodes"]] == [
            (1, {"PLAINTEXT": "broker1:9092"}, False, 2, 0.37),
            (2, {"PLAINTEXT": "broker2:9092"}, True, 1, None),
            (3, {}, False, 0, 0),
        ]
        assert all(node["lease_ttl_s"] == 30 and 0 <= node["lease_age_s"] < 10 for node in shown["nodes"])
        assert [(c["id"], c["node"], c["epoch"], c["state"], c["moves_to"]) for c in shown["containers"]] == [
            (0, 1, 1, "serving", 3),
            (1, 1, 2, "serving", None),
            (2, None, None, "nobody's", None),
            (3, 2, 3, "opening", None),
        ]
        assert shown["containers"][0]["log_bytes"] == 5_200_000
        assert shown["containers"][3]["log_bytes"] is None
        assert len(shown["advice"]) == 4
        assert shown["moves"] == [{"stream": "stream 7", "slot": 1, "to": 3, "refused": "it is sealed"}]
        printed = capsys.readouterr()
        text = printed.out
        assert "container 2 is nobody's" in printed.err
        assert "node 2 says: the object store does not answer" in printed.err
        assert "serving, moves to node 3" in text
        assert (
            "partition 1 of stream 7 is on its way to container 3, and stays where it is: it is sealed" in printed.err
        )
        assert "PLAINTEXT=broker2:9092" in text
        assert "draining" in text

    over(etcd, test)


GONE = b'{"v":1,"life":"L","served":[[1,9],[2,8]],"told":{"listeners":{"PLAINTEXT":["broker7",9092]}},"ended":5000}'
LEFT = b'{"v":1,"life":"L","served":[],"told":{},"ended":7000,"left":true}'


async def with_two_that_ended(cluster: Cluster) -> EtcdCoordination:
    """A node that serves containers 0 and 1, another one that had 1 and 2 and has gone, and one that was stopped."""
    first = await cluster.join(1)
    await serve(first, {0: Load(), 1: Load()})
    client = EtcdClient(cluster.etcd.settings())
    rows = {b"members/7": GONE, b"members/8": LEFT}
    await client.decide((), [Put(cluster.prefix + key, value) for key, value in rows.items()])
    await client.close()
    return first


def test_status_shows_nodes_that_have_gone(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    """With what they had, and what of that nobody has taken. One that was stopped is no reason to worry."""

    async def test(cluster: Cluster) -> None:
        await with_two_that_ended(cluster)
        async with cluster.observed() as seen:
            assert await cluster_commands._status(seen, Output(as_json=True)) == ExitCode.CLEAN
            shown = told(capsys)
            assert await cluster_commands._status(seen, Output(as_json=False)) == ExitCode.CLEAN
        assert [node["id"] for node in shown["nodes"]] == [1]
        address = {"PLAINTEXT": "broker7:9092"}
        assert shown["ended"] == [
            {"id": 7, "addresses": address, "stopped": False, "ended_ms": 5_000, "had": [1, 2], "left": [2]},
            {"id": 8, "addresses": {}, "stopped": True, "ended_ms": 7_000, "had": [], "left": []},
        ]
        assert [(row["id"], row["node"], row["last_node"]) for row in shown["containers"]] == [
            *((0, 1, None), (1, 1, 7), (2, None, 7), (3, None, None)),
        ]
        assert [sentence[:24] for sentence in shown["advice"]] == [
            "containers 2, 3 are nobo",
            "node 7 has gone, since 1",
        ]
        text = " ".join(capsys.readouterr().out.split())
        assert "7 PLAINTEXT=broker7:9092 gone" in text
        assert "ended 1970-01-01T00:00:05.000Z" in text
        assert "nobody's, last at node 7" in text
        assert "8 stopped" in text

    over(etcd, test)


def test_nodes_that_have_gone_are_forgotten(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    """And none that runs, or that nobody knows."""

    async def test(cluster: Cluster) -> None:
        first = await with_two_that_ended(cluster)
        async with cluster.observed() as seen:
            for node, why in ((1, "node 1 is running: stop it first"), (9, "not known: these have gone: 7, 8")):
                assert await cluster_moves._forget(seen, node, Output(as_json=False)) == ExitCode.CONFIGURATION
                assert why in capsys.readouterr().err
            for node in (7, 8):
                assert await cluster_moves._forget(seen, node, Output(as_json=True)) == ExitCode.CLEAN
                assert told(capsys) == {"node": node}
            await until(lambda: not first.members())
            assert await cluster_moves._forget(seen, 7, Output(as_json=False)) == ExitCode.CONFIGURATION
            assert "none has gone" in capsys.readouterr().err

    over(etcd, test)


def test_rebalance_shows_a_move_and_asks_for_it_with_a_yes(
    etcd: EtcdServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async def test(cluster: Cluster) -> None:
        first, second = await cluster.join(1), await cluster.join(2)
        await serve(first, {0: BUSY, 1: BUSY, 2: Load()})
        await serve(second, {3: Load()})
        async with cluster.observed() as seen:
            await until(lambda: len(seen.weights()) == CONTAINERS)
            assert await cluster_commands._rebalance(seen, Output(as_json=False), yes=False) == ExitCode.CLEAN
            assert "would move container 1 from node 1 to node 2" in capsys.readouterr().err
            assert seen.coordination.wishes() == {}
            assert await cluster_commands._rebalance(seen, Output(as_json=True), yes=True) == ExitCode.CLEAN
            assert told(capsys) == {
                "loads": {"1": 0.73, "2": 0.01},
                "move": {"container": 1, "from": 1, "to": 2},
                "asked": True,
            }
            wished = {1: Wish(epoch=first.owners()[1].epoch, node=2, life=second.life)}
            await until(lambda: first.wishes() == wished)
            await until(lambda: seen.coordination.wishes() == wished)
            with pytest.raises(Refused, match="container 1 is on its way to node 2: wait"):
                await cluster_commands._rebalance(seen, Output(as_json=False), yes=True)

    over(etcd, test)


def test_rebalance_refuses_where_nothing_can_be_said(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.join(1)
        await serve(first, {0: BUSY, 1: BUSY, 2: Load()})
        async with cluster.observed() as seen:
            with pytest.raises(Refused, match=r"1 containers are not served \(3\): wait"):
                await cluster_commands._rebalance(seen, Output(as_json=False), yes=True)
            await serve(first, {3: Load()})
            await until(lambda: len(seen.coordination.owners()) == CONTAINERS)
            with pytest.raises(Refused, match="start another one"):
                await cluster_commands._rebalance(seen, Output(as_json=False), yes=True)
            await first.tell_loads(dict.fromkeys(range(CONTAINERS), Load()))
            second = await cluster.join(2)
            for container in (2, 3):
                claim = await first.claim(container)
                assert claim is not None
                await first.give_up(claim)
                await serve(second, {container: Load()})
            await until(lambda: all(owner.stage == "serving" for owner in seen.coordination.owners().values()))
            await until(lambda: len(seen.coordination.owners()) == CONTAINERS)
            assert await cluster_commands._rebalance(seen, Output(as_json=True), yes=True) == ExitCode.CLEAN
        shown = capsys.readouterr()
        assert json.loads(shown.out)["move"] is None
        assert "nothing to move" in shown.err

    over(etcd, test)


def test_a_cluster_that_is_not_there(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    async def test(cluster: Cluster) -> None:
        with pytest.raises(CoordinatorRefuses, match=r"no cluster of the name .*check the name in --cluster"):
            async with cluster.observed():
                pass

    over(etcd, test)
    assert cluster_commands.run_status(Settings(None, (), {}), as_json=False) == ExitCode.CONFIGURATION
    assert "name the cluster: --cluster etcd://" in capsys.readouterr().err


# Levels


def test_an_upgrade_is_finished_once_no_older_node_lives(etcd: EtcdServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Until then nothing is written that the older one could not read; and it says which node holds it up."""

    async def finalized(seen: Observer, *, yes: bool = True) -> ExitCode:
        return await cluster_commands._finalize(seen, Output(as_json=True), yes=yes)

    async def test(cluster: Cluster) -> None:
        first = await cluster.join(1, FIRST)
        end_older = await cluster.plant_older(2)
        await serve(first, dict.fromkeys(range(CONTAINERS), BUSY))
        async with cluster.observed() as seen:
            await until(lambda: len(seen.weights()) == CONTAINERS and 2 in seen.coordination.lives())
            assert seen.coordination.lives()[2].level == FIRST
            with pytest.raises(Refused, match=r"nodes 2 know no higher one\. Upgrade them first"):
                await finalized(seen)
            with pytest.raises(Refused, match="finish its upgrade with `penstock cluster finalize`"):
                await cluster_commands._rebalance(seen, Output(as_json=False), yes=True)
            assert (
                await cluster_moves._move(seen.coordination, 0, 2, 1.0, Output(as_json=False)) == ExitCode.CONFIGURATION
            )
            assert "finish its upgrade with `penstock cluster finalize`" in capsys.readouterr().err
            await end_older()
            await until(lambda: 2 not in seen.coordination.lives())
            with pytest.raises(Refused, match="say --yes"):
                await finalized(seen, yes=False)
            assert first.level == FIRST
            capsys.readouterr()
            assert await finalized(seen) == ExitCode.CLEAN
            assert told(capsys) == {"level": NEWEST, "was": FIRST}
            await until(lambda: first.level == seen.coordination.level == NEWEST)
            assert await finalized(seen) == ExitCode.CLEAN
            assert told(capsys) == {"level": NEWEST, "was": NEWEST}

    over(etcd, test)


def test_a_release_that_does_not_know_the_level_cannot_join(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at its start, nor with a next life, if the level was raised while it had none."""

    async def test(cluster: Cluster) -> None:
        await cluster.join(1)
        monkeypatch.setattr(etcd_keys, "NEWEST", FIRST)
        says = f"cluster an-id is at level {NEWEST} .* this release knows levels up to {FIRST}: start a release"
        with pytest.raises(CoordinatorRefuses, match=says):
            await cluster.join(2)
        monkeypatch.setattr(etcd_keys, "join", not_asked)
        with pytest.raises(CoordinatorRefuses, match=says):
            await cluster.join(2)

    over(etcd, test)


async def not_asked(*_: object) -> None:
    """In place of the look that a start has at the cluster."""


def test_the_level_is_not_raised_when_a_node_comes_meanwhile(etcd: EtcdServer) -> None:
    async def test(cluster: Cluster) -> None:
        first = await cluster.join(1, FIRST)
        async with cluster.observed() as seen:
            change = seen._session.change

            async def late(*given: Any) -> Outcome:
                await cluster.plant_older(2)
                return await change(*given)

            seen._session.change = late  # type: ignore[method-assign, assignment]
            with pytest.raises(CoordinatorRefuses, match="a node has come or changed meanwhile"):
                await seen.raise_level()
        assert first.level == FIRST

    over(etcd, test)
