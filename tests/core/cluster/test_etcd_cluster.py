"""Nodes that have etcd and an object store in common, and nothing else: stores, ownership, registry as they serve."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.clock import SystemClock
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_registry import EtcdRegistry
from core.errors import Deposed, NotHosted
from core.membership import Membership
from core.store import Store
from core.tiering.context import LongTermStorage
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import new_prefix
from tests.core.cluster.several import placed_policy
from tests.core.cluster.test_membership import CONTAINERS, OBJECTS, Coordinators
from tests.core.log.objects.test_store import text
from tests.core.support import append, begin_append, read_all, run, until
from tests.core.tiering.support import CLUSTER, storage_in
from tests.tier2.chunks import head_of
from tier2.filesystem import FilesystemStorage

pytestmark = pytest.mark.slow

TTL_S = 3


@dataclass
class Node:
    proxy: CuttingProxy
    coordination: EtcdCoordination
    store: Store
    membership: Membership


class Cluster:
    """Nodes, each with its own way to etcd."""

    def __init__(self, directory: Path, etcd: EtcdServer, storage: FilesystemStorage, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.etcd = etcd
        self.storage = storage
        self.stack = stack
        self.prefix = new_prefix()

    async def join(self, number: int) -> Node:
        push = self.stack.push_async_callback
        proxy = await self.stack.enter_async_context(CuttingProxy(self.etcd.endpoint))
        client = EtcdClient(self.etcd.settings(proxy.endpoint))
        push(client.close)
        mirror = await Mirror.open(client, self.prefix)
        push(mirror.close)
        coordination = await EtcdCoordination.join(
            client, mirror, Session(client, self.prefix), node=number, containers=CONTAINERS, ttl_s=TTL_S
        )
        push(coordination.leave)
        store = await Store.open(
            self.directory / f"machine-{number}" / "store",
            OBJECTS,
            placed_policy,
            SystemClock(),
            LongTermStorage(storage=self.storage, cluster_id=CLUSTER, head_of=head_of),
            shared=await EtcdRegistry.open(client, mirror, Session(client, self.prefix)),
            hosts=(),
        )
        membership = Membership(coordination, store, Coordinators())
        push(membership.close)
        push(store.close, clean=False)
        membership.start()
        push(membership.stop)
        return Node(proxy, coordination, store, membership)


async def serves_all(node: Node) -> None:
    await until(lambda: len(node.membership.serving) == CONTAINERS)
    await node.store.catch_up()


async def contents(node: Node) -> list[list[bytes]]:
    """What the slots of stream s have, all of which are here."""
    stream = node.store.streams.get("s")
    assert stream is not None
    return [await read_all(node.store, stream.slot(number)) for number in range(stream.slot_count)]


def test_a_node_that_is_cut_off_from_etcd(tmp_path: Path, etcd: EtcdServer) -> None:
    """It acknowledges nothing more and answers no reads; the other one has all that it acknowledged, and goes on. When
    etcd is there again it is a node as others: it knows what was decided meanwhile, and takes over in its turn."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            storage = await storage_in(tmp_path / "bucket")
            stack.push_async_callback(storage.close)
            cluster = Cluster(tmp_path, etcd, storage, stack)
            first = await cluster.join(1)
            await serves_all(first)
            stream = await first.store.create_stream("s", slots=8)
            for number in range(8):
                await append(stream.slot(number), text(number))
            second = await cluster.join(2)
            await until(lambda: second.store.streams.get("s"))
            former = first.coordination.life

            first.proxy.hold()
            _, late = begin_append(stream.slot(0), text(100))
            with pytest.raises((Deposed, NotHosted)):
                await late.future
            assert not first.coordination.is_fresh()
            with pytest.raises(NotHosted):
                first.store.hosted(stream.slot(0))
            await serves_all(second)
            found = await contents(second)
            assert found[1:] == [[text(number)] for number in range(1, 8)]
            assert found[0] in ([text(0)], [text(0), text(100)]), "what was not acknowledged may be there, or not"
            await append(second.store.streams.get("s").slot(1), text(101))  # type: ignore[union-attr]
            await second.store.create_stream("t", slots=1)

            first.proxy.release()
            await until(lambda: first.coordination.is_fresh() and not first.store.containers)
            assert first.coordination.life != former
            await until(lambda: first.store.streams.get("t"))
            await second.membership.drain(20)
            await serves_all(first)
            found[1].append(text(101))
            assert await contents(first) == found

    run(scenario())
