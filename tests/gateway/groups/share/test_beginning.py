"""A share group begins many partitions at once: it waits for the log once for all of them, not for each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.errors import StorageFull
from core.log.records import Operation
from core.streams.live import Slot
from gateway.apis import share_fetch
from gateway.dispatch.context import RequestContext
from gateway.groups.share import beginning, partitions
from gateway.groups.share.beginning import Beginnings
from gateway.groups.share.format import PARTITIONS_TABLE, PlaceKey, decode_partition, encode_key
from gateway.security.acls import Operation as Operation_
from gateway.security.acls import ResourceType
from gateway.wire.message import Message
from tests.core.support import DEADLINE_S
from tests.gateway.apis.harness import NOW, Admin, admin_of
from tests.gateway.groups.share.test_storing import HeldLog, Speaker, acquired, begun, reached

pytestmark = pytest.mark.slow

TOGETHER = 4
MANY = 60


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Admin]:
    for module in (share_fetch, beginning):
        monkeypatch.setattr(module, "ROWS_TOGETHER_MAX", TOGETHER)
    with admin_of(tmp_path) as made:
        yield made


class Group:
    """The share-partitions of a group and a topic."""

    def __init__(self, admin: Admin, topic: str) -> None:
        self._partitions = admin.broker.share.partitions
        self._table = admin.broker.store.home.table(PARTITIONS_TABLE)
        stream = admin.stream(topic)
        self.places = [(PlaceKey("g", stream.uuid, number), stream.slot(number)) for number in range(stream.slot_count)]

    async def begin(self) -> None:
        await self._partitions.begin(self.places)

    @property
    def live(self) -> list[int]:
        return [number for number, (key, _) in enumerate(self.places) if self._partitions.find(key) is not None]

    @property
    def starts(self) -> dict[int, int]:
        """Where a restart would begin."""
        rows = {number: self._table.get(encode_key(key)) for number, (key, _) in enumerate(self.places)}
        return {number: decode_partition(row).start for number, row in rows.items() if row is not None}


def codes(answer: Message) -> list[int]:
    return [partition.error_code for topic in answer.responses for partition in topic.partitions]


def test_rows_share_records_of_the_log(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = admin.create(3 * TOGETHER)
    log, group = HeldLog(admin, topic, monkeypatch), Group(admin, topic)
    answer = admin.run(Speaker(admin, topic).fetch(0))

    assert codes(answer) == [ErrorCode.none] * 3 * TOGETHER
    assert log.records == [TOGETHER] * 3
    assert sorted(group.starts) == list(range(3 * TOGETHER))


def test_no_more_than_a_fetch_comes_to(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose first partition has as many records as were asked for begins no other; the next ones begin them."""
    topic = admin.create(3 * TOGETHER)
    admin.produce(topic, *[NOW] * 4)
    member = Speaker(admin, topic)

    async def fetched() -> list[list[int]]:
        await begun(admin, topic)
        log, told = HeldLog(admin, topic, monkeypatch), []
        for epoch in range(2):
            log.records.clear()
            assert acquired(await member.fetch(epoch, most=2)) == [(2 * epoch, 2 * epoch + 1)]
            told.append(list(log.records))
        return told

    assert admin.run(fetched()) == [[], [TOGETHER] * 2 + [TOGETHER - 1]]


