"""The coordinator on a real store: waiting, timers, restarts, expiry (SEMANTICS 27-31)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.log.records import Put
from gateway.groups.classic.messages import LeavingMember
from gateway.groups.classic.states import GroupState
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import (
    GROUPS_TABLE,
    CommittedOffset,
    OffsetKey,
    UnreadableRecord,
    encode_offset_key,
)
from tests.core.support import writer_of
from tests.gateway.groups.harness import SESSION_MS
from tests.gateway.groups.services import run, serving

pytestmark = pytest.mark.slow

DAY_S = 24 * 3_600
WEEK_S = 7 * DAY_S


def test_group_of_two(tmp_path: Path) -> None:
    """Two members join, sync and leave over the asyncio interface."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            leader = await services.stable_member("g")
            waiting = asyncio.create_task(services.join("g"))
            await asyncio.sleep(0)
            assert services.groups.heartbeat("g", leader, None, 1) is ErrorCode.rebalance_in_progress
            rejoined = await services.join("g", leader)
            follower = (await waiting).member_id
            shares = {leader: b"1", follower: b"2"}
            first, second = await asyncio.gather(services.sync("g", leader, 2, shares), services.sync("g", follower, 2))

            assert [member.member_id for member in rejoined.members] == [leader, follower]
            assert (first.assignment, second.assignment) == (b"1", b"2")
            left = [LeavingMember(leader, None, None), LeavingMember("nobody", None, None)]
            assert services.groups.leave("g", left) == (
                ErrorCode.none,
                [ErrorCode.none, ErrorCode.unknown_member_id],
            )

    run(scenario())


@pytest.mark.parametrize(
    ("group", "session_ms", "member_id", "error"),
    [
        ("", SESSION_MS, "", ErrorCode.invalid_group_id),
        ("g" * 20_000, SESSION_MS, "", ErrorCode.invalid_group_id),
        ("g", 5_999, "", ErrorCode.invalid_session_timeout),
        ("g", 1_800_001, "", ErrorCode.invalid_session_timeout),
        ("g", SESSION_MS, "nobody", ErrorCode.unknown_member_id),
    ],
)
def test_join_is_checked(tmp_path: Path, group: str, session_ms: int, member_id: str, error: ErrorCode) -> None:
    """Group ids, session time-outs and ids of groups that are not there are refused; no group is left."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            result = await services.join(group, member_id, session_timeout_ms=session_ms)

            assert result.error is error
            assert len(services.groups) == 0

    run(scenario())


def test_unknown_group(tmp_path: Path) -> None:
    """Members of a group that is not there are unknown."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            groups = services.groups

            assert groups.heartbeat("g", "m", None, 1) is ErrorCode.unknown_member_id
            assert groups.leave("g", [LeavingMember("m", None, None)]) == (
                ErrorCode.none,
                [ErrorCode.unknown_member_id],
            )
            assert (await services.sync("g", "m", 1)).error is ErrorCode.unknown_member_id
            assert groups.admission.commit("g", "m", None, 1) is ErrorCode.group_id_not_found
            assert groups.admission.delete("g") is ErrorCode.group_id_not_found
            assert await groups.delete_group("g") is ErrorCode.group_id_not_found

    run(scenario())


def test_timer_wakes_by_itself(tmp_path: Path) -> None:
    """Nobody has to ask: the initial delay ends with real time."""

    async def scenario() -> None:
        async with serving(tmp_path, "group.initial.rebalance.delay.ms=20") as services:
            waiting = asyncio.create_task(services.join("g"))
            await asyncio.sleep(0)
            services.clock.advance(0.02)

            assert (await waiting).generation == 1

    run(scenario())


