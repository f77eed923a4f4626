"""A partition that share groups read moves to another container: who holds which record, and what is settled, stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.errors import NotMovedYet, SlotMoves, StorageFull
from core.log.records import Put
from core.streams.live import Slot
from gateway.groups.share import live_partition
from gateway.groups.share.format import (
    PARTITIONS_TABLE,
    PlaceKey,
    decode_partition,
    encode_key,
    encode_partition,
    encode_place,
)
from gateway.groups.share.live_partition import LivePartition, hand_on
from gateway.groups.share.partition import Judgement, SharePartition, Span, State, Verdict
from gateway.wire.message import Message
from tests.faults.settings import scaled
from tests.gateway.apis.harness import NOW, Admin, admin_of
from tests.gateway.groups.share.speaking import ACCEPT, RELEASE
from tests.gateway.groups.share.test_storing import Speaker, accept, acquired, begun, reached

pytestmark = pytest.mark.slow

TWO: Final = "containers=2"
RECORDS: Final = 50


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with admin_of(tmp_path, TWO) as made:
        yield made


def other(slot: Slot) -> int:
    return 1 - slot.container_id


async def moved(admin: Admin, topic: str) -> None:
    stream = admin.stream(topic)
    await admin.broker.store.move_slot(stream, 0, other(stream.slot(0)))


def container_of(admin: Admin, number: int) -> Container:
    return admin.broker.store.containers[number].container


def rows(admin: Admin, number: int, topic: str) -> dict[bytes, bytes]:
    """What a container has of share groups' state of a topic's only partition."""
    end, table = encode_place(admin.stream(topic).uuid, 0), container_of(admin, number).table(PARTITIONS_TABLE)
    return {key: value for key, value in table.entries.items() if key.endswith(end)}


def stored(admin: Admin, live: LivePartition) -> SharePartition:
    """What a restart would find where the partition is."""
    stream = admin.broker.topics.by_uuid(live.key.topic)
    assert stream is not None
    return decode_partition(rows(admin, stream.slot(0).container_id, stream.name)[encode_key(live.key)])


def hold(live: LivePartition, admin: Admin, first: int, last: int, member: str = "m") -> None:
    span = Span(first, last)
    live.state.acquire(
        member, first, [span], span.size, live.settings().limits, admin.broker.clock.monotonic_s(), whole=True
    )


def settled_in(state: SharePartition) -> set[int]:
    """The offsets that nobody gets any more."""
    runs = [run for run in state.runs if run.state is State.SETTLED]
    return {*range(state.start), *(offset for run in runs for offset in range(run.first, run.last + 1))}


def during(admin: Admin, monkeypatch: pytest.MonkeyPatch, do: Callable[[], Awaitable[None]]) -> None:
    """Do something while a partition is frozen and its rows were brought along, before it is decided that it goes."""
    store = admin.broker.store
    decide = store.decide_move

    async def decided(*arguments: Any) -> None:
        await do()
        await decide(*arguments)

    monkeypatch.setattr(store, "decide_move", decided)


def codes(told: Message) -> set[int]:
    return {partition.error_code for one in told.responses for partition in one.partitions}


def test_a_member_goes_on(admin: Admin) -> None:
    """It settles, in the new container, what it was given in the old one, and gets what comes next. What it settled
    before does not come again, also after a restart. Nothing of it is left in the old container."""
    topic = admin.create()
    for _ in range(3):
        admin.produce(topic, *[NOW] * 10)
    member = Speaker(admin, topic)

    async def goes_on() -> LivePartition:
        live = await begun(admin, topic)
        source = live.container
        assert acquired(await member.fetch(0, most=10)) == [(0, 9)]
        assert codes(await member.settle(1, (0, 3, ACCEPT), (4, 5, RELEASE))) == {0}
        await moved(admin, topic)
        assert live.container is not source
        assert await admin.broker.share.partitions.of(live.key, admin.slot(topic)) is live
        assert codes(await member.settle(2, (6, 9, ACCEPT))) == {0}
        assert acquired(await member.fetch(3)) == [(4, 5), (10, 29)]
        await reached(lambda: not rows(admin, source.id, topic))
        assert stored(admin, live).start == 4
        return live

    key = admin.run(goes_on()).key
    admin.restart()

    async def after() -> set[int]:
        return settled_in((await admin.broker.share.partitions.of(key, admin.slot(topic))).state)

    assert admin.run(after()) == {0, 1, 2, 3, 6, 7, 8, 9}


def test_several_groups_and_one_that_nobody_uses(admin: Admin) -> None:
    """Each group's row comes along, whether it is in use or not; what an earlier stay has left of others goes."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    slot, uuid = admin.slot(topic), admin.stream(topic).uuid
    idle, gone = PlaceKey("idle", uuid, 0), PlaceKey("gone", uuid, 0)

    async def moves() -> LivePartition:
        live = await begun(admin, topic)
        hold(live, admin, 0, 9)
        accept(live, 0, 1)
        here, there = container_of(admin, slot.container_id), container_of(admin, other(slot))
        await here.update(Put(PARTITIONS_TABLE, encode_key(idle), encode_partition(SharePartition(7))))
        await there.update(Put(PARTITIONS_TABLE, encode_key(gone), encode_partition(SharePartition(3))))
        assert await admin.broker.share.partitions.begun("gone") == []
        await moved(admin, topic)
        assert await admin.broker.share.partitions.begun("idle") == [idle]
        return live

    live = admin.run(moves())
    found = rows(admin, admin.slot(topic).container_id, topic)
    assert found.keys() == {encode_key(live.key), encode_key(idle)}
    assert decode_partition(found[encode_key(idle)]).start == 7
    assert stored(admin, live).start == 2


