"""A lease is fresh here only as long as nobody else can have heard of its end."""

from __future__ import annotations

import asyncio

import pytest

from core.cluster.etcd.clock import boot_s
from core.cluster.etcd.lease import Lease
from core.cluster.etcd.wire import Put, Range
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until

pytestmark = pytest.mark.slow

TTL_S = 3


def test_it_is_kept(etcd: EtcdServer) -> None:
    """It outlives its time to live by far, as long as etcd is there, also by connections that are cut and by a member
    that is silent; it ends at once when it is revoked."""

    async def test() -> None:
        key = new_prefix()
        async with (
            CuttingProxy(etcd.endpoint, seed=3) as proxy,
            connected(etcd.settings()) as direct,
            connected(etcd.settings(proxy.endpoint, etcd.endpoint)) as client,
        ):
            lease = await Lease.grant(client, TTL_S)
            await direct.decide((), (Put(key, b"", lease.id),))
            begin = boot_s()
            while boot_s() < begin + 2 * TTL_S:
                assert lease.is_fresh()
                proxy.share = 0.5
                if boot_s() > begin + TTL_S:
                    proxy.hold()
                await asyncio.sleep(0.05)
            assert (await direct.read(Range(key))).keys
            await lease.revoke()
            assert not lease.is_fresh()
            assert not (await direct.read(Range(key))).keys

    run(test())


def test_it_ends_here_before_it_ends_elsewhere(etcd: EtcdServer) -> None:
    """Cut off from etcd, in the middle of a renewal that arrives: it is lost here while its key is still there. Being
    reachable again does not bring it back."""

    async def test() -> None:
        key = new_prefix()
        async with (
            CuttingProxy(etcd.endpoint) as proxy,
            connected(etcd.settings()) as direct,
            connected(etcd.settings(proxy.endpoint)) as client,
        ):
            lease = await Lease.grant(client, TTL_S)
            await direct.decide((), (Put(key, b"", lease.id),))
            await asyncio.sleep(TTL_S / 2)  # it is renewed meanwhile
            proxy.cut_answers = 1
            await until(lambda: not proxy.cut_answers)
            proxy.hold()
            await lease.lost.wait()
            assert (await direct.read(Range(key))).keys
            proxy.release()
            await asyncio.sleep(0.1)
            assert not lease.is_fresh()
            async with asyncio.timeout(20):
                while (await direct.read(Range(key))).keys:
                    pass
            await lease.close()

    run(test())


def test_a_machine_that_slept(etcd: EtcdServer) -> None:
    """Time in which the process could do nothing counts: after it the lease is lost at the first look, before any other
    code has run."""

    async def test() -> None:
        slept_s = 0.0
        async with connected(etcd.settings()) as client:
            lease = await Lease.grant(client, TTL_S, lambda: boot_s() + slept_s)
            assert lease.is_fresh()
            slept_s = TTL_S
            assert not lease.is_fresh()
            assert lease.lost.is_set()
            await lease.close()

    run(test())


def test_etcd_has_ended_it(etcd: EtcdServer) -> None:
    """A lease that somebody revoked is lost here with the next renewal."""

    async def test() -> None:
        async with connected(etcd.settings()) as client:
            lease = await Lease.grant(client, TTL_S)
            await client.revoke(lease.id)
            await asyncio.wait_for(lease.lost.wait(), 10)
            assert not lease.is_fresh()
            await lease.close()

    run(test())