def test_timer_is_never_late(tmp_path: Path) -> None:
    """A heartbeat of a member that waits, and whose session had been let pass, sets the timer for its next."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            first = await services.stable_member("g")
            waiting = asyncio.create_task(services.join("g"))
            await asyncio.sleep(0)
            await services.join("g", first)
            await waiting
            await services.sync("g", first, 2)
            again = asyncio.create_task(services.join("g", first))
            await asyncio.sleep(0)
            services.clock.advance(SESSION_MS / 1_000 - 1)
            services.groups.heartbeat("g", waiting.result().member_id, None, 2)
            services.clock.advance(2)
            services.groups._classic._alarms._on_timer()
            services.groups.heartbeat("g", first, None, 2)

            next_s = services.groups._classic._alarms.deadlines.next_s()
            assert next_s is not None
            assert services.groups._classic._alarms._timer_s <= next_s
            assert not again.done()
            again.cancel()

    run(scenario())


def test_sessions_run_on_the_monotonic_clock(tmp_path: Path) -> None:
    """A wall clock that jumps a day ahead, or back, expires nobody; ten seconds of real time do."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            member = await services.stable_member("g")
            for jump_ms in (DAY_S * 1_000, -2 * DAY_S * 1_000):
                services.clock.jump_wall(jump_ms)
                services.groups.expire_due()
                assert services.groups.heartbeat("g", member, None, 1) is ErrorCode.none

            services.clock.advance(SESSION_MS / 1_000)
            services.groups.expire_due()

            assert services.groups.heartbeat("g", member, None, 1) is ErrorCode.unknown_member_id

    run(scenario())


@pytest.mark.parametrize("clean", [True, False])
def test_members_go_on_after_a_restart(tmp_path: Path, clean: bool) -> None:
    """After a clean stop and after a crash, members heartbeat, commit and sync in their generation."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=clean) as services:
            await services.create("t")
            member = await services.stable_member("g")
            assert services.groups.admission.commit("g", member, None, 1) is ErrorCode.none
            await services.groups.offsets.commit("g", [OffsetCommit("t", 1, 42, 3, "where I am")])
        async with serving(tmp_path) as services:
            group = services.groups.get("g")

            assert group is not None
            assert group.state is GroupState.STABLE
            assert services.groups.heartbeat("g", member, None, 1) is ErrorCode.none
            assert (await services.sync("g", member, 1)).assignment == b"all"
            assert services.groups.admission.commit("g", member, None, 1) is ErrorCode.none
            committed = services.groups.offsets.get(OffsetKey("g", "t", 1))
            assert committed is not None
            assert (committed.offset, committed.leader_epoch, committed.metadata) == (42, 3, "where I am")

    run(scenario())


def test_commits_land_in_order(tmp_path: Path) -> None:
    """Many commits of one partition in flight at once: each is seen or a later one, never an earlier."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            writes = [asyncio.create_task(services.commit("g", "t", 0, offset)) for offset in range(200)]
            seen = [-1]
            while not all(write.done() for write in writes):
                seen.append(services.offsets("g").get(("t", 0), -1))
                await asyncio.sleep(0)

            assert {write.result() for write in writes} == {ErrorCode.none}
            assert seen == sorted(seen)
            assert services.offsets("g") == {("t", 0): 199}
        async with serving(tmp_path) as services:
            assert services.offsets("g") == {("t", 0): 199}

    run(scenario())


def test_commit_is_not_seen_before_it_is_durable(tmp_path: Path) -> None:
    """An offset shows when its commit is answered, not before; a reader of stable offsets waits for it."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            write = asyncio.create_task(services.commit("g", "t", 0, 7))
            await asyncio.sleep(0)
            assert services.offsets("g") == {}

            await services.groups.offsets.settle("g")
            assert services.offsets("g") == {("t", 0): 7}
            assert await write is ErrorCode.none

    run(scenario())


def test_commit_of_a_client_that_went_away(tmp_path: Path) -> None:
    """A commit goes on when its connection is closed meanwhile, and the books stay right."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            write = asyncio.create_task(services.commit("g", "t", 0, 7))
            await asyncio.sleep(0)
            write.cancel()
            await services.groups.offsets.settle("g")

            assert services.offsets("g") == {("t", 0): 7}

    run(scenario())


