"""Lives and claims in etcd: one owner for a container, epochs that rise, and nobody who serves after his lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from core.cluster.coordination import Claim, Coordination, Life, Owner, Stage, Wish
from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import CALLS, Outcome, Session
from core.cluster.etcd.wire import Put, Range, Watched, end_of
from core.cluster.etcd_coordination import EtcdCoordination
from core.cluster.etcd_keys import EPOCH
from core.cluster.loads import Load
from core.errors import CoordinatorAway, CoordinatorRefuses
from core.log.objects.protocol import Link
from tests.core.cluster.etcd.proxy import CuttingProxy
from tests.core.cluster.etcd.servers import EtcdServer
from tests.core.cluster.etcd.support import connected, new_prefix, run, until

pytestmark = pytest.mark.slow

TTL_S = 2
CONTAINERS = 4


@asynccontextmanager
async def joined(
    settings: EtcdSettings, prefix: bytes, node: int, ttl_s: int = TTL_S
) -> AsyncIterator[EtcdCoordination]:
    """A node with a client, a copy and a session of its own."""
    client = EtcdClient(settings)
    mirror = await Mirror.open(client, prefix)
    coordination: EtcdCoordination | None = None
    try:
        coordination = await EtcdCoordination.join(
            client,
            mirror,
            Session(client, prefix),
            node=node,
            containers=CONTAINERS,
            ttl_s=ttl_s,
            told={"listeners": {"PLAINTEXT": ["127.0.0.1", 9000 + node]}, "host": f"h{node}", "load": 0},
        )
        yield coordination
    finally:
        if coordination is not None:
            await coordination.leave()
        await mirror.close()
        await client.close()


async def claimed(coordination: Coordination, container: int) -> Claim:
    claim = await coordination.claim(container)
    assert claim is not None
    return claim


def test_lives(etcd: EtcdServer) -> None:
    """Nodes know one another, with what each told of itself; one that leaves is gone at once, with its claims."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one:
            async with joined(etcd.settings(), prefix, 2) as two:
                heard = asyncio.Event()
                one.on_changed(heard.set)
                await until(lambda: one.lives().keys() == two.lives().keys() == {1, 2})
                assert one.lives()[2] == Life(node=2, life=two.life)
                assert (two.node, list(two.containers)) == (2, [0, 1, 2, 3])
                await two.tell_reach(False)
                await until(lambda: not one.lives()[2].takes)
                assert not await one.ask(0, 2)
                await two.tell({"load": 7})
                assert not two.lives()[2].reaches_store
                await two.tell_reach(True)
                assert two.lives()[2].takes
                await two.drain()
                assert two.lives()[2].is_draining
                await until(lambda: one.lives()[2].is_draining and one.nodes()[2] == {"load": 7})
                claim = await claimed(two, 3)
                await until(one.owners)
                assert one.owners() == {3: Owner(node=2, life=two.life, epoch=claim.epoch, stage=Stage.OPENING)}
                assert heard.is_set()
                assert one.is_fresh()
                assert two.is_fresh()
            await until(lambda: one.lives().keys() == {1} and not one.owners(), 1)
            assert not two.is_fresh()
            assert await two.claim(3) is None

    run(test())


