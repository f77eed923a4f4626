"""JoinGroup: who gets in, with which id, and when the join phase ends (SEMANTICS 27)."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.classic.group import GENERATION_MAX
from gateway.groups.classic.messages import Protocol
from gateway.groups.classic.states import GroupState
from tests.gateway.groups.harness import REBALANCE_MS, SESSION_MS, GroupDriver, subscription

COOPERATIVE = Protocol("cooperative-sticky", subscription("t"))
RANGE = Protocol("range", subscription("t"))
ROUND_ROBIN = Protocol("roundrobin", subscription("t"))


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


def test_first_join_hands_out_an_id(driver: GroupDriver) -> None:
    """From v4 on, a join without a member id is answered with 79 and the id to join with."""
    result = driver.join("a", needs_id=True)

    assert result is not None
    assert (result.error, result.member_id) == (ErrorCode.member_id_required, "client-id1")
    assert driver.state is GroupState.EMPTY


def test_id_that_was_handed_out_joins(driver: GroupDriver) -> None:
    """The id from a 79 joins like any other member, and is pending no more."""
    driver.join("a", needs_id=True)

    driver.join("a", "client-id1", needs_id=True)
    driver.pass_time(0)

    assert driver.joined("a").error is ErrorCode.none
    assert driver.joined("a").leader == "client-id1"
    assert not driver.group.roster.pending


def test_handed_out_id_expires(driver: GroupDriver) -> None:
    """A client that does not use its id within the session time-out must ask for another one."""
    driver.join("a", needs_id=True)
    driver.pass_time(SESSION_MS / 1_000)

    result = driver.join("a", "client-id1")

    assert result is not None
    assert result.error is ErrorCode.unknown_member_id


def test_id_that_is_used_does_not_expire(driver: GroupDriver) -> None:
    """The member's own session counts from its join on."""
    driver.join("a", needs_id=True)
    driver.join("a", "client-id1", needs_id=True)
    driver.pass_time(0)
    driver.pass_time(SESSION_MS / 1_000 - 1)
    assert driver.heartbeat("client-id1") is ErrorCode.none

    driver.pass_time(2)

    assert "client-id1" in driver.group.roster


def test_handed_out_id_is_no_instance(driver: GroupDriver) -> None:
    """A pending id with an instance id is a stranger's: static members never are pending."""
    driver.join("a", needs_id=True)

    result = driver.join("a", "client-id1", instance="i")

    assert result is not None
    assert result.error is ErrorCode.unknown_member_id


def test_static_member_joins_at_once(driver: GroupDriver) -> None:
    """A static member is exempt from 79; its id begins with its instance id."""
    driver.join("a", instance="inst", needs_id=True)
    driver.pass_time(0)

    assert driver.joined("a").member_id == "inst-id1"


def test_pending_member_holds_a_rebalance_up(driver: GroupDriver) -> None:
    """A rebalance waits for those who were promised an id, but no longer than they live."""
    (first,) = driver.stable("a")
    driver.join("b", needs_id=True)
    driver.join("a", first)
    assert driver.state is GroupState.PREPARING_REBALANCE

    driver.pass_time(SESSION_MS / 1_000)

    assert driver.state is GroupState.COMPLETING_REBALANCE
    assert driver.joined("a").generation == 2


def test_initial_rebalance_waits_for_more() -> None:
    """An empty group waits the initial delay; each newcomer extends it by another one."""
    driver = GroupDriver(initial_delay_ms=3_000)
    driver.join("a")
    driver.pass_time(2.5)
    driver.join("b")
    driver.pass_time(1)
    assert driver.waiting == {"a", "b"}

    driver.pass_time(2.5)

    assert driver.joined("a").generation == driver.joined("b").generation == 1
    assert len(driver.joined("a").members) == 2


def test_initial_rebalance_ends_with_the_rebalance_timeout() -> None:
    """However many come, the initial delay never grows past the rebalance time-out."""
    driver = GroupDriver(initial_delay_ms=3_000)
    for second in range(7):
        driver.join(f"m{second}", rebalance_ms=7_000)
        driver.pass_time(1)

    assert driver.state is GroupState.COMPLETING_REBALANCE
    assert len(driver.joined("m0").members) == 7


def test_initial_rebalance_does_not_outlast_who_is_missing() -> None:
    """When an id expires that nobody used, all are here: the rest of the initial delay is not waited for."""
    driver = GroupDriver(initial_delay_ms=2 * SESSION_MS)
    driver.join("a")
    driver.join("b", needs_id=True)

    driver.pass_time(SESSION_MS / 1_000)

    assert driver.joined("a").generation == 1


