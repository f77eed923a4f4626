"""What a share group's members settle, on its way to the log: what waits for that, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from kio.schema.errors import ErrorCode

from core.errors import StorageFailure, StorageFull
from core.log.records import Operation, Put
from gateway.groups.modern.epochs import JOINING_EPOCH, LEAVING_EPOCH
from gateway.groups.share.format import GROUPS_TABLE, PARTITIONS_TABLE, PlaceKey, decode_partition, encode_key
from gateway.groups.share.group import Answer, Heartbeat
from gateway.groups.share.live_partition import LivePartition, hand_on
from gateway.groups.share.partition import Judgement, Span, State, Verdict
from gateway.refusals import Refusal
from gateway.wire.message import Message
from tests.gateway.apis.harness import KEYS, NOW, Admin, admin_of
from tests.gateway.groups.share.speaking import ACCEPT, RECORD_LIMIT
from tests.gateway.groups.share.test_delivery import LARGE, batch, produced

pytestmark = pytest.mark.slow

_T = TypeVar("_T")
WITHIN_S = 60


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with admin_of(tmp_path) as made:
        yield made


class HeldLog:
    """A topic's log, whose disk takes nothing until `let_go`. `records`: the rows of share-partitions in each record
    that was handed to it since."""

    def __init__(self, admin: Admin, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.container = admin.broker.store.hosted(admin.slot(topic)).container
        self._writer, self._held = self.container.log._writer, list[tuple[Any, Any]]()
        self._write, self._submit = self._writer.write, self.container.submit
        self._monkeypatch = monkeypatch
        self.records: list[int] = []
        monkeypatch.setattr(self.container, "submit", self._submitted)

    def hold(self) -> None:
        self._monkeypatch.setattr(self._writer, "write", lambda *args: self._held.append(args))

    def let_go(self) -> None:
        self._monkeypatch.setattr(self._writer, "write", self._write)
        for args in self._held:
            self._write(*args)
        self._held.clear()

    def _submitted(self, operations: Sequence[Operation]) -> asyncio.Future[None]:
        rows = [one for one in operations if isinstance(one, Put) and one.table == PARTITIONS_TABLE]
        if rows:
            self.records.append(len(rows))
        return self._submit(operations)


class Speaker:
    """A member "m" of the group "g", on a connection of its own kind: one request after the other."""

    def __init__(self, admin: Admin, *topics: str) -> None:
        self._admin = admin
        self._topics = topics

    def fetch(self, epoch: int, *batches: tuple[int, int, int], most: int = 100) -> Coroutine[Any, Any, Message]:
        limits = {"max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20, "max_records": most, "batch_size": most}
        said = {**self._said(epoch, batches), **limits, "share_acquire_mode": RECORD_LIMIT, "is_renew_ack": False}
        return self._admin._client.ask(KEYS["ShareFetch"], 2, {**said, "forgotten_topics_data": []})

    def settle(self, epoch: int, *batches: tuple[int, int, int]) -> Coroutine[Any, Any, Message]:
        said = {**self._said(epoch, batches), "is_renew_ack": False}
        return self._admin._client.ask(KEYS["ShareAcknowledge"], 2, said)

    def _said(self, epoch: int, batches: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
        said = [
            {"first_offset": first, "last_offset": last, "acknowledge_types": [how]} for first, last, how in batches
        ]
        topics = [
            {
                "topic_id": self._admin.stream(topic).uuid,
                "partitions": [
                    {"partition_index": number, "acknowledgement_batches": said}
                    for number in range(self._admin.stream(topic).slot_count)
                ],
            }
            for topic in self._topics
        ]
        return {"group_id": "g", "member_id": "m", "share_session_epoch": epoch, "topics": topics}


async def begun(admin: Admin, topic: str, partition: int = 0) -> LivePartition:
    """A partition that the group "g" reads from its start."""
    key = PlaceKey("g", admin.stream(topic).uuid, partition)
    live = await admin.broker.share.partitions.of(key, admin.slot(topic, partition))
    assert await live.begin_at(0) == ErrorCode.none
    return live


async def reached(holds: Callable[[], bool]) -> None:
    """Other work goes on until this holds."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():  # noqa: ASYNC110 - it holds after some turns of the loop
            await asyncio.sleep(0)