def test_large_commit(tmp_path: Path) -> None:
    """A commit of more partitions than one log record takes keeps its place between others."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", partitions=2_500)
            assert services.groups.admission.commit("g", "", None, -1) is ErrorCode.none
            places = range(2_500)
            first, second, third = (
                asyncio.create_task(
                    services.groups.offsets.commit("g", [OffsetCommit("t", p, offset, -1, "") for p in wanted])
                )
                for offset, wanted in ((1, places), (2, range(2_400, 2_500)), (3, range(100)))
            )
            assert set(await first) | set(await second) | set(await third) == {ErrorCode.none}

            offsets = services.offsets("g")
            expected = [3] * 100 + [1] * 2_300 + [2] * 100
            assert [offsets["t", p] for p in places] == expected

    run(scenario())


def test_metadata_comes_back_or_is_too_large(tmp_path: Path) -> None:
    """4,096 characters of metadata come back exactly; one more is refused with 12, alone."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            services.groups.admission.commit("g", "", None, -1)
            wide = "é" * 4_096
            errors = await services.groups.offsets.commit(
                "g",
                [
                    OffsetCommit("t", 0, 1, -1, wide),
                    OffsetCommit("t", 1, 1, -1, "x" * 4_097),
                    OffsetCommit("t", 2, 1, -1, "𝄞" * 2_049),
                ],
            )

            too_large = ErrorCode.offset_metadata_too_large
            assert errors == [ErrorCode.none, too_large, too_large]
            committed = services.groups.offsets.get(OffsetKey("g", "t", 0))
            assert committed is not None
            assert committed.metadata == wide

    run(scenario())


def test_offsets_of_an_empty_group_expire(tmp_path: Path) -> None:
    """Seven days after the last member left, and not before, the offsets and the group go."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            member = await services.stable_member("g")
            services.groups.admission.commit("g", member, None, 1)
            await services.groups.offsets.commit("g", [OffsetCommit("t", 0, 1, -1, "")])
            services.clock.advance(10 * DAY_S)
            services.groups.leave("g", [LeavingMember(member, None, None)])
            await services.groups._journal.settle()

            services.clock.advance(WEEK_S - 1)
            await services.groups.sweep()
            await services.groups._journal.settle()
            assert services.offsets("g") == {("t", 0): 1}

            services.clock.advance(1)
            await services.groups.sweep()
            await services.groups._journal.settle()
            assert services.offsets("g") == {}
            assert services.groups.get("g") is None
        async with serving(tmp_path) as services:
            assert len(services.groups) == 0

    run(scenario())


def test_subscribed_topics_keep_their_offsets(tmp_path: Path) -> None:
    """While members are there, only offsets of topics that they no longer read expire, by their commit."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", "unread")
            member = await services.stable_member("g", session_timeout_ms=1_800_000)
            services.groups.admission.commit("g", member, None, 1)
            commits = [OffsetCommit("t", 0, 1, -1, ""), OffsetCommit("unread", 0, 1, -1, "")]
            await services.groups.offsets.commit("g", commits)

            services.clock.advance(WEEK_S)
            await services.groups.sweep()
            await services.groups._journal.settle()

            assert services.offsets("g") == {("t", 0): 1}

    run(scenario())


def test_simple_consumers_offsets_expire_by_their_commit(tmp_path: Path) -> None:
    """Offsets of consumers that assign by themselves expire seven days after each one's last commit."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            services.clock.advance(4 * DAY_S)
            await services.commit("g", "t", 1, 1)

            services.clock.advance(4 * DAY_S)
            await services.groups.sweep()
            await services.groups._journal.settle()

            assert services.offsets("g") == {("t", 1): 1}

    run(scenario())


def test_retention_of_the_commit(tmp_path: Path) -> None:
    """OffsetCommit v2-v4 may name a retention of its own, shorter or longer."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            services.groups.admission.commit("g", "", None, -1)
            await services.groups.offsets.commit("g", [OffsetCommit("t", 0, 1, -1, "")], retention_ms=1_000)
            await services.groups.offsets.commit(
                "g", [OffsetCommit("t", 1, 1, -1, "")], retention_ms=30 * DAY_S * 1_000
            )

            for partition, longest in ((2, 2**63 - 1), (3, -(2**63))):
                await services.groups.offsets.commit("g", [OffsetCommit("t", partition, 1, -1, "")], longest)

            services.clock.advance(8 * DAY_S)
            await services.groups.sweep()
            await services.groups._journal.settle()

            assert services.offsets("g") == {("t", 1): 1, ("t", 2): 1}

    run(scenario())


