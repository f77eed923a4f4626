"""A large consumer group becomes a classic one in steps: nobody sees it in between, a crash leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import ManualClock
from gateway.groups import kinds, row_groups
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import Protocol
from gateway.groups.classic.states import GroupState
from gateway.groups.journal import GroupJournal
from gateway.groups.persistence import GROUPS_TABLE
from tests.gateway.groups.consumer.test_services import AT_ONCE, beat, rows, until
from tests.gateway.groups.harness import subscription
from tests.gateway.groups.services import Services, run, serving
from tests.gateway.transactions import services as transactions

pytestmark = pytest.mark.slow

MEMBERS = 5
ROWS_AT_ONCE = 2
JOIN = {"protocols": (Protocol("range", subscription("t")),)}


class Steps:
    """The records of rows that end the consumer group; those behind the first one wait until they may be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.first_is_written = asyncio.Event()
        self.go_on = asyncio.Event()
        write_rows = GroupJournal.write_rows

        def written(journal: GroupJournal, changes: Sequence[Put | Delete]) -> asyncio.Task[ErrorCode]:
            ends = any(isinstance(change, Put) and change.table == GROUPS_TABLE for change in changes)
            if not ends and not self.sizes:
                return write_rows(journal, changes)
            self.sizes.append(len(changes))
            return asyncio.create_task(self._held(write_rows(journal, changes)))

        monkeypatch.setattr(kinds, "MEMBERS_AT_ONCE", 1)
        monkeypatch.setattr(row_groups, "ROWS_PER_RECORD_MAX", ROWS_AT_ONCE)
        monkeypatch.setattr(GroupJournal, "write_rows", written)

    async def _held(self, write: asyncio.Task[ErrorCode]) -> ErrorCode:
        error = await write
        self.first_is_written.set()
        await self.go_on.wait()
        return error


async def with_one_consumer(services: Services) -> list[str]:
    """Classic members whose group was made over by "m", which is in it; their ids."""
    await services.create("t")
    joined = await asyncio.gather(*(services.join("g", **JOIN) for _ in range(MEMBERS)))
    shares = {one.member_id: b"" for one in joined}
    order = sorted(joined, key=lambda one: len(one.members))
    await asyncio.gather(
        *(services.sync("g", one.member_id, one.generation, shares if one.members else None) for one in order)
    )
    await beat(services, "m", 0)
    assert rows(services) > 2 * MEMBERS
    return list(shares)


async def left_by_its_last_consumer(services: Services) -> list[str]:
    """The same when "m" has left."""
    members = await with_one_consumer(services)
    await beat(services, "m", -1)
    return members


def test_it_is_closed_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members are to come again until the last row is gone; then they join the classic group."""

    async def scenario() -> None:
        async with serving(tmp_path, AT_ONCE) as services:
            steps = Steps(monkeypatch)
            members = await left_by_its_last_consumer(services)
            await steps.first_is_written.wait()
            assert services.groups.is_closed("g")
            assert (await services.join("g", members[0], **JOIN)).error is ErrorCode.coordinator_load_in_progress
            left = rows(services)
            assert left
            steps.go_on.set()
            await until(lambda: not services.groups.is_closed("g"))
            group = services.groups.get("g")
            assert isinstance(group, Group)
            assert rows(services) == 0
            assert steps.sizes[0] == 2
            assert max(steps.sizes[1:]) == ROWS_AT_ONCE
            assert sum(steps.sizes[1:]) == left
            assert group.state is GroupState.PREPARING_REBALANCE
            rejoined = await asyncio.gather(*(services.join("g", member, **JOIN) for member in members))
            assert {one.error for one in rejoined} == {ErrorCode.none}

    run(scenario())


def test_a_transaction_that_ends_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it commits is the group's, of whatever kind that is by then."""

    async def scenario() -> None:
        async with transactions.serving(tmp_path, AT_ONCE) as all_services:
            services = Services(
                all_services.store, all_services.topics, all_services.all_groups.of("g"), all_services.clock
            )
            steps = Steps(monkeypatch)
            await with_one_consumer(services)
            who = await all_services.init()
            await all_services.commit_offset(who, 7, group="g")
            await beat(services, "m", -1)
            await steps.first_is_written.wait()
            assert services.groups.is_closed("g")
            await all_services.end(who)
            steps.go_on.set()
            await until(lambda: not services.groups.is_closed("g"))
            assert services.offsets("g") == {("t", 0): 7}

    run(scenario())


def test_a_crash_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is a classic one with all its members; the next start deletes the rows that are left."""

    async def scenario() -> None:
        clock = ManualClock()
        with monkeypatch.context() as patch:
            async with serving(tmp_path, AT_ONCE, clock=clock, clean=False) as services:
                steps = Steps(patch)
                members = await left_by_its_last_consumer(services)
                await steps.first_is_written.wait()
        async with serving(tmp_path, AT_ONCE, clock=clock) as services:
            group = services.groups.get("g")
            assert isinstance(group, Group)
            assert sorted(member.member_id for member in group.roster) == sorted(members)
            await until(lambda: not rows(services))

    run(scenario())


def test_a_stop_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop does not wait for ever, and what it cuts off is over at the next start."""

    async def scenario() -> None:
        clock = ManualClock()
        with monkeypatch.context() as patch:
            async with serving(tmp_path, AT_ONCE, clock=clock) as services:
                steps = Steps(patch)
                members = await left_by_its_last_consumer(services)
                await steps.first_is_written.wait()
        steps.go_on.set()
        async with serving(tmp_path, AT_ONCE, clock=clock) as services:
            group = services.groups.get("g")
            assert isinstance(group, Group)
            assert sorted(member.member_id for member in group.roster) == sorted(members)
            await until(lambda: not rows(services))

    run(scenario())
