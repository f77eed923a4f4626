"""Groups and topics with very many offsets are deleted in steps: none is long, and nobody sees a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.errors import StorageFull
from core.log.records import Operation
from core.streams.live import Stream
from gateway.groups.consumer.messages import Heartbeat
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import GROUPS_TABLE, OFFSETS_TABLE, OffsetKey
from tests.gateway.groups.services import Services, run, serving

pytestmark = pytest.mark.slow

AT_ONCE = 10
MANY = 35
WEEK_S = 7 * 24 * 3_600.0
JOINING = Heartbeat(member_id="m", epoch=0, names=frozenset({"t"}), rebalance_timeout_ms=60_000, owned={})


class Records:
    """The records of a container's log in which offsets are deleted: how many, and whether the group with them.

    `before` is called before each is handed to the log. As long as `held` is there and not set, none of them is told to
    be durable; with `holds_commits` none that commits offsets instead.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.with_group: list[bool] = []
        self.before: Callable[[int], None] = lambda _: None
        self.under_way = self.most_under_way = 0
        self.held: asyncio.Event | None = None
        self.holds_commits = False
        submit = Container.submit

        def noted(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
            tables = [getattr(one, "table", "") for one in operations if not hasattr(one, "value")]
            if OFFSETS_TABLE not in tables:
                is_commit = any(getattr(one, "table", "") == OFFSETS_TABLE for one in operations)
                return self._held(submit(container, operations), is_commit and self.holds_commits)
            self.before(len(self.sizes))
            self.sizes.append(tables.count(OFFSETS_TABLE))
            self.with_group.append(GROUPS_TABLE in tables)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            logged = self._held(submit(container, operations), not self.holds_commits)
            logged.add_done_callback(self._landed)
            return logged

        monkeypatch.setattr(Container, "submit", noted)

    def _landed(self, _: asyncio.Future[None]) -> None:
        self.under_way -= 1

    def _held(self, logged: asyncio.Future[None], is_meant: bool) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._released(logged)) if is_meant and self.held is not None else logged

    async def _released(self, logged: asyncio.Future[None]) -> None:
        assert self.held is not None
        await self.held.wait()
        await logged


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    for module in ("deleted_topics", "service"):
        monkeypatch.setattr(f"gateway.groups.offsets.{module}.OFFSETS_AT_ONCE", AT_ONCE)
    return Records(monkeypatch)


async def commit_many(services: Services, group: str, topic: str, count: int = MANY) -> None:
    assert services.groups.admission.commit(group, "", None, -1) is ErrorCode.none
    commits = [OffsetCommit(topic, number, 7, -1, "") for number in range(count)]
    assert set(await services.groups.offsets.commit(group, commits)) == {ErrorCode.none}


async def closed(services: Services, group: str) -> None:
    """Its deletion has begun."""
    while not services.groups.is_closed(group):  # noqa: ASYNC110 - it is after a turn of the loop
        await asyncio.sleep(0)


def stream_of(services: Services, topic: str) -> Stream:
    stream = services.topics.get(topic)
    assert stream is not None
    return stream


# Groups


