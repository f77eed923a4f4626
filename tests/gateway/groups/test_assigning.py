"""SyncGroup, heartbeats, sessions, leaving: a group's life once members have joined (SEMANTICS 28)."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.classic.messages import Protocol
from gateway.groups.classic.states import GroupState
from tests.gateway.groups.harness import REBALANCE_MS, SESSION_MS, GroupDriver, subscription

SESSION_S = SESSION_MS / 1_000
REBALANCE_S = REBALANCE_MS / 1_000


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


def joined_pair(driver: GroupDriver) -> tuple[str, str]:
    """Two members whose leader has not assigned yet."""
    driver.join("a")
    driver.join("b")
    driver.pass_time(0)
    return driver.joined("a").member_id, driver.joined("b").member_id


def test_assignment_reaches_each_member(driver: GroupDriver) -> None:
    """Each member gets the share that the leader gave it; a member without a share gets nothing."""
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)

    driver.sync("a", leader, 1, {follower: b"all"})

    assert driver.synced("b").assignment == b"all"
    assert driver.synced("a").assignment == b""
    assert (driver.synced("a").protocol_type, driver.synced("a").protocol_name) == ("consumer", "range")
    assert driver.state is GroupState.STABLE


def test_assignment_is_durable_before_it_is_told() -> None:
    """Nobody gets an assignment that a restart could lose."""
    driver = GroupDriver(store_at_once=False)
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)
    driver.sync("a", leader, 1, {leader: b"1", follower: b"2"})
    assert driver.waiting == {"a", "b"}

    (store,) = driver.stores
    driver.finish_stores()

    assert driver.synced("b").assignment == b"2"
    assert [(m.member_id, m.assignment) for m in store.record.members] == [(leader, b"1"), (follower, b"2")]


def test_late_follower_syncs(driver: GroupDriver) -> None:
    """A follower that syncs when the group is stable is answered at once."""
    leader, follower = joined_pair(driver)
    driver.sync("a", leader, 1, {follower: b"2"})

    result = driver.sync("b", follower, 1)

    assert result is not None
    assert result.assignment == b"2"


def test_assignment_that_cannot_be_stored() -> None:
    """When the assignment cannot be stored, its waiters hear so and the group rebalances."""
    driver = GroupDriver(store_at_once=False)
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)
    driver.sync("a", leader, 1, {leader: b"1"})

    driver.finish_stores(ErrorCode.coordinator_not_available)

    assert driver.synced("a").error is ErrorCode.coordinator_not_available
    assert driver.synced("b").error is ErrorCode.coordinator_not_available
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_rebalance_overtakes_a_store() -> None:
    """An assignment that becomes durable after a rebalance has begun reaches nobody."""
    driver = GroupDriver(store_at_once=False)
    leader, follower = joined_pair(driver)
    driver.sync("a", leader, 1, {leader: b"1", follower: b"2"})
    driver.join("c")
    assert driver.synced("a").error is ErrorCode.rebalance_in_progress

    driver.finish_stores()

    assert driver.state is GroupState.PREPARING_REBALANCE
    assert [member.assignment for member in driver.group.roster] == [b"", b"", b""]


def test_generation_overtakes_a_store() -> None:
    """An assignment that becomes durable in the next generation is not handed out there."""
    driver = GroupDriver(store_at_once=False)
    leader, follower = joined_pair(driver)
    driver.sync("a", leader, 1, {leader: b"1", follower: b"2"})
    driver.leave(follower)
    driver.join("a", leader)
    assert driver.joined("a").generation == 2
    driver.sync("a", leader, 2)

    driver.stores, later = driver.stores[:1], driver.stores[1:]
    driver.finish_stores()
    assert driver.waiting == {"a"}
    driver.stores = later
    driver.finish_stores()

    assert driver.synced("a").assignment == b""
    assert driver.state is GroupState.STABLE


def test_leader_that_syncs_twice(driver: GroupDriver) -> None:
    """A leader that repeats its sync is answered on the second; the first assignment stands."""
    driver.store_at_once = False
    leader, _ = joined_pair(driver)
    driver.sync("a", leader, 1, {leader: b"1"})
    driver.sync("a again", leader, 1, {leader: b"other"})
    assert driver.synced("a").error is ErrorCode.rebalance_in_progress
    assert len(driver.stores) == 1

    driver.finish_stores()

    assert driver.synced("a again").assignment == b"1"


@pytest.mark.parametrize(
    ("member", "generation", "protocol_type", "protocol_name", "error"),
    [
        ("nobody", 1, None, None, ErrorCode.unknown_member_id),
        ("b", 2, None, None, ErrorCode.illegal_generation),
        ("b", 0, None, None, ErrorCode.illegal_generation),
        ("b", 1, "connect", "range", ErrorCode.inconsistent_group_protocol),
        ("b", 1, "consumer", "roundrobin", ErrorCode.inconsistent_group_protocol),
    ],
)
def test_sync_is_checked(
    driver: GroupDriver,
    member: str,
    generation: int,
    protocol_type: str | None,
    protocol_name: str | None,
    error: ErrorCode,
) -> None:
    """Unknown members get 25, other generations 22, another protocol 23 (KIP-559)."""
    _, follower = joined_pair(driver)

    result = driver.sync(
        "s",
        follower if member == "b" else member,
        generation,
        protocol_type=protocol_type,
        protocol_name=protocol_name,
    )

    assert result is not None
    assert result.error is error


def test_sync_during_a_rebalance(driver: GroupDriver) -> None:
    """During the join phase a sync is answered with 27."""
    leader, follower = driver.stable("a", "b")
    driver.join("a", leader)

    result = driver.sync("s", follower, 1)

    assert result is not None
    assert result.error is ErrorCode.rebalance_in_progress


def test_members_that_do_not_sync_are_dropped(driver: GroupDriver) -> None:
    """A member that does not ask for its assignment within the rebalance time-out is removed."""
    leader, follower = joined_pair(driver)
    driver.sync("a", leader, 1, {leader: b"1"})
    for _ in range(int(REBALANCE_S // 5)):
        driver.pass_time(5)
        driver.heartbeat(leader)
        driver.heartbeat(follower)

    assert driver.heartbeat(follower) is ErrorCode.unknown_member_id
    assert driver.heartbeat(leader) is ErrorCode.rebalance_in_progress


def test_a_group_in_which_all_have_synced_is_left_alone(driver: GroupDriver) -> None:
    """The time-out for syncs ends with the last of them."""
    leader, follower = driver.stable("a", "b")
    for _ in range(int(REBALANCE_S // 5) + 1):
        driver.pass_time(5)
        assert driver.heartbeat(leader) is driver.heartbeat(follower) is ErrorCode.none

    assert driver.state is GroupState.STABLE
    assert driver.group.generation == 1


def test_leader_that_does_not_sync_is_dropped(driver: GroupDriver) -> None:
    """Followers that wait for a leader that never assigns are answered, and join again."""
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)
    for _ in range(int(REBALANCE_S // 5)):
        driver.heartbeat(leader)
        driver.pass_time(5)

    assert driver.synced("b").error is ErrorCode.rebalance_in_progress
    assert leader not in driver.group.roster
    assert driver.group.roster.leader_id == follower


def test_heartbeats_keep_members(driver: GroupDriver) -> None:
    """A member that sends heartbeats lives; one that does not is gone after its session time-out."""
    leader, follower = driver.stable("a", "b")
    for _ in range(3):
        driver.pass_time(SESSION_S - 1)
        assert driver.heartbeat(leader) in (ErrorCode.none, ErrorCode.rebalance_in_progress)

    assert leader in driver.group.roster
    assert follower not in driver.group.roster
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_heartbeat_is_checked(driver: GroupDriver) -> None:
    """Wrong generation 22, unknown member 25, during the join phase 27, while the leader assigns 0."""
    leader, follower = driver.stable("a", "b")
    answers = [driver.heartbeat(follower, 7), driver.heartbeat("nobody", 1)]
    driver.join("a", leader)
    answers.append(driver.heartbeat(follower))
    driver.join("b", follower)
    answers.append(driver.heartbeat(follower, 2))

    assert answers == [
        ErrorCode.illegal_generation,
        ErrorCode.unknown_member_id,
        ErrorCode.rebalance_in_progress,
        ErrorCode.none,
    ]


def test_waiting_members_need_no_heartbeat(driver: GroupDriver) -> None:
    """A member whose join waits for us does not expire, however long that takes."""
    leader, follower = driver.stable("a", "b")
    driver.join("a", leader)
    while driver.state is GroupState.PREPARING_REBALANCE:
        driver.heartbeat(follower, 1)
        driver.pass_time(SESSION_S / 2)

    assert driver.joined("a").error is ErrorCode.none
    driver.pass_time(SESSION_S)
    assert driver.heartbeat(leader) is ErrorCode.unknown_member_id


def test_session_begins_anew_with_the_assignment(driver: GroupDriver) -> None:
    """A member that waited for its assignment longer than its session may fall silent only as long as others."""
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)
    for _ in range(3):
        driver.heartbeat(leader)
        driver.pass_time(SESSION_S - 1)
    driver.sync("a", leader, 1, {})
    assert driver.synced("b").error is ErrorCode.none

    driver.pass_time(SESSION_S - 1)
    assert follower in driver.group.roster
    driver.pass_time(1)

    assert follower not in driver.group.roster


def test_member_that_dies_in_the_join_phase(driver: GroupDriver) -> None:
    """The others do not wait longer for a member that dies than its session time-out."""
    leader, _ = driver.stable("a", "b")
    driver.join("a", leader)

    driver.pass_time(SESSION_S)

    assert driver.joined("a").generation == 2
    assert len(driver.joined("a").members) == 1


def test_member_that_dies_while_the_leader_assigns(driver: GroupDriver) -> None:
    """A member that dies while the leader assigns makes the others join again."""
    leader, _ = joined_pair(driver)
    driver.heartbeat(leader)
    driver.pass_time(SESSION_S - 1)
    driver.heartbeat(leader)

    driver.pass_time(1)

    assert driver.state is GroupState.PREPARING_REBALANCE


def test_leaving_rebalances(driver: GroupDriver) -> None:
    """When a member leaves, the others join again; when the last leaves, the group is empty."""
    leader, follower = driver.stable("a", "b")

    assert driver.leave(follower, "nobody") == [ErrorCode.none, ErrorCode.unknown_member_id]
    assert driver.heartbeat(leader) is ErrorCode.rebalance_in_progress

    driver.leave(leader)
    assert driver.state is GroupState.EMPTY
    assert driver.group.generation == 2
    assert driver.stored[-1].record.members == ()


def test_several_leave_at_once(driver: GroupDriver) -> None:
    """Members that leave together cause one rebalance."""
    ids = driver.stable("a", "b", "c")

    driver.leave(*ids)

    assert driver.state is GroupState.EMPTY
    assert driver.group.generation == 2


def test_leaving_while_the_join_waits(driver: GroupDriver) -> None:
    """A member that leaves while its join waits has that answered with 25."""
    leader, _ = driver.stable("a", "b")
    driver.join("a", leader)

    driver.leave(leader)

    assert driver.joined("a").error is ErrorCode.unknown_member_id


def test_leaving_while_the_sync_waits(driver: GroupDriver) -> None:
    """A member that leaves while its sync waits has that answered with 25; the others with 27."""
    driver.join("a")
    driver.join("b")
    driver.join("c")
    driver.pass_time(0)
    second, third = driver.joined("b").member_id, driver.joined("c").member_id
    driver.sync("b", second, 1)
    driver.sync("c", third, 1)

    driver.leave(second)

    assert driver.synced("b").error is ErrorCode.unknown_member_id
    assert driver.synced("c").error is ErrorCode.rebalance_in_progress


def test_pending_member_leaves(driver: GroupDriver) -> None:
    """A promised id that is given back does not disturb a stable group, nor hold up a rebalance."""
    (leader,) = driver.stable("a")
    driver.join("b", needs_id=True)
    pending = driver.joined("b").member_id

    assert driver.leave(pending) == [ErrorCode.none]
    assert driver.state is GroupState.STABLE

    driver.join("b", needs_id=True)
    driver.join("a", leader)
    driver.leave(driver.joined("b").member_id)
    assert driver.joined("a").generation == 2


def test_cooperative_members_rebalance_twice(driver: GroupDriver) -> None:
    """A follower that gives partitions up joins again at once, and the group settles after it."""
    cooperative = (Protocol("cooperative-sticky", subscription("t")),)
    owning = (Protocol("cooperative-sticky", subscription("t") + b"owns"),)
    (first,) = driver.stable("a", protocols=cooperative)
    driver.join("b", protocols=cooperative)
    driver.join("a", first, protocols=owning)
    second = driver.joined("b").member_id
    driver.sync_all("a", "b")

    driver.join("a", first, protocols=cooperative)
    assert driver.heartbeat(second) is ErrorCode.rebalance_in_progress
    driver.join("b", second, protocols=owning)
    driver.sync_all("a", "b")

    assert driver.group.generation == 3
    assert driver.state is GroupState.STABLE


def test_generation_never_repeats_while_members_come_and_go(driver: GroupDriver) -> None:
    """Each rebalance, also one that leaves the group empty, has the next generation."""
    generations = []
    for _ in range(3):
        (member,) = driver.stable("a")
        generations.append(driver.group.generation)
        driver.leave(member)
        generations.append(driver.group.generation)

    assert generations == [1, 2, 3, 4, 5, 6]


def test_members_go_on_after_a_restart(driver: GroupDriver) -> None:
    """A group that is loaded is stable in its generation, and its members have a whole session."""
    leader, follower = driver.stable("a", "b")
    loaded = GroupDriver()

    effects = at_once(loaded.group.restore(driver.stored[-1].record, loaded.now))

    assert effects == []
    assert loaded.state is GroupState.STABLE
    assert loaded.group.roster.leader_id == leader
    loaded.pass_time(SESSION_S - 1)
    assert loaded.heartbeat(follower, 1) is ErrorCode.none
    synced = loaded.sync("s", follower, 1)
    assert synced is not None
    assert synced.assignment == follower.encode()
    unchanged = loaded.join("j", follower)
    assert unchanged is not None
    assert unchanged.generation == 1


def test_empty_group_after_a_restart(driver: GroupDriver) -> None:
    """An empty group keeps its generation and the time since when it has been empty."""
    (member,) = driver.stable("a")
    driver.pass_time(5)
    driver.leave(member)
    loaded = GroupDriver()
    loaded.pass_time(1_000)

    at_once(loaded.group.restore(driver.stored[-1].record, loaded.now))

    assert loaded.state is GroupState.EMPTY
    assert (loaded.group.generation, loaded.group.state_since_ms) == (2, driver.group.state_since_ms)
    loaded.join("b")
    loaded.pass_time(0)
    assert loaded.joined("b").generation == 3


def test_death_answers_all(driver: GroupDriver) -> None:
    """When the coordinator stops, all waiters are answered, and no deadline is left."""
    leader, _ = driver.stable("a", "b")
    driver.join("a", leader)
    driver.join("c", needs_id=True)

    effects = driver.group.die(ErrorCode.not_coordinator, driver.now)
    driver._carry_out(effects)

    assert driver.joined("a").error is ErrorCode.not_coordinator
    assert driver.waiting == set()
    assert driver.deadlines.pop_due(float("inf")) is None
    result = driver.join("d")
    assert result is not None
    assert result.error is ErrorCode.coordinator_not_available


def test_death_while_the_leader_assigns(driver: GroupDriver) -> None:
    """Who waits for an assignment is answered, no deadline is left, and what comes later finds nobody."""
    leader, follower = joined_pair(driver)
    driver.sync("b", follower, 1)

    driver._carry_out(driver.group.die(ErrorCode.not_coordinator, driver.now))

    assert driver.synced("b").error is ErrorCode.not_coordinator
    assert driver.deadlines.pop_due(float("inf")) is None
    assert driver.heartbeat(leader) is ErrorCode.coordinator_not_available
    assert driver.commit(leader, 1) is ErrorCode.coordinator_not_available
    late = driver.sync("a", leader, 1, {leader: b"1"})
    assert late is not None
    assert late.error is ErrorCode.coordinator_not_available
    assert not driver.stored