def taken(live: LivePartition, first: int, last: int) -> bool:
    return any(run.state is State.HELD and (run.first, run.last) == (first, last) for run in live.state.runs)


def stored_start(admin: Admin, live: LivePartition) -> int:
    """Where a restart would begin."""
    row = live.container.table(PARTITIONS_TABLE).get(encode_key(live.key))
    assert row is not None
    return decode_partition(row).start


def acquired(answer: Message) -> list[tuple[int, int]]:
    return [
        (one.first_offset, one.last_offset)
        for topic in answer.responses
        for partition in topic.partitions
        for one in partition.acquired_records
    ]


def give(live: LivePartition, admin: Admin, last: int) -> None:
    """The member holds the records up to this one."""
    live.state.acquire("m", 0, [Span(0, last)], last + 1, live.settings().limits, admin.broker.clock.monotonic_s())


def accept(live: LivePartition, first: int, last: int) -> None:
    live.acknowledge("m", [Judgement(first, last, [Verdict.ACCEPT])])


# An answer that waits


def test_records_are_found_while_acknowledgements_are_stored(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member is answered when what it settled is durable, not earlier; its next records are found meanwhile. They
    count as output that waits, and the log gets its memory back if it asks."""
    topic = admin.create()
    for _ in range(2):
        produced(admin, topic, batch(0, 5, LARGE))
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)
    host = admin.broker._server.host

    async def answered() -> Message:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0, most=5)) == [(0, 4)]
        log.hold()
        asking = asyncio.create_task(member.fetch(1, (0, 4, ACCEPT)))
        await reached(lambda: taken(live, 5, 9) and bool(host.with_views))
        (answer,) = host.with_views
        assert not asking.done()
        assert stored_start(admin, live) == 0
        assert host.output_budget.used == len(batch(0, 5, LARGE))
        assert answer.copy_views() == len(batch(0, 5, LARGE))
        log.let_go()
        told = await asking
        assert stored_start(admin, live) == 5
        return told

    told = admin.run(answered())
    assert acquired(told) == [(5, 9)]
    assert bytes(told.responses[0].partitions[0].records)[:8] == (5).to_bytes(8, "big")
    assert not host.with_views
    assert host.output_budget.used == 0


def test_a_session_that_ends_while_acknowledgements_are_stored(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its member held is others' by then, so its answer has no records."""
    topic = admin.create()
    for _ in range(2):
        produced(admin, topic, batch(0, 5))
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)

    async def answered() -> tuple[Message, LivePartition]:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0, most=5)) == [(0, 4)]
        log.hold()
        asking = asyncio.create_task(member.fetch(1, (0, 4, ACCEPT)))
        await reached(lambda: taken(live, 5, 9))
        sessions = admin.broker.share.sessions
        sessions.end(sessions._sessions["g", "m"])
        log.let_go()
        return await asking, live

    told, live = admin.run(answered())
    assert acquired(told) == []
    assert not taken(live, 5, 9)


def test_locks_that_run_out_while_acknowledgements_are_stored(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What their member would have got is another's by then, so its answer has no records."""
    topic = admin.create()
    for _ in range(2):
        produced(admin, topic, batch(0, 5))
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)
    clock = admin.broker.clock
    now_s = clock.monotonic_s

    async def answered() -> tuple[Message, LivePartition]:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0, most=5)) == [(0, 4)]
        log.hold()
        asking = asyncio.create_task(member.fetch(1, (0, 4, ACCEPT)))
        await reached(lambda: taken(live, 5, 9))
        lock_s = live.settings().limits.lock_s
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s() + lock_s)
        live.state.expire(live.settings().limits, clock.monotonic_s())
        live.state.acquire("n", 5, [Span(5, 9)], 5, live.settings().limits, clock.monotonic_s())
        log.let_go()
        return await asking, live

    told, live = admin.run(answered())
    assert told.responses[0].partitions[0].acknowledge_error_code == 0
    assert acquired(told) == []
    assert {run.holder for run in live.state.runs if run.state is State.HELD} == {"n"}


