"""How many members a classic group may have: a full one goes on, and nobody who is in it is put out for its size."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.config.fields import INT_MAX
from gateway.groups.classic import rules
from gateway.groups.classic.messages import GroupRecord, JoinResult, LeavingMember, MemberRecord, Protocol
from gateway.groups.classic.rules import MEMBERS_MAX, members_max
from gateway.groups.classic.states import GroupState
from tests.gateway.groups.harness import RANGE, REBALANCE_MS, GroupDriver, subscription

MEMBERS = 4
PROTOCOLS = 8
LONG_MS = 10 * REBALANCE_MS
"""A session that outlives a rebalance."""
NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MEMBERS_MAX", MEMBERS)
    monkeypatch.setattr(rules, "PROTOCOLS_MAX", PROTOCOLS)


def a_driver(initial_delay_ms: int = 0) -> GroupDriver:
    """A group for which the operator has set no bound."""
    return GroupDriver(max_size=members_max(INT_MAX), initial_delay_ms=initial_delay_ms)


def offers(*names: str) -> tuple[Protocol, ...]:
    return tuple(Protocol(name, subscription("t")) for name in names)


def code(result: JoinResult | None) -> ErrorCode | None:
    """None: the member waits for the others, so it was let in."""
    return None if result is None else result.error


def restored(dynamic: int, static: int = 0) -> GroupDriver:
    """A stable group of so many members, as an earlier release stored it."""
    members = [
        MemberRecord(f"m{n}", f"i{n}" if n >= dynamic else None, "c", "/h", LONG_MS, REBALANCE_MS, RANGE, b"")
        for n in range(dynamic + static)
    ]
    driver = a_driver()
    record = GroupRecord(
        generation=1,
        state_since_ms=1,
        protocol_type="consumer",
        protocol_name="range",
        leader="m0",
        members=tuple(members),
    )
    driver._carry_out(at_once(driver.group.restore(record, driver.now)))
    return driver


@pytest.mark.parametrize(("wanted", "most"), [(1, 1), (MEMBERS, MEMBERS), (MEMBERS + 1, MEMBERS), (INT_MAX, MEMBERS)])
def test_what_the_operator_wants(wanted: int, most: int) -> None:
    assert members_max(wanted) == most


def test_the_default_is_the_most() -> None:
    """What the key's description says is what a group may have."""
    from gateway.config.loading import load

    assert load(environ={}).group_max_size == MEMBERS_MAX


def test_a_full_group_refuses_newcomers() -> None:
    driver = a_driver()
    ids = driver.stable(*NAMES)

    assert code(driver.join("e")) is ErrorCode.group_max_size_reached
    assert code(driver.join("e", needs_id=True)) is ErrorCode.group_max_size_reached
    assert driver.state is GroupState.STABLE
    assert {driver.heartbeat(member) for member in ids} == {ErrorCode.none}


def test_members_of_a_full_group_rejoin() -> None:
    driver = a_driver()
    ids = driver.stable(*NAMES)
    for name, member in zip(NAMES, ids, strict=True):
        driver.join(name, member)

    told = [driver.joined(name) for name in NAMES]
    assert {(each.error, each.generation) for each in told} == {(ErrorCode.none, 2)}
    assert len(told[0].members) == MEMBERS


def test_a_static_member_returns_to_its_place() -> None:
    """Without its id, as after a restart: the group does not grow by it."""
    driver = a_driver()
    driver.join("x", instance="x")
    for name in NAMES[1:]:
        driver.join(name)
    driver.pass_time(0)
    driver.sync_all("x", *NAMES[1:])

    returned = driver.join("x again", instance="x")

    assert code(returned) is ErrorCode.none
    assert driver.group.member_count == MEMBERS
    assert code(driver.join("y", instance="y")) is ErrorCode.group_max_size_reached


def test_a_static_member_returns_while_it_waits() -> None:
    """In the join phase of a full group its place is still its own; the request before is fenced."""
    driver = a_driver(initial_delay_ms=1_000)
    driver.join("x", instance="x")
    for name in NAMES[1:]:
        driver.join(name)

    assert driver.join("x again", instance="x") is None
    driver.pass_time(2)

    assert driver.joined("x").error is ErrorCode.fenced_instance_id
    assert driver.joined("x again").generation == 1
    assert driver.group.member_count == MEMBERS


