"""The copy that follows: each change once and in order, whatever happens to the watch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.wire import Delete, Put, Range, end_of
from core.errors import CoordinatorAway
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer, stop_all, three_members
from tests.core.cluster.etcd.support import connected, new_prefix, run, until
from tests.core.cluster.etcd.test_client import post

pytestmark = pytest.mark.slow


class Seen:
    """All that a mirror has told, and whether it told it rightly."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
        self.revisions: list[int] = []
        self.copy = dict(mirror.values)
        self.changes: list[tuple[bytes, bytes | None]] = []
        mirror.on_changed(self._told)

    def _told(self, changes: Sequence[Change]) -> None:
        assert not self.revisions or self.mirror.revision > self.revisions[-1], "a revision is told as a whole, once"
        self.revisions.append(self.mirror.revision)
        for change in changes:
            assert change.before == self.copy.pop(change.key, None) != change.now
            if change.now is not None:
                self.copy[change.key] = change.now
            self.changes.append((change.key, change.now.value if change.now else None))
        assert self.copy == self.mirror.values


@asynccontextmanager
async def following(settings: EtcdSettings, prefix: bytes) -> AsyncIterator[Seen]:
    async with connected(settings) as client:
        mirror = await Mirror.open(client, prefix)
        try:
            yield Seen(mirror)
        finally:
            await mirror.close()


async def changed(client: EtcdClient, prefix: bytes, number: int) -> tuple[list[tuple[bytes, bytes | None]], int]:
    """One change, which is told from all others: puts, or a put and a deletion, in one transaction."""
    value = b"%d" % number
    one, other = b"k%d" % (number % 7), b"last"
    first = Delete(prefix + one) if number % 5 == 4 else Put(prefix + one, value)
    found = (await client.read(Range(prefix + one))).keys
    revision = (await client.decide((), (first, Put(prefix + other, value)))).revision
    told: list[tuple[bytes, bytes | None]] = [(one, value if isinstance(first, Put) else None), (other, value)]
    return (told if found or isinstance(first, Put) else told[1:]), revision


def test_every_change_once(etcd: EtcdServer) -> None:
    """Three hundred changes while the watch is cut at every kind of place: each is told once, in order."""

    async def test() -> None:
        prefix, expected, revision = new_prefix(), [], 0
        async with (
            CuttingProxy(etcd.endpoint, seed=2) as proxy,
            connected(etcd.settings()) as direct,
            following(etcd.settings(proxy.endpoint), prefix) as seen,
        ):
            proxy.share = 0.2
            for number in range(300):
                told, revision = await changed(direct, prefix, number)
                expected += told
                if number % 29 == 0:
                    proxy.cut()
                await asyncio.sleep(0.005)
            await seen.mirror.reached(revision, within_s=60)
            assert seen.changes == expected
            now = (await direct.read(Range(prefix, end_of(prefix)))).keys
            assert dict(seen.mirror.values) == {one.key[len(prefix) :]: one for one in now}
            assert proxy.requests > 10

    run(test())


def test_what_was_compacted(etcd: EtcdServer) -> None:
    """If the revisions to go on from are compacted while the watch is away, the difference is told: what came, changed
    and went, and nothing of what stayed."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as direct, CuttingProxy(etcd.endpoint) as proxy:
            names = (b"stays", b"changes", b"goes")
            await direct.decide((), [Put(prefix + key, b"1") for key in names])
            async with following(etcd.settings(proxy.endpoint), prefix) as seen:
                proxy.refuses = True
                proxy.cut()
                await direct.decide((), (Put(prefix + b"changes", b"2"), Put(prefix + b"passes", b"2")))
                last = await direct.decide(
                    (), (Put(prefix + b"changes", b"3"), Put(prefix + b"comes", b"3"), Delete(prefix + b"goes"))
                )
                last = await direct.decide((), (Delete(prefix + b"passes"),))
                post(etcd, "kv/compaction", {"revision": str(last.revision), "physical": True})
                proxy.refuses = False
                await until(lambda: seen.mirror.revision >= last.revision)
                assert sorted(seen.changes) == [(b"changes", b"3"), (b"comes", b"3"), (b"goes", None)]
                assert (await direct.decide((), (Put(prefix + b"goes", b"4"),))).succeeded
                await until(lambda: (b"goes", b"4") in seen.changes)

    run(test())


def test_many_keys_are_read_in_pages(etcd: EtcdServer) -> None:
    """More keys than a page has, read while they change: a copy of one revision, and the changes after it."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as direct:
            for at in range(0, 1500, 500):
                await direct.decide((), [Put(prefix + b"%04d" % n, b"1") for n in range(at, at + 500)])
            opening = asyncio.create_task(Mirror.open(direct, prefix))
            decided = await direct.decide((), [Put(prefix + b"%04d" % n, b"2") for n in range(0, 1500, 100)])
            mirror = await opening
            await mirror.reached(decided.revision)
            assert len(mirror.values) == 1500
            assert sum(one.value == b"2" for one in mirror.values.values()) == 15
            await mirror.close()

    run(test())


