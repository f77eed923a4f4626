"""Changes that happen once, whatever is cut, repeated, or comes late."""

from __future__ import annotations

import asyncio

import pytest

from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import CALLS, LeaseGone, Outcome, Session, newest
from core.cluster.etcd.wire import Delete, KeyValue, Put, Range, absent, end_of, unchanged
from core.errors import CoordinatorAway
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until

pytestmark = pytest.mark.slow


async def read(client: EtcdClient, key: bytes) -> KeyValue | None:
    found = (await client.read(Range(key))).keys
    return found[0] if found else None


async def raise_by_one(session: Session, key: bytes, known: KeyValue | None) -> Outcome:
    """Count from the known value; else say what it is now."""
    value = b"%d" % (int(known.value if known else b"0") + 1)
    return await session.change((unchanged(known, key),), (Put(key, value),), (Range(key),), within_s=60)


def test_each_change_once(etcd: EtcdServer) -> None:
    """Three sessions raise one counter, each by connections that are cut all the time: it counts exactly what they were
    told that they did, although no change compares anything but the value that it began with."""

    async def count(session: Session, key: bytes, times: int) -> int:
        done, known = 0, None
        while done < times:
            outcome = await raise_by_one(session, key, known)
            if outcome.succeeded:
                done += 1
                known = KeyValue(key, b"%d" % (int(known.value if known else b"0") + 1), 0, outcome.revision)
            else:
                known = outcome.found[0][0]
        return done

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint, seed=1) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            proxy.share = 0.15
            sessions = [Session(client, prefix) for _ in range(3)]
            done = await asyncio.gather(*(count(session, prefix + b"n", 25) for session in sessions))
            proxy.share = 0
            counter = await read(client, prefix + b"n")
            assert counter is not None
            assert (sum(done), int(counter.value)) == (75, 75)

    run(test())


def test_a_change_without_conditions(etcd: EtcdServer) -> None:
    """A change that nothing but the session guards, whose answer is cut, has happened once: the key has one version."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            session = Session(client, prefix)
            await session.change((), (Put(prefix + b"first", b""),))
            proxy.cut_answers = 2
            outcome = await session.change((), (Put(prefix + b"a", b"1"),))
            assert outcome.succeeded
            key = await read(client, prefix + b"a")
            assert key is not None
            assert (key.created, key.revision) == (outcome.revision, outcome.revision)

    run(test())


def test_a_request_that_comes_late(etcd: EtcdServer) -> None:
    """A change that was given up, and reaches etcd only after the session went on, changes nothing any more."""

    async def test() -> None:
        prefix = new_prefix()
        async with CuttingProxy(etcd.endpoint) as proxy, connected(etcd.settings(proxy.endpoint)) as client:
            session = Session(client, prefix)
            await session.change((), (Put(prefix + b"a", b"1"),))
            proxy.hold()
            with pytest.raises(CoordinatorAway):
                await session.change((), (Put(prefix + b"a", b"late"),), within_s=1)
            async with CuttingProxy(etcd.endpoint) as other:
                client._endpoints = (other.endpoint,)  # the way by which it came is dead, and still delivers
                assert (await session.change((absent(prefix + b"b"),), (Put(prefix + b"b", b"2"),))).succeeded
                proxy.release()
                await until(lambda: proxy.idle)
                assert (await read(client, prefix + b"a")).value == b"1"  # type: ignore[union-attr]
                # And one that comes before the next change has happened, and the next one takes it into account.
                other.cut_answers = 100
                with pytest.raises(CoordinatorAway):
                    await session.change((), (Put(prefix + b"a", b"3"),), within_s=0.5)
                other.cut_answers = 0
                outcome = await session.change((unchanged(await read(client, prefix + b"a"), prefix + b"a"),), ())
                assert outcome.succeeded
                assert (await read(client, prefix + b"a")).value == b"3"  # type: ignore[union-attr]

    run(test())


def test_refused_by_the_callers_conditions(etcd: EtcdServer) -> None:
    """If a compare of the caller's does not hold, nothing is changed, and what is there is returned instead."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            session = Session(client, prefix)
            await session.change((), (Put(prefix + b"a", b"1"),))
            outcome = await session.change(
                (absent(prefix + b"a"),), (Delete(prefix + b"a"),), (Range(prefix + b"b"), Range(prefix + b"a"))
            )
            assert not outcome.succeeded
            assert [[one.value for one in found] for found in outcome.found] == [[], [b"1"]]
            assert (await session.change((), (Delete(prefix + b"a"),))).succeeded

    run(test())


def test_the_sessions_key(etcd: EtcdServer) -> None:
    """A session leaves one key, which goes with it. If its lease is lost, the next change says so, and the one after it
    goes well. A change under a lease that is gone says that."""

    async def test() -> None:
        prefix = new_prefix()
        calls = prefix + CALLS
        async with connected(etcd.settings()) as client:
            session = Session(client, prefix)
            outcome = await session.change((), (Put(prefix + b"a", b"1"),))
            assert await newest(client, prefix) == outcome.revision
            (key,) = (await client.read(Range(calls, end_of(calls)))).keys
            assert key.value == b"1"
            await client.revoke(key.lease)
            with pytest.raises(CoordinatorAway, match="lost"):
                await session.change((), (Put(prefix + b"a", b"2"),))
            assert (await session.change((), (Put(prefix + b"a", b"3"),))).succeeded
            with pytest.raises(LeaseGone):
                await session.change((), (Put(prefix + b"a", b"4", lease=12345),))
            assert (await session.change((), (Delete(prefix + b"a"),))).succeeded
            await session.close()
            assert not (await client.read(Range(prefix, end_of(prefix)))).keys
            assert await newest(client, prefix) == 0

    run(test())
