"""An error that nobody foresaw, in whatever goes on in a node's background: it is told, and nothing stands still."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import membership
from core.cluster import etcd_coordination
from core.cluster.etcd.lease import Lease
from core.cluster.etcd.wire import COMPACTED, EtcdError, Put
from core.cluster.guard import Guard
from core.errors import StorageFailure
from tests.core.cluster import test_following as following
from tests.core.cluster.etcd import support as etcds
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.test_mirror import following as mirrored
from tests.core.cluster.test_etcd_coordination import joined
from tests.core.cluster.test_guard import Coordinator as Asked
from tests.core.cluster.test_handing_over import slot_in, two_nodes
from tests.core.cluster.test_membership import Cluster, Node, cluster_in, contents
from tests.core.log.objects.test_store import text
from tests.core.support import append, run, until

pytestmark = pytest.mark.slow

LEASE_S = 2


class Defect(Exception):
    """Nobody foresaw it."""


class Once:
    """A call that fails the first time."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self.has_failed = False

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not self.has_failed:
            self.has_failed = True
            raise Defect
        return self._call(*arguments, **named)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each of these tests leaves a traceback in the log; none has to wait long."""
    for place, name in ((membership, "DEFECT_S"), (membership, "LOOK_S"), (etcd_coordination, "CALL_S")):
        monkeypatch.setattr(place, name, 0.1)
    yield
    defects = [one for one in caplog.get_records("call") if one.exc_info and one.exc_info[0] is Defect]
    assert len(defects) == 1
    assert defects[0].levelno == logging.ERROR


def failing(node: Node, call: str) -> Once:
    once = Once(getattr(node.seat, call))
    setattr(node.seat, call, once)
    return once


@pytest.mark.parametrize("call", ["claim", "confirm"])
def test_a_taker_takes_all_the_same(tmp_path: Path, call: str) -> None:
    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            once = failing(second, call)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("core.cluster.ownership.RETRY_S", 0.1)
                cluster.coordinator.end(first.seat.life)
                await cluster.at_rest(second)
            assert once.has_failed
            assert await contents([second]) == {number: [text(number)] for number in range(4)}

    run(scenario())


@pytest.mark.parametrize(
    ("at", "call"), [("owner", "reserve_epoch"), ("owner", "hand_over"), ("owner", "give_up"), ("heir", "tell_warm")]
)
def test_a_hand_over_comes_to_its_end(tmp_path: Path, at: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the container goes to the other node as from one that has died."""
    monkeypatch.setattr("core.cluster.ownership.WARM_S", 0.5)

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            slot = slot_in(first, 2)
            once = failing(first if at == "owner" else second, call)
            await _asked(cluster, second)
            await until(lambda: 2 not in first.store.containers)
            await until(lambda: once.has_failed)
            assert (await contents([second]))[slot.number] == [text(slot.number)]
            await append(slot_in(second, 2), text(9))

    run(scenario())


async def _asked(cluster: Cluster, heir: Node) -> None:
    cluster.coordinator.ask(2, heir.seat.node)
    await until(lambda: heir.membership.serving == {2})


def test_a_node_that_drains_asks_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            once = failing(first, "ask")
            await first.membership.drain(20)
            assert once.has_failed
            await cluster.at_rest(second)

    run(scenario())


