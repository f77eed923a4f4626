"""The epochs of claims, as the guard before acknowledgements reads them: without rows while nothing has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.cluster import etcd_epochs
from core.cluster.coordination import Claim
from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.http import Endpoint
from core.cluster.etcd.wire import Delete, KeyValue, Put
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_epochs import Epochs
from core.errors import CoordinatorAway, CoordinatorRefuses
from tests.core.cluster.etcd.servers import EtcdServer, stop_all, three_members
from tests.core.cluster.etcd.support import connected, new_prefix, run
from tests.core.cluster.test_etcd_coordination import claimed, joined

pytestmark = pytest.mark.slow


@asynccontextmanager
async def stands_still(etcd: EtcdServer) -> AsyncIterator[tuple[EtcdCoordination, EtcdClient, list[Claim], bytes]]:
    """A node with claims of two containers, whose mirror has stopped; and somebody else, to change what it has."""
    prefix = new_prefix()
    async with joined(etcd.settings(), prefix, 1, 30) as node, connected(etcd.settings()) as other:
        claims = [await claimed(node, container) for container in range(2)]
        await node._mirror.close()
        yield node, other, claims, prefix


def test_nothing_has_changed(etcd: EtcdServer) -> None:
    """The answer is what was expected, and has no row of any other container."""

    async def test() -> None:
        async with stands_still(etcd) as (node, _, (first, second), _):
            assert await node.read_epochs({0: first.epoch}) == {0: first.epoch}
            both = {0: first.epoch, 1: second.epoch}
            assert await node.read_epochs(both) == both
            assert await node.read_epochs() == both

    run(test())


def row(life: str, epoch: int) -> bytes:
    return b'{"v":1,"node":2,"life":"%s","epoch":%d,"stage":"serving"}' % (life.encode(), epoch)


Changes = Callable[[bytes, Claim], Sequence[Put | Delete]]
Found = Callable[[Claim], int | None]
CHANGES: Mapping[str, tuple[Changes, Found]] = {
    "taken by another": (lambda key, _: (Put(key, row("other", 99)),), lambda _: 99),
    "nobody's": (lambda key, _: (Delete(key),), lambda _: None),
    "the same claim, risen": (lambda key, own: (Put(key, row(own.life, own.epoch)),), lambda own: own.epoch),
}
"""What somebody else does to the row of a claim, and the epoch that is to be found then."""


@pytest.mark.parametrize("name", CHANGES)
def test_one_has_changed_behind_the_mirror(etcd: EtcdServer, name: str) -> None:
    """What etcd has is found, of the changed one and of the one beside it, by whatever the mirror still shows."""
    changes, epoch = CHANGES[name]

    async def test() -> None:
        async with stands_still(etcd) as (node, other, (first, second), prefix):
            await other.decide((), changes(prefix + b"containers/0", first))
            assert node.owners()[0].epoch == first.epoch
            found = await node.read_epochs({0: first.epoch, 1: second.epoch})
            assert (found.get(0), found.get(1)) == (epoch(first), second.epoch)
            assert await node.read_epochs({1: second.epoch}) == {1: second.epoch}

    run(test())


def test_taken_and_given_up_meanwhile(etcd: EtcdServer) -> None:
    """A row that was deleted and made again is another one, though its value is the same."""

    async def test() -> None:
        async with stands_still(etcd) as (node, other, (first, _), prefix):
            key = prefix + b"containers/0"
            await other.decide((), (Delete(key),))
            await other.decide((), (Put(key, row("other", first.epoch + 9)),))
            await other.decide((), (Delete(key),))
            assert 0 not in await node.read_epochs({0: first.epoch})

    run(test())


def test_an_epoch_that_the_mirror_does_not_show(etcd: EtcdServer) -> None:
    """Neither a former claim nor one of a container that is nobody's is answered by a comparison with another row."""

    async def test() -> None:
        async with stands_still(etcd) as (node, _, (first, second), _):
            both = {0: first.epoch, 1: second.epoch}
            assert await node.read_epochs({0: first.epoch - 1}) == both
            assert await node.read_epochs({0: first.epoch, 3: 7}) == both

    run(test())


def test_one_was_taken_by_a_change_that_could_not_be_taken_in(etcd: EtcdServer) -> None:
    """The mirror has the other's row by then, and this node still believes that the container is its own."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1, 30) as node, connected(etcd.settings()) as other:
            claim = await claimed(node, 0)
            taken = Put(prefix + b"meta", b"of a later release"), Put(prefix + b"containers/0", row("other", 99))
            await node._mirror.reached((await other.decide((), taken)).revision)
            assert node.owners()[0].epoch == claim.epoch
            assert await node.read_epochs({0: claim.epoch}) == {0: 99}

    run(test())


def test_more_claims_than_etcd_compares(etcd: EtcdServer) -> None:
    """A node may have 256 containers, and all of them may ask at once."""

    async def test() -> None:
        below, epochs = new_prefix(), dict.fromkeys(range(256), 7)
        async with connected(etcd.settings()) as client:
            rows = [Put(b"%scontainers/%d" % (below, one), row("own", epoch)) for one, epoch in epochs.items()]
            revision = (await client.decide((), rows)).revision
            known = [KeyValue(put.key, put.value, revision, revision) for put in rows]
            asked = Epochs(client, below, lambda container, epoch: known[container])
            assert await asked.read(epochs) == epochs
            await client.decide((), (Delete(below + b"containers/200"),))
            assert await asked.read(epochs) == {one: epoch for one, epoch in epochs.items() if one != 200}

    run(test())


def test_something_in_the_place_of_etcd_that_finds_nothing() -> None:
    """A load balancer without a member behind it: acknowledgements wait, and the log calls it no defect."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnothing")

    async def test() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        place = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        async with connected(EtcdSettings(endpoints=(place,))) as client:
            asked = Epochs(client, b"p/", lambda container, epoch: KeyValue(b"p/containers/0", b"", 1, 1))
            for expected in ({0: 7}, {}):
                with pytest.raises(CoordinatorRefuses, match="404"):
                    await asked.read(expected)
        server.close()

    run(test())


def test_a_member_without_the_others_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own copy shows the claim as it was; what the others have decided since, it cannot know."""
    monkeypatch.setattr(etcd_epochs, "EPOCHS_S", 0.4)
    servers = three_members(tmp_path)

    async def test() -> None:
        first, *others = servers
        async with joined(first.settings(), new_prefix(), 1, 60) as node:
            claim = await claimed(node, 0)
            assert await node.read_epochs({0: claim.epoch}) == {0: claim.epoch}
            for other in others:
                other.pause()
            try:
                for expected in ({0: claim.epoch}, {}):
                    with pytest.raises(CoordinatorAway):
                        await node.read_epochs(expected)
            finally:
                for other in others:
                    other.resume()

    try:
        run(test())
    finally:
        stop_all(servers)