def test_a_large_group_goes_in_steps(tmp_path: Path, records: Records) -> None:
    """The group itself goes with the last; a restart finds nothing of it."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert services.groups.get("g") is None
            assert services.offsets("g") == {}
        async with serving(tmp_path) as services:
            assert services.groups.get("g") is None

    run(scenario())
    assert sum(records.sizes) == MANY
    assert max(records.sizes) == AT_ONCE
    assert records.most_under_way == 1
    assert records.with_group == [False, False, False, True]


def test_a_small_group_goes_in_one_step(tmp_path: Path, records: Records) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t", AT_ONCE)
            assert await services.groups.delete_group("g") is ErrorCode.none

    run(scenario())
    assert (records.sizes, records.with_group) == ([AT_ONCE], [True])


def test_nothing_happens_to_a_group_that_goes(tmp_path: Path, records: Records) -> None:
    """No member joins, nothing is committed, or deleted once more, until it is gone: clients ask again, and find a new
    group."""
    load = ErrorCode.coordinator_load_in_progress

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            groups = services.groups
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            deletion = asyncio.create_task(groups.delete_group("g"))
            await closed(services, "g")
            assert groups.admission.commit("g", "", None, -1) is load
            assert groups.admission.transactional_commit("g", "", None, -1) is load
            assert groups.admission.delete("g") is load
            assert (await services.join("g")).error is load
            assert await groups.delete_group("g") is load
            assert not deletion.done()

            assert await deletion is ErrorCode.none
            assert await services.commit("g", "t", 1, 5) is ErrorCode.none
            assert services.offsets("g") == {("t", 1): 5}

    run(scenario())


def test_two_deletions_when_the_last_member_has_left(tmp_path: Path, records: Records) -> None:
    """Both wait for what the member has left behind to be stored. One of them deletes the group then: the other would
    delete what is committed to the next group of its id."""

    async def scenario() -> None:
        async with serving(tmp_path, "group.consumer.assignment.interval.ms=0") as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            await services.groups.consumer_heartbeat("g", JOINING)
            leaving = asyncio.create_task(services.groups.consumer_heartbeat("g", Heartbeat(member_id="m", epoch=-1)))
            await asyncio.sleep(0)
            deletions = asyncio.gather(*(services.groups.delete_group("g") for _ in range(2)))
            assert sorted(await deletions) == [ErrorCode.none, ErrorCode.coordinator_load_in_progress]
            await leaving
            assert services.groups.get("g") is None

    run(scenario())
    assert sum(records.sizes) == MANY
    assert records.most_under_way == 1


def test_a_failure_leaves_the_group(tmp_path: Path, records: Records) -> None:
    """What was deleted is gone, what was not is there, and the group serves; a second try deletes it."""

    def fails(step: int) -> None:
        if step == 2:
            raise StorageFull("the disk is full")

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.before = fails
            assert await services.groups.delete_group("g") is not ErrorCode.none
            assert len(services.offsets("g")) == MANY - 2 * AT_ONCE
            assert services.groups.get("g") is not None
            assert await services.commit("g", "t", 0, 9) is ErrorCode.none
            records.before = lambda _: None
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert services.groups.get("g") is None

    run(scenario())


def test_a_crash_leaves_the_group(tmp_path: Path, records: Records) -> None:
    """Nobody was told that it is gone, and it is there, with the offsets of steps that did not come to be."""

    async def scenario() -> None:
        crash = asyncio.Event()

        def crashes(step: int) -> None:
            if step == 2:
                crash.set()
                raise StorageFull("nothing gets to the disk any more")

        async with serving(tmp_path, clean=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.before = crashes
            deletion = asyncio.create_task(services.groups.delete_group("g"))
            await crash.wait()
            with suppress(asyncio.CancelledError):
                deletion.cancel()
                await deletion
        records.before = lambda _: None
        async with serving(tmp_path) as services:
            assert services.groups.get("g") is not None
            assert len(services.offsets("g")) == MANY - 2 * AT_ONCE
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert services.groups.get("g") is None

    run(scenario())


def test_a_stop_waits_for_a_group_that_goes(tmp_path: Path, records: Records) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            deletion = asyncio.create_task(services.groups.delete_group("g"))
            await closed(services, "g")
        assert await deletion is ErrorCode.none
        async with serving(tmp_path) as services:
            assert services.groups.get("g") is None

    run(scenario())


# Topics


@pytest.mark.parametrize("writes_ids", [False, True])
def test_offsets_of_a_deleted_topic_go_in_steps(tmp_path: Path, records: Records, writes_ids: bool) -> None:
    """Those of all groups; from the first step on nobody sees any of them."""

    async def scenario() -> None:
        seen: list[int] = []
        async with serving(tmp_path, writes_ids=writes_ids) as services:
            await services.create("t", "u", partitions=MANY)
            for group in ("g", "h"):
                await commit_many(services, group, "t")
                await services.commit(group, "u", 0, 1)
            records.before = lambda _: seen.append(len(services.offsets("g")) + len(services.offsets("h")))
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            assert [services.offsets(group) for group in ("g", "h")] == [{("u", 0): 1}] * 2
            await services.groups.offsets.finish()
        assert set(seen) == {2}

    run(scenario())
    assert sum(records.sizes) == 2 * MANY
    assert max(records.sizes) == AT_ONCE
    assert records.most_under_way == 1


def test_a_new_topic_of_the_name_need_not_wait(tmp_path: Path, records: Records) -> None:
    """It comes while the offsets of the old one go, and begins without; what is committed to it stays, over a restart,
    also where the old one had an offset that has not gone yet."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.held = asyncio.Event()
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            await services.create("t", partitions=MANY)
            assert services.offsets("g") == {}
            assert len(services.store.table(OFFSETS_TABLE)) > 0
            for number in (0, MANY - 1):
                assert await services.commit("g", "t", number, 5) is ErrorCode.none
            kept = {("t", 0): 5, ("t", MANY - 1): 5}
            assert services.offsets("g") == kept
            records.held.set()
            await services.groups.offsets.finish()
            assert services.offsets("g") == kept
            assert len(services.store.table(OFFSETS_TABLE)) == 2
        async with serving(tmp_path) as services:
            assert services.offsets("g") == kept

    run(scenario())


