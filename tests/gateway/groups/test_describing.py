"""What is told of a classic group is of one generation. One that is larger than any may be is described in turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.apis import describe_groups
from gateway.groups.classic import rules
from gateway.groups.classic.messages import GroupRecord, LeavingMember, MemberRecord
from gateway.network import turns
from gateway.wire.message import Message
from tests.gateway.apis.harness import Admin, admin_of
from tests.gateway.groups.harness import RANGE

pytestmark = pytest.mark.slow

MEMBERS_MAX = 4
SIZES = {"full": MEMBERS_MAX, "large": 3 * MEMBERS_MAX, "left": 3 * MEMBERS_MAX}
LONG_MS = 1_000_000
"""No member's session ends, and no rebalance, while a test runs."""


def record(members: int) -> GroupRecord:
    return GroupRecord(
        generation=7,
        state_since_ms=1,
        protocol_type="consumer",
        protocol_name="range",
        leader="m0",
        members=tuple(MemberRecord(f"m{n}", None, "c", "/h", LONG_MS, LONG_MS, RANGE, b"all") for n in range(members)),
    )


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A broker that has loaded groups which an earlier release let grow larger than any may be now."""
    with pytest.MonkeyPatch.context() as patch, admin_of(tmp_path_factory.mktemp("groups")) as admin:
        patch.setattr(rules, "MEMBERS_MAX", MEMBERS_MAX)

        async def store() -> list[ErrorCode]:
            return [
                await admin.broker.groups.of(group)._journal.write_group(group, record(size))
                for group, size in SIZES.items()
            ]

        assert set(admin.run(store())) == {ErrorCode.none}
        admin.restart()
        yield admin


@pytest.fixture
def told_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each member, in which turn it was described. Each turn is over at once."""
    found: list[int] = []
    turn = 0
    describe: Callable[..., dict[str, Any]] = describe_groups._member

    async def give_way(stint: turns.Stint) -> None:
        nonlocal turn
        turn += 1
        await asyncio.sleep(0)

    def described(*args: Any) -> dict[str, Any]:
        found.append(turn)
        return describe(*args)

    monkeypatch.setattr(turns, "GIVE_WAY_S", -1.0)
    monkeypatch.setattr(turns.Stint, "give_way", give_way)
    monkeypatch.setattr(describe_groups, "_member", described)
    return found


def described(admin: Admin, group: str) -> Message:
    (told,) = admin.ask("DescribeGroups", 6, groups=[group]).groups
    return told


def test_a_group_in_one_turn(admin: Admin, told_in: list[int]) -> None:
    told = described(admin, "full")

    assert (told.group_state, len(told.members)) == ("Stable", MEMBERS_MAX)
    assert len(set(told_in)) == 1


def test_a_larger_group_in_turns(admin: Admin, told_in: list[int]) -> None:
    told = described(admin, "large")

    assert (told.error_code, told.group_state) == (ErrorCode.none, "PreparingRebalance")
    assert sorted(member.member_id for member in told.members) == sorted(f"m{n}" for n in range(SIZES["large"]))
    assert {member.member_assignment for member in told.members} == {b"all"}
    assert len(set(told_in)) == SIZES["large"]


def test_a_generation_that_ends_meanwhile(admin: Admin, told_in: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told members of two generations: the client asks again, and is told of the new one."""
    give_way = turns.Stint.give_way
    coordinator = admin.broker.groups.of("left")

    async def all_leave(stint: turns.Stint) -> None:
        await give_way(stint)
        if len(told_in) == MEMBERS_MAX:
            coordinator.leave("left", [LeavingMember(f"m{n}", None, None) for n in range(SIZES["left"])])

    monkeypatch.setattr(turns.Stint, "give_way", all_leave)
    meanwhile = described(admin, "left")
    later = described(admin, "left")

    assert (meanwhile.error_code, list(meanwhile.members)) == (ErrorCode.coordinator_load_in_progress, [])
    assert (later.error_code, later.group_state, list(later.members)) == (ErrorCode.none, "Empty", [])
