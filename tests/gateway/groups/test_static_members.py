"""Static members (KIP-345, KIP-814): instances that come back under new ids (SEMANTICS 29)."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.classic.messages import LeavingMember, Protocol
from gateway.groups.classic.states import GroupState
from tests.gateway.groups.harness import REBALANCE_MS, SESSION_MS, GroupDriver, subscription

RANGE = Protocol("range", subscription("t"))
ROUND_ROBIN = Protocol("roundrobin", subscription("t"))


def static_pair(driver: GroupDriver, protocols: tuple[Protocol, ...] = (RANGE,)) -> tuple[str, str]:
    """A stable group of the instances "x", which leads, and "y"."""
    driver.join("x", instance="x", protocols=protocols)
    driver.join("y", instance="y", protocols=protocols)
    driver.pass_time(0)
    leader, follower = driver.sync_all("x", "y")
    return leader, follower


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


def test_return_of_a_follower(driver: GroupDriver) -> None:
    """A static follower that comes back gets a new id and its old assignment; nobody rebalances."""
    leader, old = static_pair(driver)

    result = driver.join("y2", instance="y")

    assert result is not None
    assert result.error is ErrorCode.none
    assert result.member_id not in ("", old)
    assert (result.generation, result.leader, result.skip_assignment) == (1, leader, False)
    assert driver.state is GroupState.STABLE
    synced = driver.sync("s", result.member_id, 1)
    assert synced is not None
    assert synced.assignment == old.encode()


@pytest.mark.parametrize("request_name", ["heartbeat", "sync", "commit", "join", "leave"])
def test_old_id_is_fenced(driver: GroupDriver, request_name: str) -> None:
    """Every request of an instance's old id is answered with 82."""
    _, old = static_pair(driver)
    driver.join("y2", instance="y")

    match request_name:
        case "heartbeat":
            error = driver.heartbeat(old, 1, "y")
        case "commit":
            error = driver.commit(old, 1, "y")
        case "leave":
            (error,) = driver.leave_as(LeavingMember(old, "y", None))
        case "sync":
            synced = driver.sync("s", old, 1, instance="y")
            assert synced is not None
            error = synced.error
        case _:
            joined = driver.join("j", old, instance="y")
            assert joined is not None
            error = joined.error

    assert error is ErrorCode.fenced_instance_id


def test_old_id_without_its_instance_is_unknown(driver: GroupDriver) -> None:
    """The old id alone is nobody any more."""
    _, old = static_pair(driver)
    driver.join("y2", instance="y")

    assert driver.heartbeat(old) is ErrorCode.unknown_member_id


def test_unknown_instance(driver: GroupDriver) -> None:
    """An instance id that nobody holds is answered with 25."""
    leader, _ = static_pair(driver)

    assert driver.heartbeat(leader, 1, "z") is ErrorCode.unknown_member_id


def test_return_of_the_leader_skips_assignment(driver: GroupDriver) -> None:
    """From v9 a returning leader learns that it leads, the list of members, and not to assign."""
    static_pair(driver)

    result = driver.join("x2", instance="x")

    assert result is not None
    assert result.skip_assignment
    assert result.leader == result.member_id
    assert {member.instance_id for member in result.members} == {"x", "y"}
    assert driver.state is GroupState.STABLE


def test_return_of_the_leader_before_v9(driver: GroupDriver) -> None:
    """Before v9 a returning leader is shown its old id as the leader: it takes itself for a follower."""
    old, _ = static_pair(driver)

    result = driver.join("x2", instance="x", skips=False)

    assert result is not None
    assert (result.leader, result.members, result.skip_assignment) == (old, (), False)


def test_return_is_answered_when_it_is_stored() -> None:
    """The new id is durable before it is returned; after a restart it is the one that counts."""
    driver = GroupDriver()
    static_pair(driver)
    driver.store_at_once = False

    driver.join("y2", instance="y")
    assert "y2" in driver.waiting
    (stored,) = driver.stores
    driver.finish_stores()

    assert driver.joined("y2").error is ErrorCode.none
    assert driver.joined("y2").member_id in {member.member_id for member in stored.record.members}