def test_one_owner(etcd: EtcdServer) -> None:
    """Of nodes that claim one container at a time, one has it. Its epoch is above all that were given for any
    container, also after it was given up."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2) as two:
            epochs = []
            for n in range(6):
                claims = await asyncio.gather(*(node.claim(n % 2) for node in (one, two)))
                ((node, claim),) = [(node, got) for node, got in zip((one, two), claims, strict=True) if got]
                epochs.append(claim.epoch)
                assert await node.claim(n % 2) == claim, "the same call again has the same answer"
                assert node.owners()[n % 2].epoch == claim.epoch
                assert (await two.read_epochs()) == (await one.read_epochs()) == {n % 2: claim.epoch}
                await node.give_up(claim)
                assert n % 2 not in node.owners()
            assert epochs == sorted(set(epochs))
            claims = await asyncio.gather(*(node.claim(c) for c in range(CONTAINERS) for node in (one, two)))
            assert len({claim.epoch for claim in claims if claim}) == CONTAINERS

    run(test())


def test_wishes_and_loads(etcd: EtcdServer) -> None:
    """A wish is for a container as it is served now, and gone with the next claim. Loads are told in the order in which
    nodes began to tell them, and go with their node."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one:
            async with joined(etcd.settings(), prefix, 2) as two:
                claim = await claimed(one, 3)
                assert not await two.ask(3, 2), "it is not served yet"
                await one.confirm(claim, [])
                await until(lambda: 3 in two.owners() and two.owners()[3].stage is Stage.SERVING)
                assert not await two.ask(3, 1), "it is there"
                assert not await two.ask(3, 9), "no such node"
                assert await two.ask(3, 2)
                assert two.wishes() == {3: Wish(epoch=claim.epoch, node=2, life=two.life)}
                row = two._mirror.values[b"assign/3"]
                assert row.value == b'{"v":1,"epoch":%d,"node":2,"life":"%s"}' % (claim.epoch, two.life.encode())
                await until(one.wishes)
                await one.give_up(claim)
                assert two.wishes().keys() == {3}
                await claimed(two, 3)
                assert two.wishes() == {}
                await two.tell_loads({3: Load(bytes_in_s=1_000)})
                await until(one.loads)
                await one.tell_loads({})
                await two.tell_loads({3: Load(bytes_in_s=2_000)})
                await until(lambda: list(one.loads().items()) == [(2, {3: Load(bytes_in_s=2_000)}), (1, {})])
            await until(lambda: list(one.loads()) == [1])

    run(test())


def test_confirming(etcd: EtcdServer) -> None:
    """A claim is confirmed as long as the container has its epoch, and the next owner gets the links. A claim that is
    over can neither be confirmed nor disturb whoever has the container then."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2) as two:
            first = await claimed(one, 0)
            links = (Link(0, 17, first.epoch),)
            assert first.links == ()
            assert await one.confirm(first, links)
            assert await one.confirm(first, links)
            assert one.owners()[0].stage is Stage.SERVING
            await one.give_up(first)
            second = await claimed(two, 0)
            assert second.links == links
            assert not await one.confirm(first, ())
            await one.give_up(first)
            assert await two.read_epochs() == {0: second.epoch}
            assert await two.confirm(second, (*links, Link(first.epoch, 99, second.epoch)))
            await two.give_up(second)
            assert (await claimed(one, 0)).links == (*links, Link(first.epoch, 99, second.epoch))

    run(test())


def test_a_late_mirror(etcd: EtcdServer) -> None:
    """A node whose mirror has stopped long ago neither confirms nor gives up what another one has claimed meanwhile."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1, 30) as one, connected(etcd.settings()) as client:
            claim = await claimed(one, 0)
            await one._mirror.close()
            other = b'{"v":1,"node":2,"life":"other","epoch":99,"stage":"opening"}'
            await client.decide((), (Put(prefix + b"containers/0", other),))
            assert one.owners()[0].epoch == claim.epoch
            assert not await one.confirm(claim, (Link(0, 17, claim.epoch),))
            await one.give_up(claim)
            assert await one.read_epochs() == {0: 99}
            assert (await client.read(Range(prefix + b"containers/0"))).keys[0].value == other
            assert not (await client.read(Range(prefix + b"links/0"))).keys

    run(test())


def test_cut_off(etcd: EtcdServer) -> None:
    """A node that cannot reach etcd stops being fresh before others can claim what it had. When it is back it has
    another life, without the claims of the former one."""

    async def test() -> None:
        prefix = new_prefix()
        async with (
            CuttingProxy(etcd.endpoint) as proxy,
            joined(etcd.settings(), prefix, 1) as one,
            joined(etcd.settings(proxy.endpoint), prefix, 2) as two,
        ):
            await until(lambda: 2 in one.lives())
            claim = await claimed(two, 0)
            assert await two.confirm(claim, ())
            former = two.life
            proxy.hold()
            taken: Claim | None = None
            async with asyncio.timeout(30):
                while taken is None:
                    was_fresh = two.is_fresh()
                    taken = await one.claim(0)
            assert not was_fresh or not two.is_fresh()
            assert not two.is_fresh()
            assert taken.epoch > claim.epoch
            with pytest.raises(CoordinatorAway):
                await two.read_epochs()
            proxy.release()
            await until(two.is_fresh)
            assert two.life != former
            assert not await two.confirm(claim, ())
            await until(lambda: two.owners()[0].node == 1)
            assert (await claimed(two, 1)).life == two.life
            await until(lambda: one.lives()[2].life == two.life)

    run(test())