@pytest.mark.parametrize("api", ["fetch", "settle"])
def test_several_partitions_share_a_record_of_the_log(admin: Admin, monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    topic = admin.create(3)
    for partition in range(3):
        admin.produce(topic, *[NOW] * 4, partition=partition)
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)

    async def settled() -> list[int]:
        lives = [await begun(admin, topic, partition) for partition in range(3)]
        assert sorted(acquired(await member.fetch(0))) == [(0, 3)] * 3
        log.records.clear()
        told = await (member.fetch if api == "fetch" else member.settle)(1, (0, 3, ACCEPT))
        assert {partition.error_code for one in told.responses for partition in one.partitions} == {0}
        return [stored_start(admin, live) for live in lives]

    assert admin.run(settled()) == [4, 4, 4]
    assert log.records == [3]


# One write on its way


def test_what_changes_while_a_row_is_on_its_way(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes with the next row, which all who wait for it share; the first is not held up by that."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    log = HeldLog(admin, topic, monkeypatch)

    async def settled() -> None:
        live = await begun(admin, topic)
        give(live, admin, 9)
        log.records.clear()
        log.hold()
        accept(live, 0, 1)
        (first,) = hand_on([live])
        assert first is not None
        accept(live, 2, 3)
        assert hand_on([live]) == [None], "a row is on its way"
        later = [asyncio.create_task(live.stored())]
        await asyncio.sleep(0)
        accept(live, 4, 5)
        assert hand_on([live]) == [None], "somebody is about to write"
        later.append(asyncio.create_task(live.stored()))
        await asyncio.sleep(0)
        assert log.records == [1]
        log.let_go()
        await first
        assert stored_start(admin, live) >= 2
        assert await asyncio.gather(*later) == [ErrorCode.none] * 2
        assert stored_start(admin, live) == 6

    admin.run(settled())
    assert log.records == [1, 1]


@pytest.mark.parametrize("ends", ["refused", "failed", "cancelled"])
def test_what_did_not_land_goes_with_the_next(admin: Admin, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    """The log refuses a row, or its write fails, or the request that waited for it is cut off."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    log = HeldLog(admin, topic, monkeypatch)

    async def settled() -> int:
        live = await begun(admin, topic)
        give(live, admin, 9)
        accept(live, 0, 1)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def submit(_: Sequence[Operation]) -> asyncio.Future[None]:
            if ends == "refused":
                raise StorageFull("it has no room")
            return lost

        with monkeypatch.context() as once:
            once.setattr(log.container, "submit", submit)
            (landing,) = hand_on([live])
        assert landing is (None if ends == "refused" else lost)
        if ends == "failed":
            lost.set_exception(StorageFailure("its disk is gone"))
        elif ends == "cancelled":
            lost.cancel()
        assert await live.stored() == ErrorCode.none
        return stored_start(admin, live)

    assert admin.run(settled()) == 2


def test_a_member_hears_that_its_row_was_refused(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its acknowledgement is told to have failed, its records come all the same."""
    topic = admin.create()
    for _ in range(2):
        produced(admin, topic, batch(0, 5))
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)

    def refused(_: Sequence[Operation]) -> asyncio.Future[None]:
        raise StorageFull("it has no room")

    async def answered() -> Message:
        await begun(admin, topic)
        await member.fetch(0, most=5)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(log.container, "submit", refused)
            return await member.fetch(1, (0, 4, ACCEPT))

    told = admin.run(answered())
    assert told.responses[0].partitions[0].acknowledge_error_code != 0
    assert acquired(told) == [(5, 9)]


# Who is woken


def test_an_acceptance_wakes_nobody_at_the_end_of_the_log(admin: Admin) -> None:
    """Members that wait for new records are woken when some are given back, or when there is room for more; that others
    were accepted is nothing to them."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * 10)
    woken: list[str] = []

    async def woke() -> None:
        live = await begun(admin, topic)
        give(live, admin, 9)
        live.waiters[lambda: woken.append("woken")] = None
        accept(live, 0, 3)
        assert woken == []
        live.acknowledge("m", [Judgement(4, 5, [Verdict.RELEASE])])
        assert woken == ["woken"]
        await live.stored()

    admin.run(woke())


def test_room_for_more_wakes(admin: Admin) -> None:
    """As many records were in flight as may be: one that is settled makes room."""
    topic = admin.create()
    woken: list[str] = []

    async def woke() -> None:
        live = await begun(admin, topic)
        most = live.settings().limits.in_flight
        give(live, admin, most - 1)
        assert live.state.is_full(live.settings().limits)
        live.waiters[lambda: woken.append("woken")] = None
        accept(live, 0, 0)
        await live.stored()

    admin.run(woke())
    assert woken == ["woken"]


def said(member_id: str, epoch: int) -> Heartbeat:
    names = frozenset({"t"}) if epoch == JOINING_EPOCH else None
    return Heartbeat(
        member_id=member_id, epoch=epoch, rack_id=None, names=names, client_id="c", client_host="127.0.0.1"
    )


def test_members_that_leave_while_their_group_is_deleted(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their epochs wait behind one that is on its way, and the deletion does, too: nothing of them is stored behind
    that, or a restart would find the group again."""
    log = HeldLog(admin, admin.create(name="t"), monkeypatch)

    async def scenario() -> None:
        share = admin.broker.share
        coordinator = share.coordinators.of("g")
        await coordinator.heartbeat("g", said("one", JOINING_EPOCH))
        log.hold()
        others = [asyncio.create_task(coordinator.heartbeat("g", said("other", JOINING_EPOCH)))]
        await reached(lambda: bool(coordinator._writes))
        for member in ("one", "other"):
            others.append(asyncio.create_task(coordinator.heartbeat("g", said(member, LEAVING_EPOCH))))
        group = coordinator.get("g")
        assert group is not None
        await reached(lambda: group.is_empty)
        deleting = asyncio.create_task(share.delete(["g"]))
        await reached(lambda: coordinator.get("g") is None)
        log.let_go()
        assert await deleting == {"g": ErrorCode.none}
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert all(isinstance(outcome, Answer | Refusal) for outcome in outcomes)
        await log.container.all_durable()
        assert log.container.table(GROUPS_TABLE).get(b"g") is None

    admin.run(scenario())


def test_no_member_comes_while_an_operator_sets_where_a_group_begins(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lose what it holds of a partition whose turn comes later."""
    log = HeldLog(admin, admin.create(2, name="t"), monkeypatch)

    async def scenario() -> None:
        coordinator = admin.broker.share.coordinators.of("g")
        await coordinator.ensure("g")
        log.hold()
        places = [{"partition_index": number, "start_offset": 0} for number in range(2)]
        topics = [{"topic_name": "t", "partitions": places}]
        altering = asyncio.create_task(
            admin._client.ask(KEYS["AlterShareGroupOffsets"], 0, {"group_id": "g", "topics": topics})
        )
        await reached(lambda: bool(log.records))
        joining = asyncio.create_task(coordinator.heartbeat("g", said("m", JOINING_EPOCH)))
        await asyncio.sleep(0)
        log.let_go()
        answer = await altering
        assert {one.error_code for told in answer.responses for one in told.partitions} == {ErrorCode.none}
        with pytest.raises(Refusal, match="coordinator_load_in_progress"):
            await joining
        assert (await coordinator.heartbeat("g", said("m", JOINING_EPOCH))).epoch > 0

    admin.run(scenario())