def test_return_that_cannot_be_stored(driver: GroupDriver) -> None:
    """If the new id cannot be stored, its owner must find the coordinator again."""
    static_pair(driver)
    driver.store_at_once = False
    driver.join("y2", instance="y")

    driver.finish_stores(ErrorCode.coordinator_not_available)

    assert driver.joined("y2").error is ErrorCode.coordinator_not_available
    assert driver.state is GroupState.STABLE


def test_rebalance_while_a_return_is_stored(driver: GroupDriver) -> None:
    """A rebalance that begins meanwhile answers the member, once, when all have joined."""
    leader, _ = static_pair(driver)
    driver.store_at_once = False
    driver.join("y2", instance="y")
    driver.join("z", instance="z")
    driver.finish_stores()
    assert driver.waiting == {"y2", "z"}

    driver.join("x", leader, instance="x")

    assert driver.joined("y2").generation == driver.joined("x").generation == 2


def test_instance_that_returns_twice(driver: GroupDriver) -> None:
    """The later of two returns of one instance wins; the earlier is fenced, though its id was stored."""
    static_pair(driver)
    driver.store_at_once = False
    driver.join("y2", instance="y")
    driver.join("y3", instance="y")
    assert driver.joined("y2").error is ErrorCode.fenced_instance_id

    driver.stores, later = driver.stores[:1], driver.stores[1:]
    driver.finish_stores()
    assert driver.waiting == {"y3"}
    driver.stores = later
    driver.finish_stores()

    assert driver.group.roster.static_id("y") == driver.joined("y3").member_id


def test_session_begins_anew_when_the_return_is_stored(driver: GroupDriver) -> None:
    """A return whose storing took longer than its session has a whole session from then on, and no more."""
    driver.join("x", instance="x")
    driver.pass_time(0)
    driver.sync_all("x")
    driver.store_at_once = False
    driver.join("x2", instance="x")
    driver.pass_time(2 * SESSION_MS / 1_000)
    driver.finish_stores()
    assert driver.group.roster.static_id("x") == driver.joined("x2").member_id

    driver.pass_time(SESSION_MS / 1_000)

    assert driver.group.roster.static_id("x") is None


def test_return_before_the_assignment_was_fetched(driver: GroupDriver) -> None:
    """An instance that returns without having synced has the rest of the time-out to do so."""
    driver.join("x", instance="x", session_ms=1_000_000)
    driver.join("y", instance="y", session_ms=1_000_000)
    driver.pass_time(0)
    leader = driver.joined("x").member_id
    driver.sync("x", leader, 1, {}, instance="x")
    driver.join("y2", instance="y", session_ms=1_000_000)
    assert driver.state is GroupState.STABLE

    driver.pass_time(REBALANCE_MS / 1_000)

    assert driver.group.roster.static_id("y") is None
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_return_with_another_protocol(driver: GroupDriver) -> None:
    """A return that changes the group's protocol rebalances it."""
    leader, _ = static_pair(driver, (RANGE, ROUND_ROBIN))

    driver.join("y2", instance="y", protocols=(ROUND_ROBIN,))
    assert driver.state is GroupState.PREPARING_REBALANCE
    driver.join("x", leader, instance="x", protocols=(RANGE, ROUND_ROBIN))

    assert driver.joined("y2").protocol_name == "roundrobin"


def test_return_while_the_leader_assigns(driver: GroupDriver) -> None:
    """While the leader may be assigning to the old id, a return starts over; the old one is fenced."""
    driver.join("x", instance="x")
    driver.join("y", instance="y")
    driver.pass_time(0)
    old = driver.joined("y").member_id
    driver.sync("s", old, 1, instance="y")

    driver.join("y2", instance="y")

    assert driver.synced("s").error is ErrorCode.fenced_instance_id
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_return_during_the_join_phase(driver: GroupDriver) -> None:
    """During the join phase a return takes the place of its old id, whose join is fenced."""
    leader, old = static_pair(driver)
    driver.join("y", old, instance="y", protocols=(Protocol("range", b"changed"),))
    driver.join("y2", instance="y")
    assert driver.joined("y").error is ErrorCode.fenced_instance_id

    driver.join("x", leader, instance="x")

    assert driver.joined("y2").generation == 2
    assert len(driver.joined("x").members) == 2