def test_a_commit_on_its_way_when_the_topic_goes(tmp_path: Path, records: Records) -> None:
    """It is of the old topic, although it lands when there is a new one."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            records.held, records.holds_commits = asyncio.Event(), True
            commit = asyncio.create_task(services.commit("g", "t", 1, 7))
            await asyncio.sleep(0)
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            await services.create("t")
            assert not commit.done()
            records.held.set()
            assert await commit is ErrorCode.none
            assert services.offsets("g") == {}
            await services.groups.offsets.finish()
            assert len(services.store.table(OFFSETS_TABLE)) == 0

    run(scenario())


def test_what_a_transaction_commits_after_a_step(tmp_path: Path) -> None:
    """Its end is handed to the log at once; a step that was made before it in the same turn of the loop lies before it
    there, too, and so does an expiry."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 7)
            groups = services.groups
            ending, _ = groups.offsets.judge("g", [OffsetCommit("t", 0, 9, -1, "")])
            step = groups._journal.delete_offsets(list(ending))
            logged = services.store.home.submit(groups.offsets.puts(ending))
            groups.offsets.submitted(ending, logged)
            assert await step is ErrorCode.none
            await logged
            assert services.offsets("g") == {("t", 0): 9}

    run(scenario())


def test_a_topic_that_goes_again_meanwhile(tmp_path: Path, records: Records) -> None:
    """The offsets of both go, and those of the third topic of the name stay."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.held = asyncio.Event()
            await services.topics.delete([stream_of(services, "t")])
            await services.create("t", partitions=MANY)
            assert await services.commit("g", "t", MANY - 1, 5) is ErrorCode.none
            await services.topics.delete([stream_of(services, "t")])
            await services.create("t", partitions=MANY)
            assert services.offsets("g") == {}
            assert await services.commit("g", "t", MANY - 2, 6) is ErrorCode.none
            records.held.set()
            await services.groups.offsets.finish()
            assert services.offsets("g") == {("t", MANY - 2): 6}
            assert len(services.store.table(OFFSETS_TABLE)) == 1

    run(scenario())


def test_offsets_of_a_new_topic_are_passed_over_in_turns(
    tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are beside those that go: a turn looks at so many, and others run before the next one."""
    monkeypatch.setattr("gateway.groups.offsets.deleted_topics.LOOKED_AT_ONCE", AT_ONCE)
    looked_at = [0]
    of_dead = CommittedOffsets.of_dead

    def noted(committed: CommittedOffsets, topic: str) -> Iterator[OffsetKey | None]:
        for key in of_dead(committed, topic):
            looked_at[-1] += 1
            yield key

    async def others() -> None:
        while True:
            looked_at.append(0)
            await asyncio.sleep(0)

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", partitions=2 * MANY)
            await commit_many(services, "g", "t", 2 * MANY)
            records.before = crashes
            await services.topics.delete([stream_of(services, "t")])
            await services.create("t", partitions=2 * MANY)
            await commit_many(services, "g", "t", 2 * MANY - 1)
        records.before = lambda _: None
        monkeypatch.setattr(CommittedOffsets, "of_dead", noted)
        running = asyncio.create_task(others())
        async with serving(tmp_path) as services:
            await services.groups.offsets.finish()
            assert len(services.store.table(OFFSETS_TABLE)) == 2 * MANY - 1
        running.cancel()

    def crashes(_: int) -> None:
        raise StorageFull("nothing gets to the disk any more")

    run(scenario())
    assert sum(looked_at) >= 2 * MANY
    assert max(looked_at) <= AT_ONCE
    assert sum(records.sizes) == 1


@pytest.mark.parametrize("is_new", [False, True])
def test_a_crash_between_the_steps(tmp_path: Path, records: Records, is_new: bool) -> None:
    """Of a topic that was deleted nothing is seen after it, also if a new one of the name was made before the crash.
    The start deletes the rest, and what was committed to the new topic stays."""

    def crashes(step: int) -> None:
        if step == 2:
            raise StorageFull("nothing gets to the disk any more")

    async def scenario() -> None:
        kept = {("t", MANY - 1): 5} if is_new else {}
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.before = crashes
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            if is_new:
                await services.create("t", partitions=MANY)
                assert await services.commit("g", "t", MANY - 1, 5) is ErrorCode.none
            await services.groups.offsets.finish()
            assert len(services.store.table(OFFSETS_TABLE)) == MANY - 2 * AT_ONCE
        records.before = lambda _: None
        async with serving(tmp_path) as services:
            assert services.offsets("g") == kept
            await services.groups.offsets.finish()
            assert services.offsets("g") == kept
            assert len(services.store.table(OFFSETS_TABLE)) == len(kept)

    run(scenario())