@pytest.mark.parametrize("days", [30, -30])
def test_clock_that_jumps_expires_nothing(tmp_path: Path, days: int) -> None:
    """A wall clock that jumps a month either way, and back, costs no offset."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            services.clock.jump_wall(days * DAY_S * 1_000)
            await services.commit("g", "t", 1, 1)
            await services.groups.sweep()
            services.clock.jump_wall(-days * DAY_S * 1_000)
            await services.groups.sweep()
            await services.groups._journal.settle()

            assert services.offsets("g") == {("t", 0): 1, ("t", 1): 1}

    run(scenario())


def test_commit_on_its_way_does_not_expire(tmp_path: Path) -> None:
    """A sweep that finds an old offset leaves it when a new commit is in the log's hands."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            services.clock.advance(WEEK_S)
            write = asyncio.create_task(services.commit("g", "t", 0, 2))
            await asyncio.sleep(0)
            await services.groups.sweep()

            assert await write is ErrorCode.none
            await services.groups._journal.settle()
            assert services.offsets("g") == {("t", 0): 2}

    run(scenario())


def test_deleted_topic_takes_its_offsets_along(tmp_path: Path) -> None:
    """Offsets of a deleted topic go, also one in flight; a new topic of that name has none."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t", "u")
            await services.commit("g", "t", 0, 1)
            await services.commit("g", "u", 0, 1)
            write = asyncio.create_task(services.commit("g", "t", 1, 1))
            await asyncio.sleep(0)
            stream = services.topics.get("t")
            assert stream is not None
            assert await services.topics.delete([stream]) == [None]
            await write
            assert services.offsets("g") == {("u", 0): 1}
            await services.create("t")
            await services.groups.offsets.finish()

            assert services.offsets("g") == {("u", 0): 1}
            assert len(services.store.table("offsets")) == 1

    run(scenario())


def test_offsets_of_a_topic_that_was_deleted_before_a_crash(tmp_path: Path) -> None:
    """A crash between a topic's deletion and that of its offsets leaves none of them behind."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            stream = services.topics.get("t")
            assert stream is not None
            await services.store.delete_stream(stream)
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.groups._journal.settle()

            assert services.offsets("g") == {}

    run(scenario())


def test_delete_group(tmp_path: Path) -> None:
    """An empty group is deleted with all its offsets, for good; one with members is not: 68."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("simple", "t", 0, 1)
            await services.stable_member("busy")

            assert await services.groups.delete_group("busy") is ErrorCode.non_empty_group
            assert await services.groups.delete_group("simple") is ErrorCode.none
            assert services.groups.get("simple") is None
            assert services.offsets("simple") == {}
        async with serving(tmp_path) as services:
            assert [group.group_id for group in services.groups] == ["busy"]

    run(scenario())


def test_delete_group_takes_commits_on_their_way(tmp_path: Path) -> None:
    """A commit that was sent before the deletion is deleted; one that is sent after it stays."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            before = asyncio.create_task(services.commit("g", "t", 1, 1))
            deletion = asyncio.create_task(services.groups.delete_group("g"))
            after = asyncio.create_task(services.commit("g", "t", 2, 1))
            await asyncio.gather(before, deletion, after)

            assert services.offsets("g") == {("t", 2): 1}
            assert services.groups.get("g") is not None

    run(scenario())


