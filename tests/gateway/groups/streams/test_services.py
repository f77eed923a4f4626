"""Streams groups on the real store: answers survive a crash, groups change their kind, rows are cleaned up."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core.clock import ManualClock
from gateway.groups.classic.group import Group
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.streams import group as streams_group
from gateway.groups.streams.assignor import Computed, Wanted
from gateway.groups.streams.format import STREAMS_TABLE
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.messages import NO_TASKS, Heartbeat, HeartbeatAnswer, MemberState, StreamsState, Tasks
from gateway.refusals import Refusal
from tests.gateway.groups.services import Services, run, serving
from tests.gateway.groups.streams.harness import STATELESS, tasks

pytestmark = pytest.mark.slow

AT_ONCE = ("group.streams.assignment.interval.ms=0", "group.streams.initial.rebalance.delay.ms=0")


async def beat(services: Services, member: str, epoch: int, group: str = "g", **said: Any) -> HeartbeatAnswer:
    """One heartbeat; a joining one says all that it must."""
    if epoch == 0:
        joining = {"rebalance_timeout_ms": 60_000, "owned": NO_TASKS, "topology": STATELESS, "process_id": member}
        said = joining | said
    return await services.groups.streams_heartbeat(group, Heartbeat(member_id=member, epoch=epoch, **said))


def group_of(services: Services, name: str = "g") -> StreamsGroup:
    group = services.groups.get(name)
    assert isinstance(group, StreamsGroup)
    return group


def rows(services: Services) -> int:
    return len(services.store.home.table(STREAMS_TABLE))


async def code_of(services: Services, member: str, epoch: int, **said: Any) -> ErrorCode:
    with pytest.raises(Refusal) as refused:
        await beat(services, member, epoch, **said)
    return refused.value.code


def test_survives_a_crash_in_each_state(tmp_path: Path) -> None:
    """Stable, with tasks to give up, waiting for them: after a crash each member is where it was told to be."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, *AT_ONCE, clock=clock, clean=False) as services:
            await services.create("in")
            first = await beat(services, "m", 0)
        async with serving(tmp_path, *AT_ONCE, clock=clock, clean=False) as services:
            assert group_of(services).state is StreamsState.STABLE
            assert (await beat(services, "m", first.epoch)).tasks is None, "nothing has changed"
            await beat(services, "n", 0)
            kept = (await beat(services, "m", first.epoch)).tasks
            assert kept is not None
            assert len(kept.active) == 2
        async with serving(tmp_path, *AT_ONCE, clock=clock, clean=False) as services:
            states = {m.member_id: m.current.state for m in group_of(services).members.values()}
            assert states == {"m": MemberState.UNREVOKED_TASKS, "n": MemberState.UNRELEASED_TASKS}
            await beat(services, "m", first.epoch, owned=kept)
        async with serving(tmp_path, *AT_ONCE, clock=clock) as services:
            given = (await beat(services, "n", group_of(services).epoch)).tasks
            assert given is not None
            assert given.active | kept.active == tasks("0_0", "0_1", "0_2", "0_3")

    run(test())