def test_what_is_settled_while_the_partition_is_frozen(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered once it is stored where the partition goes: a row in the old container would be left behind."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    member = Speaker(admin, topic)

    async def settles() -> tuple[Message, LivePartition]:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0)) == [(0, 9)]
        asking: list[asyncio.Task[Message]] = []

        async def settle() -> None:
            asking.append(asyncio.create_task(member.settle(1, (0, 4, ACCEPT))))
            await reached(lambda: live.state.start == 5)
            assert hand_on([live]) == [None]

        during(admin, monkeypatch, settle)
        source = live.container
        await moved(admin, topic)
        told = await asking[0]
        await reached(lambda: not rows(admin, source.id, topic))
        return told, live

    told, live = admin.run(settles())
    assert codes(told) == {0}
    assert stored(admin, live).start == 5


def test_a_freeze_that_comes_to_nothing(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition stays: what was settled meanwhile is stored here, and nothing is left where it was to go."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)

    async def stays() -> tuple[ErrorCode, LivePartition]:
        live = await begun(admin, topic)
        hold(live, admin, 0, 9)
        storing: list[asyncio.Task[ErrorCode]] = []

        async def settle() -> None:
            assert rows(admin, other(admin.slot(topic)), topic)
            accept(live, 0, 4)
            storing.append(asyncio.create_task(live.stored()))
            await asyncio.sleep(0)
            raise StorageFull("no room")

        during(admin, monkeypatch, settle)
        with pytest.raises(StorageFull):
            await moved(admin, topic)
        told = await storing[0]
        await reached(lambda: not rows(admin, other(admin.slot(topic)), topic))
        return told, live

    told, live = admin.run(stays())
    assert told is ErrorCode.none
    assert stored(admin, live).start == 5


def test_a_group_that_is_deleted_while_the_partition_is_frozen(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row is on its way to the other container: it is deleted there, too, so no group of that name begins by it."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    partitions = admin.broker.share.partitions

    async def deleted() -> None:
        await begun(admin, topic)
        deletions: list[asyncio.Task[None]] = []

        async def delete() -> None:
            deletions.append(asyncio.create_task(partitions.delete_groups(["g"])))
            await asyncio.sleep(0)

        during(admin, monkeypatch, delete)
        await moved(admin, topic)
        await deletions[0]

    admin.run(deleted())
    assert not rows(admin, 0, topic)
    assert not rows(admin, 1, topic)


def test_a_partition_that_is_to_move_while_a_group_is_deleted(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are being deleted are brought nowhere: the partition moves later."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    partitions = admin.broker.share.partitions

    async def refused() -> None:
        await begun(admin, topic)
        deletions = partitions._deletions
        delete, goes_on = deletions._delete_live, asyncio.Event()

        async def late(*arguments: Any) -> None:
            await goes_on.wait()
            await delete(*arguments)

        monkeypatch.setattr(deletions, "_delete_live", late)
        deleting = asyncio.create_task(partitions.delete_groups(["g"]))
        with pytest.raises(NotMovedYet, match="is being deleted"):
            await moved(admin, topic)
        goes_on.set()
        await deleting
        await moved(admin, topic)

    admin.run(refused())
    assert not rows(admin, 0, topic)
    assert not rows(admin, 1, topic)


def test_a_fetch_that_finds_the_partition_in_its_new_container_first(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers find a partition in its new container a moment before the move has ended: they wait for what comes along,
    or records that are held would be given to others."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    partitions, store = admin.broker.share.partitions, admin.broker.store

    async def found() -> tuple[LivePartition, LivePartition]:
        live = await begun(admin, topic)
        hold(live, admin, 0, 9)
        mover, asking = store.mover, list[asyncio.Task[LivePartition]]()
        arrived = mover._arrived

        async def late(move: Any) -> None:
            assert admin.slot(topic).container_id != live.container.id
            asking.append(asyncio.create_task(partitions.of(live.key, admin.slot(topic))))
            await asyncio.sleep(0)
            assert not asking[0].done()
            await arrived(move)

        monkeypatch.setattr(mover, "_arrived", late)
        await moved(admin, topic)
        return live, await asking[0]

    live, asked = admin.run(found())
    assert asked is live
    assert [(run.first, run.last, run.holder) for run in live.state.runs] == [(0, 9, "m")]


def test_a_decision_that_nobody_knows(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The freeze ends for those who wait, and not for the partition: they hear that its leader is elsewhere."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)

    async def waits() -> ErrorCode:
        live = await begun(admin, topic)
        hold(live, admin, 0, 9)
        slot, beside = admin.slot(topic), admin.broker.store.mover.beside
        live.container.freeze(slot, other(slot))
        beside.bring(slot, other(slot))
        accept(live, 0, 4)
        storing = asyncio.create_task(live.stored())
        await asyncio.sleep(0)
        beside.ended(slot)
        told = await storing
        assert admin.broker.share.partitions.find(live.key) is None
        live.container.thaw(slot)
        again = await admin.broker.share.partitions.of(live.key, slot)
        assert again.state.start == 0, "it was not stored, and nobody was told so"
        return told

    assert admin.run(waits()) is ErrorCode.not_leader_or_follower


def test_a_freeze_that_lasts(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the registry of a cluster is away nobody waits for ever: members hear that the leader is elsewhere, an
    administrator that the partition moves."""
    monkeypatch.setattr(live_partition, "FROZEN_S_MAX", 0.05)
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    partitions = admin.broker.share.partitions

    async def waits() -> ErrorCode:
        live = await begun(admin, topic)
        hold(live, admin, 0, 9)
        slot, beside = admin.slot(topic), admin.broker.store.mover.beside
        live.container.freeze(slot, other(slot))
        beside.bring(slot, other(slot))
        accept(live, 0, 4)
        told = await live.stored()
        with pytest.raises(SlotMoves):
            await partitions.delete_groups(["g"])
        with pytest.raises(SlotMoves):
            await partitions.of(PlaceKey("new", live.key.topic, 0), slot)
        live.container.thaw(slot)
        beside.ended(slot)
        assert await live.stored() is ErrorCode.none
        return told

    assert admin.run(waits()) is ErrorCode.not_leader_or_follower


class Walk:
    """Deliveries, acknowledgements and moves in any order, and what members were told to be settled."""

    def __init__(self, admin: Admin, topic: str, dice: Random) -> None:
        self._admin, self._topic, self._dice = admin, topic, dice
        self._key = PlaceKey("g", admin.stream(topic).uuid, 0)
        self._acts: list[asyncio.Task[None]] = []
        self._fails = False
        self.settled: set[int] = set()

    async def life(self, steps: int) -> None:
        """Some steps between two starts."""
        live = await self.find()
        if not self.settled:
            await live.begin_at(0)
        for _ in range(steps):
            await self._act(live)
            await self._move()
            assert await self.find() is live
            assert settled_in(live.state) == self.settled

    async def find(self) -> LivePartition:
        return await self._admin.broker.share.partitions.of(self._key, self._admin.slot(self._topic))

    async def frozen(self) -> None:
        """The partition is about to move, unless this is a move that fails."""
        live = self._admin.broker.share.partitions.find(self._key)
        assert live is not None
        self._acts.append(asyncio.create_task(self._act(live)))
        await asyncio.sleep(0)
        if self._fails:
            raise StorageFull("no room")

    async def _move(self) -> None:
        self._fails = self._dice.random() < 0.3
        try:
            await moved(self._admin, self._topic)
            assert not self._fails
        except StorageFull:
            assert self._fails
        await asyncio.gather(*self._acts)
        self._acts.clear()

    async def _act(self, live: LivePartition) -> None:
        dice, limits = self._dice, live.settings().limits
        if dice.random() < 0.6:
            hold(live, self._admin, live.state.start, max(live.state.start, dice.randrange(RECORDS)))
        held = [run for run in live.state.runs if run.state is State.HELD]
        if not held or dice.random() < 0.2:
            return
        run = dice.choice(held)
        first, last, is_last = run.first, dice.randint(run.first, run.last), run.count >= limits.deliveries
        verdict = dice.choice([Verdict.ACCEPT, Verdict.RELEASE])
        live.acknowledge("m", [Judgement(first, last, [verdict])])
        assert await live.stored() is ErrorCode.none
        if verdict is Verdict.ACCEPT or is_last:
            self.settled.update(range(first, last + 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(scaled(2, 50)))
def test_whatever_is_settled_stays_so(admin: Admin, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Deliveries, acknowledgements, releases, moves, freezes that come to nothing, and restarts in any order: what was
    told to be settled is so, and what was not is not."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * RECORDS)
    walk = Walk(admin, topic, Random(seed))
    for _ in range(2):
        during(admin, monkeypatch, walk.frozen)
        admin.run(walk.life(6))
        admin.restart()

    async def last() -> set[int]:
        return settled_in((await walk.find()).state)

    assert admin.run(last()) == walk.settled
