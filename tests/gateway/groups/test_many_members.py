"""What happens to very many members of a classic group at a time happens to some of them in each pass of the loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core import turns
from gateway.groups import classic_groups
from gateway.groups.classic.messages import JoinResult, Protocol
from tests.core.support import until
from tests.gateway.groups.harness import SESSION_MS, subscription
from tests.gateway.groups.services import Services, join_request, run, serving

MEMBERS = 10
AT_ONCE = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic_groups, "ANSWERS_AT_ONCE", AT_ONCE)


@asynccontextmanager
async def counted(patch: pytest.MonkeyPatch, owner: Any, name: str) -> AsyncIterator[Counter[int]]:
    """Counts the calls of a function in each pass of the loop."""
    calls: Counter[int] = Counter()
    number = 0
    function: Callable[..., Any] = getattr(owner, name)

    async def passes() -> None:
        nonlocal number
        while True:
            number += 1
            await asyncio.sleep(0)

    def called(*args: Any) -> Any:
        calls[number] += 1
        return function(*args)

    counting = asyncio.create_task(passes())
    with patch.context() as inside:
        inside.setattr(owner, name, called)
        yield calls
    counting.cancel()


async def joined(services: Services, **changes: Any) -> list[JoinResult]:
    return list(await asyncio.gather(*(services.join("g", **changes) for _ in range(MEMBERS))))


async def synced(services: Services, members: list[JoinResult]) -> list[bytes]:
    """Each member gets its own id, from the leader."""
    shares = {one.member_id: one.member_id.encode() for one in members}
    told = await asyncio.gather(
        *(
            services.sync("g", one.member_id, one.generation, shares if one.members else None)
            for one in sorted(members, key=lambda one: len(one.members))
        )
    )
    assert {one.error for one in told} == {ErrorCode.none}
    return [one.assignment for one in told]


def test_joins_and_syncs_are_answered_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All members hear of the same generation, the leader of all members, and each gets what is its own."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            async with counted(monkeypatch, classic_groups, "_give") as given:
                members = await joined(services)
            assert {(one.error, one.generation) for one in members} == {(ErrorCode.none, 1)}
            assert [len(one.members) for one in members if one.members] == [MEMBERS]
            assert max(given.values()) == AT_ONCE
            assert given.total() == MEMBERS
            async with counted(monkeypatch, classic_groups, "_give") as given:
                told = await synced(services, members)
            assert sorted(told) == sorted(one.member_id.encode() for one in members)
            assert max(given.values()) == AT_ONCE

    run(scenario())


def test_a_small_group_does_not_wait_for_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as services:
            large = [asyncio.create_task(services.join("g")) for _ in range(MEMBERS)]
            small = asyncio.create_task(services.join("small"))
            await small
            assert not all(one.done() for one in large)
            assert {one.error for one in await asyncio.gather(*large)} == {ErrorCode.none}

    run(scenario())


def test_a_stop_answers_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, "group.initial.rebalance.delay.ms=60000") as services:
            waiting = [asyncio.create_task(services.join("g")) for _ in range(MEMBERS)]
            await asyncio.sleep(0)
        assert {one.error for one in await asyncio.gather(*waiting)} == {ErrorCode.not_coordinator}

    run(scenario())


def test_a_stop_returns_after_the_last_answer(tmp_path: Path) -> None:
    """Who stops what the answers go through next relies on it."""

    async def scenario() -> None:
        async with serving(tmp_path, "group.initial.rebalance.delay.ms=60000") as services:
            classic = services.groups._classic
            group = classic.create("g")
            waiting = [classic.join(group, join_request()) for _ in range(MEMBERS)]
            classic.die(group, ErrorCode.not_coordinator)
            assert sum(one.done() for one in waiting) == AT_ONCE
            await classic.stop()
            assert all(one.done() for one in waiting)

    run(scenario())


def test_members_that_go_while_others_are_answered(tmp_path: Path) -> None:
    """A client that has left does not hold up the answers behind its own."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            waiting = [asyncio.create_task(services.join("g")) for _ in range(MEMBERS)]
            await asyncio.sleep(0)
            for gone in waiting[1:6]:
                gone.cancel()
            told = await asyncio.gather(*waiting, return_exceptions=True)
            assert sum(isinstance(one, JoinResult) for one in told) == MEMBERS - 5

    run(scenario())


def test_sessions_end_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is heard before its session has ended, late as that is, stays."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            members = await joined(services)
            await synced(services, members)
            group = services.groups.get("g")
            assert group is not None
            monkeypatch.setattr(turns, "TURN_S", -1.0)  # each turn is over at once
            alarms = services.groups._classic._alarms
            services.clock.advance(SESSION_MS / 1_000)
            alarms._on_timer()
            assert group.member_count == MEMBERS - 1
            last = members[-1].member_id
            assert services.groups.heartbeat("g", last, None, 1) is ErrorCode.rebalance_in_progress
            for _ in range(MEMBERS):
                alarms._on_timer()
            assert group.member_count == 1
            assert services.groups.heartbeat("g", last, None, 1) is ErrorCode.rebalance_in_progress

    run(scenario())


def test_the_timer_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn after turn, until all sessions that passed have ended."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await synced(services, await joined(services))
            group = services.groups.get("g")
            assert group is not None
            monkeypatch.setattr(turns, "TURN_S", -1.0)
            services.clock.advance(SESSION_MS / 1_000)
            services.groups._classic._alarms._on_timer()
            await until(lambda: not group.member_count)

    run(scenario())


def test_long_subscriptions_are_read_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The members go on meanwhile; later the group is subscribed to what they say."""
    monkeypatch.setattr(classic_groups, "BYTES_AT_ONCE", 10)
    monkeypatch.setattr(classic_groups, "at_once", None)  # nothing is read at once
    protocols = (Protocol("range", subscription("t", "u")),)

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            members = await joined(services, protocols=protocols)
            await synced(services, members)
            group = services.groups.get("g")
            assert group is not None
            await until(lambda: not group.is_subscribed_to("other"))
            assert group.is_subscribed_to("u")

    run(scenario())