def test_one_process_for_a_node_id(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second process with a node's id is refused while the first one lives; one that was killed is followed by the
    next as soon as its lease has ended."""
    monkeypatch.setattr("core.cluster.etcd_coordination.JOIN_S", 1.5 * TTL_S)

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            mirror = await Mirror.open(client, prefix)
            dead = await EtcdCoordination.join(
                client, mirror, Session(client, prefix), node=1, containers=CONTAINERS, ttl_s=TTL_S
            )
            with pytest.raises(CoordinatorRefuses, match="node id 1 is in use"):
                async with joined(etcd.settings(), prefix, 1):
                    pass
            assert dead._task is not None
            assert dead._lease is not None
            dead._task.cancel()
            await dead._lease.close()  # as a kill leaves it: nobody renews, nobody revokes
            monkeypatch.setattr("core.cluster.etcd_coordination.JOIN_S", 30)
            async with joined(etcd.settings(), prefix, 1) as alive:
                assert alive.life != dead.life
                assert not await dead.confirm(Claim(container=0, epoch=1, life=dead.life), ())
            await mirror.close()

    run(test())


def test_a_claim_that_went_through_unseen_is_in_the_mirror_when_it_is_told(etcd: EtcdServer) -> None:
    """Else it would look lost at once, and be given up without a word to etcd, where it would stand for ever."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, connected(etcd.settings()) as other:
            let_in, take = asyncio.Event(), one._mirror._take

            async def late(message: Watched) -> None:
                await let_in.wait()
                await take(message)

            one._mirror._take = late  # type: ignore[method-assign]
            assert one._lease is not None
            row = b'{"v":1,"node":1,"life":"%s","epoch":7,"stage":"opening"}' % one.life.encode()
            await other.decide((), (Put(prefix + b"containers/0", row, one._lease.id),))
            claiming = asyncio.create_task(claimed(one, 0))
            await asyncio.wait((claiming,), timeout=0.3)
            assert claiming.done() == (0 in one.owners())
            let_in.set()
            claim = await claiming
            assert one.owners()[0].epoch == claim.epoch == 7
            await one.give_up(claim)
            assert not await one.read_epochs()

    run(test())


def test_handing_over(etcd: EtcdServer) -> None:
    """A wish is seen by both, and so is that the heir is warm. The claim becomes the heir's with the epoch that was
    reserved and the links that end with the owner's; once, and only while the heir lives and the claim stands."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2) as two:
            await until(lambda: one.lives().keys() == two.lives().keys() == {1, 2})
            claim, other = await claimed(one, 0), await claimed(one, 1)
            assert not await one.ask(0, 2), "nobody serves it yet"
            for its in (claim, other):
                assert await one.confirm(its, [Link(0, 1, its.epoch)])
            await until(lambda: two.owners().get(1, one.owners()[0]).stage is Stage.SERVING)
            assert not await two.ask(0, 1), "it is there"
            assert not await two.ask(2, 2), "it is nobody's"
            assert await two.ask(0, 2)
            wish = Wish(epoch=claim.epoch, node=2, life=two.life)
            await until(lambda: one.wishes() == {0: wish})
            await two.tell_warm(0, wish)
            await until(lambda: one.warmed() == {0: wish})
            epoch = await one.reserve_epoch()
            assert epoch > other.epoch
            link = Link(claim.epoch, 77, epoch)
            gone = Wish(epoch=other.epoch, node=2, life="a former one")
            assert not await one.hand_over(other, gone, Link(other.epoch, 5, epoch + 1))
            assert await one.hand_over(claim, wish, link)
            assert await one.hand_over(claim, wish, link), "a second call answers as the first"
            assert one.owners()[0] == Owner(node=2, life=two.life, epoch=epoch, stage=Stage.OPENING)
            assert one.wishes() == {}
            await until(lambda: two.owners()[0].node == 2)
            theirs = await claimed(two, 0)
            assert (theirs.epoch, theirs.links) == (epoch, (Link(0, 1, claim.epoch), link))
            assert not await one.hand_over(claim, wish, Link(claim.epoch, 78, epoch + 5)), "it is not ours any more"
            await one.give_up(claim)
            assert one.owners()[0].node == 2

            assert await two.ask(1, 2)
            two._lease.lost.set()  # type: ignore[union-attr]  # another life of the same node
            await until(lambda: two.life != wish.life and one.lives().get(2) == Life(node=2, life=two.life))
            assert one.wishes() == {}
            former = Wish(epoch=other.epoch, node=2, life=wish.life)
            assert not await one.hand_over(other, former, Link(other.epoch, 5, await one.reserve_epoch()))
            assert one.owners()[1].node == 1

    run(test())


def test_a_leader_epoch_rises(etcd: EtcdServer) -> None:
    """By the counter of the cluster, while the claim stays what it is; the next claim is above it. Whoever has no
    claim, or does not serve yet, raises nothing."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2) as two:
            claim, other = await claimed(one, 0), await claimed(one, 1)
            assert await one.rise(claim) is None, "nobody serves it yet"
            for its in (claim, other):
                assert await one.confirm(its, [])
            risen = [await one.rise(claim), await one.rise(other), await one.rise(claim)]
            assert risen == [other.epoch + 1, other.epoch + 2, other.epoch + 3]
            await until(lambda: two.owners().get(0, one.owners()[1]).leader_epoch == risen[-1])
            now = two.owners()[0]
            assert (now.epoch, now.stage, two.owners()[1].leader_epoch) == (claim.epoch, Stage.SERVING, risen[1])
            assert await one.read_epochs() == {0: claim.epoch, 1: other.epoch}
            assert await two.ask(0, 2)
            await until(one.wishes)
            epoch = await one.reserve_epoch()
            assert epoch > risen[-1]
            assert await one.hand_over(claim, one.wishes()[0], Link(claim.epoch, 7, epoch))
            assert one.owners()[0] == Owner(node=2, life=two.life, epoch=epoch, stage=Stage.OPENING)
            assert await one.rise(claim) is None
            await one.give_up(other)
            assert (await claimed(two, 1)).epoch > epoch

    run(test())


def test_burying(etcd: EtcdServer) -> None:
    """Another node may end a life that is certainly over: its claims are free at once. A life that has ended already is
    left alone, and so is the one after it."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2, 60) as two:
            await until(lambda: 2 in one.lives())
            former = one.lives()[2]
            await claimed(two, 0)
            await one.bury(former)
            assert 2 not in one.lives()
            assert await claimed(one, 0)
            await until(lambda: two.life != former.life and two.is_fresh(), 60)
            await until(lambda: 2 in one.lives())
            await one.bury(former)
            assert (await claimed(two, 1)).life == two.life

    run(test())


def test_claims_by_cut_ways(etcd: EtcdServer) -> None:
    """Three nodes claim, confirm, give up and ask at random while their ways to etcd are cut. No two claims have one
    epoch, a container's epochs rise, and a claim that is confirmed is among the epochs as long as its life lasts."""

    async def act(node: EtcdCoordination, numbers: random.Random, given: list[tuple[int, int]]) -> None:
        held: dict[int, Claim] = {}
        for _ in range(25):
            container = numbers.randrange(CONTAINERS)
            try:
                claim = held.get(container)
                if claim is None:
                    got = await node.claim(container)
                    if got is not None:
                        held[container] = got
                        given.append((container, got.epoch))
                elif numbers.random() < 0.5:
                    confirmed = await node.confirm(claim, ())
                    assert (
                        not confirmed or (await node.read_epochs()).get(container) == claim.epoch or not node.is_fresh()
                    )
                else:
                    await node.give_up(held.pop(container))
            except CoordinatorAway:
                held.pop(container, None)

    async def test() -> None:
        prefix, given = new_prefix(), list[tuple[int, int]]()
        async with (
            CuttingProxy(etcd.endpoint, seed=7) as proxy,
            joined(etcd.settings(proxy.endpoint), prefix, 1, 30) as one,
            joined(etcd.settings(proxy.endpoint), prefix, 2, 30) as two,
            joined(etcd.settings(proxy.endpoint), prefix, 3, 30) as three,
        ):
            proxy.share = 0.06
            await asyncio.gather(*(act(node, random.Random(node.node), given) for node in (one, two, three)))
            proxy.share = 0
            epochs = [epoch for _, epoch in given]
            assert len(set(epochs)) == len(epochs) > CONTAINERS
            for container in range(CONTAINERS):
                of_it = [epoch for one_of, epoch in given if one_of == container]
                assert of_it == sorted(of_it)

    run(test())


GOLDEN = {
    b"nodes/1": b'{"v":1,"life":"L","draining":false,"told":'
    b'{"listeners":{"PLAINTEXT":["127.0.0.1",9001]},"host":"h1","load":0}}',
    b"containers/2": b'{"v":1,"node":1,"life":"L","epoch":1,"stage":"serving"}',
    b"links/2": b'{"v":1,"links":[[0,17,1]]}',
    b"epoch": b"1",
}
"""Format 1, as it was first released, for the life L: a later release reads it."""
WRITTEN = {
    b"nodes/1": b'{"v":1,"life":"L","draining":false,"level":4,"told":'
    b'{"listeners":{"PLAINTEXT":["127.0.0.1",9001]},"host":"h1","load":0}}',
    b"loads/1": b'{"v":1,"containers":{"2":[1000,0,500,4100]}}',
}
"""What is written besides, or in place of that."""


def test_the_keys(etcd: EtcdServer) -> None:
    """What a node writes, byte by byte, and what lies under its lease."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client, joined(etcd.settings(), prefix, 1) as one:
            claim = await claimed(one, 2)
            await one.confirm(claim, (Link(0, 17, claim.epoch),))
            await one.tell_loads({2: Load(1_000, 0, 0.5, 4_096)})
            found = (await client.read(Range(prefix, end_of(prefix)))).keys
            rows = {row.key[len(prefix) :]: row for row in found if not row.key.startswith(prefix + CALLS)}
            assert {key: row.value.replace(one.life.encode(), b"L") for key, row in rows.items()} == GOLDEN | WRITTEN
            under_lease = {b"nodes/1", b"containers/2", b"loads/1"}
            assert {key for key, row in rows.items() if row.lease} == under_lease
            assert len({rows[key].lease for key in under_lease}) == 1

    run(test())


def test_golden_keys_are_read(etcd: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """What a release has written is read from its bytes; bytes that are none of them are logged, and are nobody's."""

    async def test() -> None:
        prefix = new_prefix()
        async with connected(etcd.settings()) as client:
            await client.decide((), [Put(prefix + key, value) for key, value in GOLDEN.items()])
            damaged = [(b"nodes/7", b"{}"), (b"containers/3", b"\xff"), (b"containers/x", b"")]
            await client.decide((), [Put(prefix + key, value) for key, value in damaged])
            async with joined(etcd.settings(), prefix, 2) as two:
                assert two.lives().keys() == {1, 2}
                assert two.lives()[1] == Life(node=1, life="L")
                assert two.nodes()[1]["host"] == "h1"
                assert two.owners() == {2: Owner(node=1, life="L", epoch=1, stage=Stage.SERVING)}
                assert await two.read_epochs() == {2: 1}
                assert (await claimed(two, 0)).epoch == 2
                assert prefix + EPOCH in [row.key for row in (await client.read(Range(prefix + EPOCH))).keys]
        assert "cannot be read" in caplog.text

    run(test())


def test_an_operator_asks_for_a_drain_while_the_node_tells_of_itself(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's own word, which was made before it had heard, does not undo what the operator was answered."""

    async def test() -> None:
        prefix = new_prefix()
        async with joined(etcd.settings(), prefix, 1) as one, joined(etcd.settings(), prefix, 2) as two:
            await until(lambda: one.lives().keys() == two.lives().keys() == {1, 2})
            real = two._session.change

            async def late(*arguments: Any) -> Outcome:
                monkeypatch.setattr(two._session, "change", real)
                await one.ask_to_drain(one.lives()[2])
                return await real(*arguments)

            monkeypatch.setattr(two._session, "change", late)
            await two.tell({"load": 7})
            await until(lambda: one.nodes()[2] == {"load": 7})
            assert one.lives()[2].is_draining
            await two.tell_reach(False)
            await until(lambda: not one.lives()[2].reaches_store)
            assert one.lives()[2].is_draining

    run(test())