def test_a_newcomer_that_returns_during_the_join_phase(driver: GroupDriver) -> None:
    """An instance that joined, was lost and came again before the others did has joined, and waits for them however
    long that takes."""
    leader, _ = static_pair(driver)
    driver.join("z", instance="z")
    driver.join("z2", instance="z")
    assert driver.joined("z").error is ErrorCode.fenced_instance_id
    for _ in range(4):
        driver.pass_time(SESSION_MS / 2_000)
        driver.heartbeat(leader, 1, "x")
    assert driver.waiting == {"z2"}

    driver.join("x", leader, instance="x")

    assert driver.joined("z2").generation == driver.joined("x").generation == 2


def test_the_leader_after_a_restart(driver: GroupDriver) -> None:
    """Who led before leads, though an older member is there, which was away when the generation began."""
    driver.join("x", instance="x", session_ms=2 * REBALANCE_MS)
    driver.join("y", instance="y", session_ms=2 * REBALANCE_MS)
    driver.pass_time(0)
    _, follower = driver.sync_all("x", "y")
    driver.join("y", follower, instance="y", protocols=(ROUND_ROBIN, RANGE))
    driver.pass_time(REBALANCE_MS / 1_000)
    assert driver.joined("y").leader == follower
    driver.sync("y", follower, 2, {}, instance="y")
    loaded = GroupDriver()

    at_once(loaded.group.restore(driver.stored[-1].record, loaded.now))

    assert loaded.group.roster.leader_id == follower


def test_static_member_keeps_its_place_in_a_rebalance(driver: GroupDriver) -> None:
    """A static member that misses the join phase stays until its session expires."""
    leader, follower = static_pair(driver)
    driver.join("x", leader, instance="x")
    for _ in range(int(REBALANCE_MS // SESSION_MS) + 1):
        driver.pass_time(SESSION_MS / 1_000 - 1)
        if driver.heartbeat(follower, 1, "y") is ErrorCode.illegal_generation:
            break

    assert driver.joined("x").generation == 2
    assert {member.instance_id for member in driver.joined("x").members} == {"x", "y"}


def test_join_phase_to_which_nobody_came(driver: GroupDriver) -> None:
    """With static members only, none of which joins, the group goes on waiting, and at last is empty."""
    driver.join("x", instance="x", session_ms=100_000, rebalance_ms=20_000)
    driver.pass_time(0)
    (leader,) = driver.sync_all("x")
    driver.join("d", session_ms=6_000, rebalance_ms=6_000, protocols=(RANGE,))
    assert driver.leave(driver.group.roster.joined_members(None)[-1].member_id) == [ErrorCode.none]
    assert driver.state is GroupState.PREPARING_REBALANCE

    driver.pass_time(50)
    assert leader in driver.group.roster
    driver.pass_time(60)

    assert driver.state is GroupState.EMPTY


def test_instance_is_put_out_by_an_administrator(driver: GroupDriver) -> None:
    """LeaveGroup removes an instance without knowing its id."""
    static_pair(driver)

    errors = driver.leave_as(LeavingMember("", "y", "scaled down"), LeavingMember("", "z", None))

    assert errors == [ErrorCode.none, ErrorCode.unknown_member_id]
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_instance_that_left_is_new_when_it_comes_back(driver: GroupDriver) -> None:
    """After its removal an instance joins like anybody else."""
    leader, _ = static_pair(driver)
    driver.leave_as(LeavingMember("", "y", None))

    driver.join("y2", instance="y")
    driver.join("x", leader, instance="x")

    assert driver.joined("y2").generation == 2
    assert len(driver.joined("x").members) == 2