def test_sessions_go_on_after_a_crash(tmp_path: Path) -> None:
    """A member that does not come back after a crash is removed when its session ends."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, *AT_ONCE, clock=clock, clean=False) as services:
            await services.create("in")
            await beat(services, "m", 0)
        async with serving(tmp_path, clock=clock) as services:
            clock.advance(46)
            services.groups.streams._alarms.expire_due()
            assert group_of(services).is_empty
            assert await code_of(services, "m", 2) is ErrorCode.unknown_member_id

    run(test())


def test_topics_that_come_make_tasks(tmp_path: Path) -> None:
    """A source that comes, or grows, is taken up with the next heartbeat."""

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE) as services:
            answer = await beat(services, "m", 0)
            assert answer.tasks == NO_TASKS
            await services.create("in", partitions=2)
            answer = await beat(services, "m", answer.epoch)
            assert answer.tasks == Tasks(tasks("0_0", "0_1"))
            await services.topics.grow({"in": 3})
            answer = await beat(services, "m", answer.epoch)
            assert answer.tasks == Tasks(tasks("0_0", "0_1", "0_2"))

    run(test())


def test_large_targets_are_computed_in_a_thread_and_stored(tmp_path: Path) -> None:
    """The member comes back for it, also after a crash."""

    async def test() -> None:
        clock = ManualClock()
        async with serving(tmp_path, *AT_ONCE, clock=clock, clean=False) as services:
            await services.create("in", partitions=3_000)
            answer = await beat(services, "m", 0)
            assert answer.tasks == NO_TASKS
            while group_of(services).target_epoch < group_of(services).epoch:
                await services.groups.streams._computing[group_of(services)]
            told = (await beat(services, "m", answer.epoch)).tasks
            assert told is not None
            assert len(told.active) == 3_000
        async with serving(tmp_path, *AT_ONCE, clock=clock) as services:
            assert len(group_of(services).target_of("m").active) == 3_000

    run(test())


def test_offsets_are_the_members(tmp_path: Path) -> None:
    """Commits and fetches are judged by member epochs; offsets stay when the group is empty."""

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE) as services:
            await services.create("in")
            epoch = (await beat(services, "m", 0)).epoch
            stream = services.topics.existing("in")
            groups = services.groups
            assert groups.admission.commit("g", "m", None, epoch, [(stream.uuid, 0)]) is ErrorCode.none
            assert (
                groups.admission.commit("g", "m", None, epoch + 1, [(stream.uuid, 0)]) is ErrorCode.stale_member_epoch
            )
            assert groups.admission.commit("g", "", None, -1, [(stream.uuid, 0)]) is ErrorCode.unknown_member_id
            assert groups.admission.transactional_commit("g", "", None, -1) is ErrorCode.none
            assert groups.admission.transactional_commit("g", "x", None, epoch) is ErrorCode.unknown_member_id
            assert groups.admission.fetch("g", "m", epoch) is ErrorCode.none
            assert groups.admission.fetch("g", "m", epoch + 1) is ErrorCode.stale_member_epoch
            assert await groups.offsets.commit("g", [OffsetCommit("in", 0, 7, -1, "")]) == [ErrorCode.none]
            await beat(services, "m", -1)
            assert services.offsets("g") == {("in", 0): 7}

    run(test())


def test_groups_keep_their_kind_while_they_have_members(tmp_path: Path) -> None:
    """Empty ones become another; classic members are refused in a streams group, and the other way round."""

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE) as services:
            await services.create("in")
            await services.stable_member("g")
            assert await code_of(services, "m", 0) is ErrorCode.group_id_not_found
            await services.commit("offsets-only", "in", 0, 5)
            await beat(services, "m", 0, group="offsets-only")
            assert isinstance(services.groups.get("offsets-only"), StreamsGroup)
            assert services.offsets("offsets-only") == {("in", 0): 5}
            joined = await services.join("offsets-only")
            assert joined.error is ErrorCode.inconsistent_group_protocol
            await beat(services, "m", -1, group="offsets-only")
            await services.stable_member("offsets-only")
            assert isinstance(services.groups.get("offsets-only"), Group)
            assert rows(services) == 0
            assert services.offsets("offsets-only") == {("in", 0): 5}

    run(test())


def test_deleted_groups_leave_no_rows(tmp_path: Path) -> None:
    """A group with members is not deleted; an empty one goes with its topology and its offsets."""

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE) as services:
            await services.create("in")
            await beat(services, "m", 0)
            assert await services.groups.delete_group("g") is ErrorCode.non_empty_group
            await beat(services, "m", -1)
            assert rows(services) == 2, "its head and its topology"
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert (rows(services), services.groups.get("g")) == (0, None)

    run(test())


def test_refused_members_make_no_group(tmp_path: Path) -> None:
    """Neither somebody that never joined, nor a topology that cannot be."""

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE, "group.streams.max.size=1") as services:
            await services.create("in")
            for epoch in (-1, 5):
                assert await code_of(services, "m", epoch) is ErrorCode.group_id_not_found
            assert services.groups.get("g") is None
            await beat(services, "m", 0)
            assert await code_of(services, "n", 0) is ErrorCode.group_max_size_reached

    run(test())


def test_a_group_that_is_deleted_while_its_target_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is stored again, and what it held for the allowance of all groups is given back."""
    begun, released = threading.Event(), threading.Event()
    compute = Wanted.compute

    def slowly(wanted: Wanted) -> Computed:
        begun.set()
        assert released.wait(30)
        return compute(wanted)

    async def test() -> None:
        async with serving(tmp_path, *AT_ONCE, clean=False) as services:
            await services.create("in")
            await beat(services, "m", 0)
            group = group_of(services)
            monkeypatch.setattr(streams_group, "AT_ONCE_MAX", 0)
            monkeypatch.setattr(Wanted, "compute", slowly)
            await beat(services, "n", 0)
            assert await asyncio.to_thread(begun.wait, 30)
            (work,) = services.groups.streams._works()
            await beat(services, "m", -1)
            await beat(services, "n", -1)
            assert await services.groups.delete_group("g") is ErrorCode.none
            released.set()
            await asyncio.wait([work])
            await asyncio.sleep(0)
            await services.groups._journal.settle()
            assert rows(services) == 0
            assert group.rules.allowance.used == 0
        async with serving(tmp_path, *AT_ONCE) as services:
            assert services.groups.get("g") is None

    run(test())