def test_join_is_answered_when_all_have_come(driver: GroupDriver) -> None:
    """A newcomer waits until the others have joined again; only the leader gets the list of all."""
    (first,) = driver.stable("a")
    driver.join("b")
    assert driver.waiting == {"b"}

    driver.join("a", first)

    assert driver.waiting == set()
    assert driver.joined("a").leader == first
    assert [member.member_id for member in driver.joined("a").members] == [
        first,
        driver.joined("b").member_id,
    ]
    assert driver.joined("b").members == ()
    assert driver.joined("a").generation == driver.joined("b").generation == 2


def test_rebalance_timeout_drops_who_did_not_come(driver: GroupDriver) -> None:
    """Members that do not join again within the rebalance time-out are gone."""
    first, second = driver.stable("a", "b")
    driver.join("a", first)

    driver.pass_time(REBALANCE_MS / 1_000)

    assert driver.joined("a").error is ErrorCode.none
    assert [member.member_id for member in driver.joined("a").members] == [first]
    assert driver.heartbeat(second) is ErrorCode.unknown_member_id


def test_leader_that_does_not_come_is_replaced(driver: GroupDriver) -> None:
    """The leader of the next generation is a member that joined."""
    _, second = driver.stable("a", "b")
    driver.join("b", second, protocols=(Protocol("range", subscription("u")),))

    driver.pass_time(REBALANCE_MS / 1_000)

    assert driver.joined("b").leader == second
    assert driver.joined("b").members


def test_new_member_is_not_kept_waiting_for_ever(driver: GroupDriver) -> None:
    """A newcomer knows no id and cannot heartbeat: its first join is given up after 5 minutes."""
    (first,) = driver.stable("a", session_ms=1_800_000, rebalance_ms=1_800_000)
    driver.join("b")

    driver.pass_time(300)

    assert driver.joined("b").error is ErrorCode.unknown_member_id
    assert driver.group.roster.get(first) is not None


def test_no_common_protocol(driver: GroupDriver) -> None:
    """A client that shares no protocol with all members is refused with 23."""
    driver.stable("a", protocols=(RANGE, ROUND_ROBIN))

    result = driver.join("b", protocols=(COOPERATIVE,))

    assert result is not None
    assert result.error is ErrorCode.inconsistent_group_protocol
    assert driver.state is GroupState.STABLE


@pytest.mark.parametrize(("protocol_type", "protocols"), [("connect", (RANGE,)), ("consumer", ()), ("", (RANGE,))])
def test_other_protocol_type(protocol_type: str, protocols: tuple[Protocol, ...]) -> None:
    """Another protocol type than the group's, and no protocol at all, are refused with 23."""
    driver = GroupDriver()
    driver.stable("a")

    result = driver.join("b", protocol_type=protocol_type, protocols=protocols)

    assert result is not None
    assert result.error is ErrorCode.inconsistent_group_protocol


@pytest.mark.parametrize(("protocol_type", "protocols"), [("", (RANGE,)), ("consumer", ())])
def test_empty_group_wants_a_protocol(protocol_type: str, protocols: tuple[Protocol, ...]) -> None:
    """An empty group takes any protocol type and protocols, but not none."""
    result = GroupDriver().join("a", protocol_type=protocol_type, protocols=protocols)

    assert result is not None
    assert result.error is ErrorCode.inconsistent_group_protocol


def test_empty_group_may_change_its_protocol_type(driver: GroupDriver) -> None:
    """A group's facts from before it became empty do not bind its next members."""
    (first,) = driver.stable("a")
    driver.leave(first)

    driver.join("b", protocol_type="connect", protocols=(Protocol("default", b"x"),))
    driver.pass_time(0)

    assert driver.joined("b").protocol_type == "connect"
    assert driver.joined("b").protocol_name == "default"


def test_most_votes_select_the_protocol(driver: GroupDriver) -> None:
    """Each member votes for the first of its protocols that all know."""
    driver.join("a", protocols=(COOPERATIVE, ROUND_ROBIN, RANGE))
    driver.join("b", protocols=(ROUND_ROBIN, RANGE))
    driver.join("c", protocols=(RANGE, ROUND_ROBIN))
    driver.pass_time(0)

    assert {driver.joined(name).protocol_name for name in "abc"} == {"roundrobin"}


def test_follower_that_joins_unchanged_gets_the_generation(driver: GroupDriver) -> None:
    """In a stable group a follower with nothing new to say is answered at once."""
    first, second = driver.stable("a", "b")

    result = driver.join("b", second)

    assert result is not None
    assert (result.generation, result.leader, result.members) == (1, first, ())
    assert driver.state is GroupState.STABLE