def test_a_container_that_failed_is_not_kept_from_others(tmp_path: Path) -> None:
    """Its claim is given up, however often that fails."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            failing(first, "give_up")
            first.store.containers[2].container.fail(StorageFailure("the copy cannot be written"))
            await until(lambda: second.membership.serving == {2})
            assert first.membership.serving == {0, 1, 3}

    run(scenario())


def test_a_node_goes_on_looking(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            once = Once(second.membership._weights)
            second.membership._weights = once
            cluster.coordinator.end(first.seat.life)
            await cluster.at_rest(second)
            assert once.has_failed

    run(scenario())


def test_acknowledgements_are_not_left_waiting() -> None:
    """The guard asks again: whoever waits would hear of nothing else."""

    async def scenario() -> None:
        guard = Guard(Once(Asked().read))
        assert await guard.is_ours(1, 7)
        await guard.close()

    run(scenario())


def test_topics_are_followed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with following.two(tmp_path) as (one, other):
            other.registry.look = Once(other.registry.look)  # type: ignore[method-assign]
            await one.store.create_stream("s", slots=8)
            await following.until(lambda: other.store.streams.get("s"))

    run(scenario())


@pytest.mark.parametrize("call", ["begin", "end", "followed"])
def test_all_that_a_look_has_found_is_followed(tmp_path: Path, call: str) -> None:
    """One change cannot be taken over at first. It is at a later look, and those beside it, although nothing else has
    changed by then."""

    async def scenario() -> None:
        async with following.two(tmp_path) as (one, other):
            old = [await one.store.create_stream(f"old-{number}", slots=4) for number in range(3)]
            await following.until(lambda: all(other.store.streams.get(stream.name) for stream in old))
            told: set[str] = set()
            once = Once(getattr(other.store._showing, call))
            behind = other.store._following
            assert behind is not None
            async with behind._one_at_a_time:  # else it would look in between
                setattr(other.store._showing, call, once)
                other.store.on_followed(lambda changed: told.update(changed.kinds))
                for number in range(3):
                    await one.store.delete_stream(old[number])
                    await one.store.create_stream(f"new-{number}", slots=4)
                await one.registry.change_settings("quotas", lambda _: {b"a": b"1"})
            await following.until(lambda: {one.name for one in other.store.streams} == {f"new-{n}" for n in range(3)})
            await following.until(lambda: "quotas" in told)
            assert once.has_failed

    run(scenario())


def test_the_copy_of_etcd_does_not_stand_still(etcd: EtcdServer) -> None:
    async def scenario() -> None:
        prefix = etcds.new_prefix()
        async with etcds.connected(etcd.settings()) as direct, mirrored(etcd.settings(), prefix) as seen:
            mirror = seen.mirror
            mirror._take = Once(mirror._take)  # type: ignore[method-assign]
            await direct.decide((), (Put(prefix + b"k", b"1"),))
            await etcds.until(lambda: b"k" in mirror.values)

    etcds.run(scenario())


def test_the_copy_of_etcd_is_read_again_all_the_same(etcd: EtcdServer) -> None:
    """Its revisions were compacted away, and what is there now cannot be taken over at the first time."""

    async def scenario() -> None:
        prefix = etcds.new_prefix()
        async with etcds.connected(etcd.settings()) as direct, mirrored(etcd.settings(), prefix) as seen:
            mirror = seen.mirror
            take = mirror._take

            async def compacted(_: object) -> None:
                mirror._take = take  # type: ignore[method-assign]
                raise EtcdError(COMPACTED, "compacted")

            mirror._take = compacted  # type: ignore[method-assign]
            mirror._read_all = Once(mirror._read_all)  # type: ignore[method-assign]
            await direct.decide((), (Put(prefix + b"k", b"1"),))
            await etcds.until(lambda: b"k" in mirror.values)
            assert mirror._read_all.has_failed

    etcds.run(scenario())


def test_a_node_comes_back_after_its_lease(etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with joined(etcd.settings(), etcds.new_prefix(), 1, LEASE_S) as node:
            former = node.life
            node._begin_life = Once(node._begin_life)  # type: ignore[method-assign]
            assert node._lease is not None
            node._lease.lost.set()
            await etcds.until(lambda: node.life != former and node.is_fresh())

    etcds.run(scenario())


def test_a_lease_is_renewed_all_the_same(etcd: EtcdServer) -> None:
    async def scenario() -> None:
        async with etcds.connected(etcd.settings()) as client:
            once = Once(client.renew)
            client.renew = once  # type: ignore[method-assign]
            lease = await Lease.grant(client, 2 * LEASE_S)
            await etcds.until(lambda: once.has_failed)
            until_s = lease._fresh_until_s
            await etcds.until(lambda: lease._fresh_until_s > until_s)
            assert lease.is_fresh()
            await lease.close()

    etcds.run(scenario())