def test_a_dead_connection_is_noticed(etcd: EtcdServer) -> None:
    """A watch whose connection is half-open is begun anew by another way when a revision is awaited. Awaiting one that
    no way brings ends within its bound, and says how far the copy is."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint) as proxy, connected(etcd.settings()) as direct:
            async with following(etcd.settings(proxy.endpoint, etcd.endpoint), prefix) as seen:
                await asyncio.sleep(0.2)  # it watches by now
                proxy.hold()
                revision = (await direct.decide((), (Put(prefix + b"a", b"1"),))).revision
                await seen.mirror.reached(revision)
                assert seen.changes == [(b"a", b"1")]
            async with following(etcd.settings(etcd.endpoint), prefix) as seen:
                with pytest.raises(CoordinatorAway, match=f"the copy here is at {seen.mirror.revision}"):
                    await seen.mirror.reached(revision + 1_000_000, within_s=1.5)

    run(test())


def test_a_silent_watch_is_begun_anew(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if nobody awaits anything, a watch that is silent for long is not trusted."""
    monkeypatch.setattr("core.cluster.etcd.mirror.SILENT_S", 0.5)

    async def test() -> None:
        prefix = new_prefix()
        async with (
            CuttingProxy(etcd.endpoint) as proxy,
            connected(etcd.settings()) as direct,
            following(etcd.settings(proxy.endpoint, etcd.endpoint), prefix) as seen,
        ):
            await asyncio.sleep(0.2)
            proxy.hold()
            await direct.decide((), (Put(prefix + b"a", b"1"),))
            await until(lambda: seen.changes == [(b"a", b"1")])

    run(test())


def test_members_that_go(tmp_path: Path) -> None:
    """Three members, one killed after the other, or stopped where it is, while keys change: the copy goes on at another
    one, and each revision is told once. (A call without compares may be made twice: then there are two revisions.)"""
    servers = three_members(tmp_path)
    endpoints = [server.endpoint for server in servers]

    async def test() -> None:
        prefix, made, numbers = new_prefix(), 0, random.Random(5)
        async with (
            connected(servers[0].settings(*endpoints)) as direct,
            following(servers[0].settings(*endpoints), prefix) as seen,
        ):
            for server in numbers.sample(servers, 3):
                for _ in range(20):
                    made += 1
                    revision = (await direct.decide((), (Put(prefix + b"n", b"%d" % made),), within_s=30)).revision
                await seen.mirror.reached(revision, within_s=30)
                if made == 41:
                    server.pause()
                else:
                    server.stop()
                made += 1
                revision = (await direct.decide((), (Put(prefix + b"n", b"%d" % made),), within_s=30)).revision
                await seen.mirror.reached(revision, within_s=30)
                server.stop()
                server.begin()
                await asyncio.to_thread(server.wait_ready)
            distinct = [value for _, value in seen.changes]
            assert list(dict.fromkeys(distinct)) == [b"%d" % n for n in range(1, made + 1)]
            assert len(seen.revisions) == len(set(seen.revisions))

    try:
        run(test())
    finally:
        stop_all(servers)