def test_follower_that_joins_changed_rebalances(driver: GroupDriver) -> None:
    """New metadata of a follower starts a rebalance."""
    _, second = driver.stable("a", "b")

    driver.join("b", second, protocols=(Protocol("range", subscription("t", "u")),))

    assert driver.state is GroupState.PREPARING_REBALANCE


def test_leader_that_joins_rebalances(driver: GroupDriver) -> None:
    """The leader's join always starts a rebalance: it may have seen topics change."""
    first, _ = driver.stable("a", "b")

    driver.join("a", first)

    assert driver.state is GroupState.PREPARING_REBALANCE


def test_rejoin_with_another_session_timeout(driver: GroupDriver) -> None:
    """The time-out that a member named last is its own."""
    (member,) = driver.stable("a")
    driver.join("a", member, session_ms=2 * SESSION_MS)
    driver.sync_all("a")

    driver.pass_time(2 * SESSION_MS / 1_000 - 1)
    assert member in driver.group.roster
    driver.pass_time(1)

    assert member not in driver.group.roster


def test_rejoin_with_another_rebalance_timeout(driver: GroupDriver) -> None:
    """The group waits as long as the most patient of its members, as they are now."""
    first, second = driver.stable("a", "b")
    driver.join("a", first, rebalance_ms=REBALANCE_MS // 10)
    driver.join("b", second, rebalance_ms=REBALANCE_MS // 10)
    driver.sync_all("a", "b")
    driver.join("a", first, rebalance_ms=REBALANCE_MS // 10)

    driver.pass_time(REBALANCE_MS / 10_000)

    assert driver.joined("a").generation == 3
    assert second not in driver.group.roster


def test_lost_join_answer_can_be_had_again(driver: GroupDriver) -> None:
    """While the leader assigns, a join with the same metadata is answered as before."""
    driver.join("a")
    driver.join("b")
    driver.pass_time(0)
    before = driver.joined("a")

    assert driver.join("a", before.member_id) == before
    assert driver.state is GroupState.COMPLETING_REBALANCE


def test_changed_join_interrupts_the_assignment(driver: GroupDriver) -> None:
    """New metadata while the leader assigns starts over; members that wait for the assignment get 27."""
    driver.join("a")
    driver.join("b")
    driver.pass_time(0)
    second = driver.joined("b").member_id
    driver.sync("b", second, 1)

    driver.join("b2", second, protocols=(Protocol("range", subscription("u")),))

    assert driver.synced("b").error is ErrorCode.rebalance_in_progress
    assert driver.state is GroupState.PREPARING_REBALANCE


def test_join_that_is_repeated_replaces_the_first(driver: GroupDriver) -> None:
    """A member that joins again while its join waits has that one answered with 27."""
    first, second = driver.stable("a", "b")
    driver.join("a", first)

    driver.join("a again", first)
    driver.join("b", second)

    assert driver.joined("a").error is ErrorCode.rebalance_in_progress
    assert driver.joined("a again").generation == 2


def test_unknown_member_id(driver: GroupDriver) -> None:
    """An id that the group does not know is refused with 25."""
    driver.stable("a")

    result = driver.join("b", "nobody")

    assert result is not None
    assert result.error is ErrorCode.unknown_member_id


def test_generation_after_the_highest(driver: GroupDriver) -> None:
    """A generation is a 32-bit number on the wire and in the log: after the highest one comes the first."""
    (member,) = driver.stable("a")
    driver.group.generation = GENERATION_MAX

    driver.join("a", member)

    assert driver.joined("a").generation == 1


def test_group_that_is_full_refuses(driver: GroupDriver) -> None:
    """A group of group.max.size members refuses the next with 81, and goes on."""
    driver = GroupDriver(max_size=2)
    driver.stable("a", "b")

    result = driver.join("c")

    assert result is not None
    assert (result.error, result.member_id) == (ErrorCode.group_max_size_reached, "")
    assert driver.state is GroupState.STABLE


def test_last_to_join_a_full_group_goes() -> None:
    """In the join phase of a group that is too large, who joins last is put out."""
    driver = GroupDriver(max_size=3)
    first, second, third = driver.stable("a", "b", "c")
    small = GroupDriver(max_size=2)
    at_once(small.group.restore(driver.stored[-1].record, small.now))
    assert small.state is GroupState.PREPARING_REBALANCE

    small.join("a", first)
    small.join("b", second)
    small.join("c", third)

    assert small.joined("c").error is ErrorCode.group_max_size_reached
    assert small.joined("a").generation == 2
    assert len(small.joined("a").members) == 2