def test_an_id_that_was_handed_out_is_no_member() -> None:
    """As in Kafka: it keeps no place, and who comes with it to a full group is refused; then the others go on."""
    driver = a_driver()
    ids = driver.stable(*NAMES[:3])
    handed_out = driver.join("p", needs_id=True)
    assert handed_out is not None
    driver.join("d")
    for name, member in zip(NAMES[:3], ids, strict=True):
        driver.join(name, member)
    assert driver.state is GroupState.PREPARING_REBALANCE, "the id may yet be used"

    refused = driver.join("p", handed_out.member_id)

    assert code(refused) is ErrorCode.group_max_size_reached
    assert not driver.group.roster.pending
    assert {driver.joined(name).generation for name in NAMES} == {2}


def test_members_that_are_away_keep_their_places() -> None:
    """Static members may be away for longer than a rebalance. A newcomer comes again until there is room, and the group
    never has more members than one may have."""
    driver = a_driver()
    for name in NAMES:
        driver.join(name, instance=name, session_ms=LONG_MS)
    driver.pass_time(0)
    leader, *_ = driver.sync_all(*NAMES)
    driver.join("a", leader, instance="a")

    assert code(driver.join("n")) is ErrorCode.coordinator_load_in_progress
    assert driver.group.member_count == MEMBERS
    driver.leave_as(LeavingMember("", "b", None))

    assert driver.join("n") is None
    driver.pass_time(REBALANCE_MS / 1_000)
    assert driver.joined("n").generation == 2
    assert driver.group.member_count == MEMBERS


def test_protocols_of_all_members() -> None:
    """A group of fewer members with more protocols each is as large. Who is in it may rejoin with as many as before."""
    driver = a_driver(initial_delay_ms=1_000)
    for name in NAMES[:3]:
        driver.join(name, protocols=offers("range", "sticky"))

    assert code(driver.join("d", protocols=offers("range", "sticky", "own"))) is ErrorCode.group_max_size_reached
    assert driver.join("d", protocols=offers("range", "sticky")) is None
    driver.pass_time(2)
    ids = driver.sync_all(*NAMES)
    assert driver.join("a", ids[0], protocols=offers("sticky", "range")) is None
    refused = driver.join("b", ids[1], protocols=offers("range", "sticky", "own"))

    assert code(refused) is ErrorCode.group_max_size_reached
    assert ids[1] in driver.group.roster
    assert driver.group.roster.protocol_count == PROTOCOLS


def test_a_larger_group_of_earlier_days_is_served() -> None:
    """Its members rebalance once. Those that come, as many as there may be, go on; the others go some at a time."""
    driver = restored(3 * MEMBERS)
    assert driver.group.member_count == 3 * MEMBERS
    assert driver.heartbeat("m1") is ErrorCode.rebalance_in_progress

    joined = [driver.join(f"m{n}", f"m{n}") for n in range(MEMBERS + 1)]
    assert [code(one) for one in joined] == [None] * MEMBERS + [ErrorCode.group_max_size_reached]
    driver.now_s += REBALANCE_MS / 1_000
    sizes = [driver.group.member_count]
    while (deadline := driver.deadlines.pop_due(driver.now_s)) is not None:
        driver._carry_out(deadline.owner.fire(driver.now))
        sizes.append(driver.group.member_count)

    assert sizes == [3 * MEMBERS - 1, 2 * MEMBERS - 1, MEMBERS]
    assert driver.joined("m0").generation == 2
    assert len(driver.joined("m0").members) == MEMBERS


def test_who_comes_late_to_a_larger_group_stays() -> None:
    """While those that are away go in steps, the join phase goes on."""
    driver = restored(3 * MEMBERS)
    driver.join("m0", "m0")
    driver.now_s += REBALANCE_MS / 1_000
    deadline = driver.deadlines.pop_due(driver.now_s)
    assert deadline is not None
    driver._carry_out(deadline.owner.fire(driver.now))
    last = f"m{3 * MEMBERS - 1}"

    assert driver.join(last, last) is None
    driver.pass_time(0)

    assert {driver.joined(name).generation for name in ("m0", last)} == {2}
    assert driver.group.member_count == 2


def test_static_members_of_a_larger_group() -> None:
    """As many as there is room for may be away."""
    driver = restored(1, static=2 * MEMBERS)
    driver.join("m0", "m0")
    driver.pass_time(REBALANCE_MS / 1_000)

    assert driver.joined("m0").generation == 2
    assert driver.group.member_count == MEMBERS
    assert "m0" in driver.group.roster