def test_group_that_never_came_to_be_is_forgotten(tmp_path: Path) -> None:
    """A join that is refused, or a promised id that nobody used, leaves no group behind for long."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.join("refused", protocols=())
            promised = await services.join("promised", requires_known_member_id=True)
            assert promised.error is ErrorCode.member_id_required
            assert [group.group_id for group in services.groups] == ["promised"]

            services.clock.advance(SESSION_MS / 1_000)
            services.groups.expire_due()
            await services.groups.sweep()
            await services.groups._journal.settle()

            assert len(services.groups) == 0

    run(scenario())


def test_stop_answers_who_waits(tmp_path: Path) -> None:
    """Members that wait when the server stops are sent to look for the coordinator."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.stable_member("g")
            waiting = asyncio.create_task(services.join("g"))
            await asyncio.sleep(0)
            await services.groups.stop()

            assert (await waiting).error is ErrorCode.not_coordinator
            assert (await services.join("g")).error is ErrorCode.coordinator_not_available

    run(scenario())


def test_unreadable_group_stops_the_start(tmp_path: Path) -> None:
    """A group that a newer release wrote is not guessed at: the start is refused and says why."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.store.update(Put(GROUPS_TABLE, b"g", b"\x09"))
        with pytest.raises(UnreadableRecord, match="version 9"):
            async with serving(tmp_path):
                pass

    run(scenario())


def test_group_too_large_to_store(tmp_path: Path) -> None:
    """A group whose assignments pass the bound is refused like Kafka's too large records."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            joined = await services.join("g")
            shares = {joined.member_id: bytes(17 * 1024 * 1024)}

            result = await services.sync("g", joined.member_id, 1, shares)

            assert result.error is ErrorCode.unknown_server_error

    run(scenario())


def test_full_disk_refuses_commits(tmp_path: Path) -> None:
    """If the log takes nothing, commits and assignments get a retriable code; visible offsets stay."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            await services.commit("g", "t", 0, 1)
            joined = await services.join("members")
            await services.store.home.log.close()

            assert await services.commit("g", "t", 0, 2) is ErrorCode.coordinator_not_available
            assert await services.groups.delete_group("g") is ErrorCode.coordinator_not_available
            synced = await services.sync("members", joined.member_id, 1, {joined.member_id: b"all"})

            assert synced.error is ErrorCode.coordinator_not_available
            assert services.offsets("g") == {("t", 0): 1}
            assert services.groups.get("g") is not None

    run(scenario())


def test_failed_disk_refuses_commits(tmp_path: Path) -> None:
    """When a write fails, the commit is not acknowledged and its client looks for another coordinator."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            read_only = os.open(os.devnull, os.O_RDONLY)
            os.dup2(read_only, writer_of(services.store.home.log)._thread._fd)
            os.close(read_only)

            assert await services.commit("g", "t", 0, 1) is ErrorCode.not_coordinator
            assert services.offsets("g") == {}

    run(scenario())


def test_heartbeats_are_cheap(tmp_path: Path) -> None:
    """Heartbeats of thousands of members add nothing to the heap and leave the timer alone."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            waiting = [asyncio.create_task(services.join(f"g{n % 100}")) for n in range(2_000)]
            joined = await asyncio.gather(*waiting)
            before, timer = len(services.groups._classic._alarms.deadlines), services.groups._classic._alarms._timer
            for _ in range(3):
                services.clock.advance(1)
                for n, member in enumerate(joined):
                    error = services.groups.heartbeat(f"g{n % 100}", member.member_id, None, member.generation)
                    assert error is ErrorCode.none

            assert len(services.groups._classic._alarms.deadlines) == before
            assert services.groups._classic._alarms._timer is timer

    run(scenario())


def test_offset_record_is_what_the_store_holds(tmp_path: Path) -> None:
    """The table holds one entry per group, topic and partition, with the commit's time."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.commit("g", "t", 3, 5)

            key = OffsetKey("g", "t", 3)
            assert services.store.table("offsets").get(encode_offset_key(key)) is not None
            stream = services.topics.get("t")
            assert stream is not None
            committed = CommittedOffset(5, -1, "", services.clock.wall_ms(), topic_id=stream.uuid.bytes)
            assert services.groups.offsets.get(key) == committed

    run(scenario())