def test_offsets_of_an_older_release(tmp_path: Path, records: Records) -> None:
    """They name no topic's id, and are those of whatever topic has the name: a new one waits until they are gone."""

    async def scenario() -> None:
        async with serving(tmp_path, writes_ids=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
        async with serving(tmp_path) as services:
            assert len(services.offsets("g")) == MANY
            assert await services.commit("g", "t", 0, 8) is ErrorCode.none
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            assert len(services.store.table(OFFSETS_TABLE)) == 0
            await services.create("t", partitions=MANY)
            assert services.offsets("g") == {}

    run(scenario())
    assert sum(records.sizes) == MANY


def test_a_new_topic_of_the_name_begins_without(tmp_path: Path, records: Records) -> None:
    """Where offsets name no ids, it comes when those of the old one are gone; what is committed to it stays."""

    async def scenario() -> None:
        async with serving(tmp_path, writes_ids=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            deletion = asyncio.create_task(services.topics.delete([stream_of(services, "t")]))
            while services.topics.get("t") is not None:  # noqa: ASYNC110 - the deletion takes some turns of the loop
                await asyncio.sleep(0)
            await services.create("t", partitions=MANY)
            assert await deletion == [None]
            assert records.under_way == 0
            assert await services.commit("g", "t", MANY - 1, 5) is ErrorCode.none
            assert services.offsets("g") == {("t", MANY - 1): 5}

    run(scenario())
    assert sum(records.sizes) == MANY


def test_another_process_makes_the_name_anew(tmp_path: Path, records: Records) -> None:
    """Only this process has the offsets of the old topic, which name no ids: as long as they go, none of the name is
    seen, and commits are to come again; those that then come stay."""

    async def scenario() -> None:
        async with serving(tmp_path, writes_ids=False) as services:
            offsets = services.groups.offsets
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            going = services.groups.topic_deleted(stream_of(services, "t"))
            assert going is not None
            assert services.offsets("g") == {}
            early = await offsets.commit("g", [OffsetCommit("t", MANY - 1, 5, -1, "")])
            assert early == [ErrorCode.coordinator_load_in_progress]
            await going
            assert services.offsets("g") == {}
            assert await services.commit("g", "t", MANY - 1, 6) is ErrorCode.none
            assert services.offsets("g") == {("t", MANY - 1): 6}

    run(scenario())


def test_many_topics_share_the_steps(tmp_path: Path, records: Records) -> None:
    """However many are deleted together, one step is under way at a time; there are as many steps as their offsets
    need, not one for each topic, which would wait for as many writes."""
    names = [f"t{number}" for number in range(60)]

    async def scenario() -> None:
        async with serving(tmp_path, writes_ids=False) as services:
            await services.create(*names, partitions=2)
            for name in names:
                await commit_many(services, "g", name, 2)
            going = {services.groups.topic_deleted(stream_of(services, name)) for name in names}
            assert services.offsets("g") == {}
            for task in going:
                assert task is not None
                await task
            assert services.offsets("g") == {}

    run(scenario())
    assert records.most_under_way == 1
    assert sum(records.sizes) == 2 * len(names)
    assert len(records.sizes) <= 2 * len(names) // AT_ONCE + 1


def test_a_failure_hides_no_offset_for_ever(tmp_path: Path, records: Records) -> None:
    """As before the deletion, they are there: the next start deletes them."""

    def fails(step: int) -> None:
        if step == 1:
            raise StorageFull("the disk is full")

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            records.before = fails
            assert await services.topics.delete([stream_of(services, "t")]) == [None]
            await services.groups.offsets.finish()
            assert len(services.offsets("g")) == MANY - AT_ONCE
        records.before = lambda _: None
        async with serving(tmp_path) as services:
            await services.groups.offsets.finish()
            assert services.offsets("g") == {}

    run(scenario())


# Time


def test_offsets_expire_in_steps(tmp_path: Path, records: Records) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            services.clock.advance(WEEK_S)
            await services.groups.sweep()
            assert services.offsets("g") == {}

    run(scenario())
    assert sum(records.sizes) == MANY
    assert max(records.sizes) == AT_ONCE


def test_a_group_that_a_member_joins_while_its_offsets_expire(tmp_path: Path, records: Records) -> None:
    """It is another group by then, of the member's protocol: what that reads expires no more."""

    async def scenario() -> None:
        joined: list[asyncio.Task[object]] = []
        async with serving(tmp_path) as services:
            await services.create("t", partitions=MANY)
            await commit_many(services, "g", "t")
            services.clock.advance(WEEK_S)

            def joins(step: int) -> None:
                if not step:
                    joined.append(asyncio.create_task(services.groups.consumer_heartbeat("g", JOINING)))

            records.before = joins
            await services.groups.sweep()
            await joined[0]
            assert len(services.offsets("g")) == MANY - AT_ONCE

    run(scenario())