def test_one_that_is_about_to_leave(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins to while its row waits for those of others: these are stored, its own is not."""
    topic = admin.create(3)
    log, group = HeldLog(admin, topic, monkeypatch), Group(admin, topic)

    async def both() -> None:
        beginning = asyncio.create_task(group.begin())
        await reached(lambda: bool(admin.broker.share.partitions._beginnings._waiting))
        log.container.freeze(group.places[1][1], 1)
        await beginning
        log.container.thaw(group.places[1][1])

    admin.run(both())
    assert log.records == [2]
    assert (group.live, sorted(group.starts)) == ([0, 2], [0, 2])


def test_one_that_an_operator_begins(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its row waits for those of others: a restart finds the operator's place, too."""
    topic = admin.create(3)
    log, group = HeldLog(admin, topic, monkeypatch), Group(admin, topic)

    async def both() -> None:
        beginning = asyncio.create_task(group.begin())
        await reached(lambda: bool(admin.broker.share.partitions._beginnings._waiting))
        assert await admin.broker.share.partitions.begin_at(*group.places[1], 7) == ErrorCode.none
        await beginning

    admin.run(both())
    assert sorted(log.records) == [1, 2]
    assert group.starts == {0: 0, 1: 7, 2: 0}


def test_rows_that_the_log_refuses_together(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes by itself, as they may be large."""
    topic = admin.create(TOGETHER)
    group, container = Group(admin, topic), admin.broker.store.home
    submit, tried = container.submit, list[int]()

    def refused(operations: Sequence[Operation]) -> asyncio.Future[None]:
        tried.append(len(operations))
        if len(operations) > 1:
            raise StorageFull("it has no room for all of them")
        return submit(operations)

    monkeypatch.setattr(container, "submit", refused)
    admin.run(group.begin())

    assert tried == [TOGETHER, 1, 1, 1, 1]
    assert group.live == sorted(group.starts) == list(range(TOGETHER))


def test_a_log_that_takes_nothing(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is tried with others, alone, and once more for the answer that says so: not again with each that follows."""
    topic = admin.create(3 * TOGETHER)
    tried: list[int] = []

    def refused(operations: Sequence[Operation]) -> asyncio.Future[None]:
        tried.append(len(operations))
        raise StorageFull("it has no room")

    monkeypatch.setattr(admin.broker.store.home, "submit", refused)
    answer = admin.run(Speaker(admin, topic).fetch(0))

    assert all(codes(answer))
    assert tried == [TOGETHER, *[1] * 2 * TOGETHER] * 3


def test_no_more_than_there_may_be(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are on their way are counted, too."""
    monkeypatch.setattr(partitions, "PLACES_MAX", TOGETHER + 1)
    topic = admin.create(3 * TOGETHER)
    answer = admin.run(Speaker(admin, topic).fetch(0))

    refused = [code for code in codes(answer) if code]
    assert refused == [ErrorCode.policy_violation] * (2 * TOGETHER - 1)
    assert len(Group(admin, topic).live) == TOGETHER + 1


def test_one_look_for_all_who_ask(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """At what other processes have decided; who asks after it has begun has another."""
    store, looks, goes_on = admin.broker.store, list[None](), asyncio.Event()
    catch_up = store.catch_up

    async def counted() -> None:
        looks.append(None)
        await goes_on.wait()
        await catch_up()

    monkeypatch.setattr(store, "catch_up", counted)
    beginnings = Beginnings(store)

    async def asked() -> None:
        async with asyncio.TaskGroup() as asking:
            for _ in range(TOGETHER):
                asking.create_task(beginnings.catch_up())
            await reached(lambda: bool(looks))
            assert len(looks) == 1
            for _ in range(TOGETHER):
                asking.create_task(beginnings.catch_up())
            await reached(lambda: len(looks) == 2)
            goes_on.set()

    admin.run(asked())
    assert len(looks) == 2


# Turns of a fetch over very many


def test_others_have_their_turn(admin: Admin, given: list[None]) -> None:
    """Each of its partitions is gone through in turns: when the request is checked, when it is taken into the session,
    asked for acknowledgements, looked at, put into the answer as new, and told."""
    topic = admin.create(MANY)
    admin.run(Speaker(admin, topic).fetch(0))

    assert len(given) >= 6 * MANY


def test_watches_end_in_turns(admin: Admin, monkeypatch: pytest.MonkeyPatch, given: list[None]) -> None:
    monkeypatch.setattr(share_fetch, "UNWATCHED_AT_ONCE", 10)
    topic = admin.create(MANY)
    ended, unwatch = list[int](), Slot.unwatch

    def noted(slot: Slot, watcher: share_fetch._Fetch) -> None:
        ended.append(len(given))
        unwatch(slot, watcher)

    monkeypatch.setattr(Slot, "unwatch", noted)
    admin.run(Speaker(admin, topic).fetch(0))

    assert len(ended) == MANY
    assert max(Counter(ended).values()) == 10
    assert all(slot.watchers is None for _, slot in Group(admin, topic).places)


def test_rows_that_meet_a_defect(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait for them go on: deletions wait for all that begins. The next fetch begins them again."""
    topic = admin.create(TOGETHER)
    group = Group(admin, topic)

    def broken(operations: Sequence[Operation]) -> asyncio.Future[None]:
        raise ValueError("a defect")

    async def begin() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(admin.broker.store.home, "submit", broken)
            await asyncio.wait_for(group.begin(), DEADLINE_S)
        assert group.starts == {}
        await group.begin()

    admin.run(begin())
    assert sorted(group.starts) == list(range(TOGETHER))


def test_a_denial_is_told_once(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at what comes next asks for nothing: it is the answer that denies."""
    topic, asked = admin.create(TOGETHER), list[str]()

    def denied(ctx: RequestContext, operation: Operation_, kind: ResourceType, name: str = "") -> bool:
        if kind is ResourceType.TOPIC:
            asked.append(name)
        return kind is not ResourceType.TOPIC

    monkeypatch.setattr(RequestContext, "may", denied)
    monkeypatch.setattr(RequestContext, "has", lambda *_: False)
    answer = admin.run(Speaker(admin, topic).fetch(0))

    assert codes(answer) == [ErrorCode.topic_authorization_failed] * TOGETHER
    assert asked == [topic] * TOGETHER
