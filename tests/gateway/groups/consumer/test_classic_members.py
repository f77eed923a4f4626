"""Members of the classic protocol in a consumer group: they are told to join whenever something is to change."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.classic.messages import JoinRequest, JoinResult, LeavingMember, Protocol, SyncRequest
from gateway.groups.consumer import classic_members
from gateway.groups.consumer.embedded import Subscription, read_assignment, write_subscription
from gateway.groups.consumer.messages import MemberState
from gateway.refusals import Refusal
from tests.gateway.groups.consumer.harness import REBALANCE_MS, SESSION_MS, Driver, FakeTopics


@pytest.fixture
def driver() -> Driver:
    """A group with one member of the consumer protocol."""
    made = Driver(FakeTopics(a=4))
    made.join("m", "a")
    return made


def join(driver: Driver, member_id: str = "", owned: tuple[int, ...] = (), **changes: object) -> JoinResult:
    said = write_subscription(Subscription(1, ("a",), None, {"a": owned} if owned else {}))
    request: dict[str, object] = {
        "member_id": member_id,
        "instance_id": None,
        "client_id": "c",
        "client_host": "/h",
        "protocol_type": "consumer",
        "protocols": (Protocol("range", said),),
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "reason": None,
        "requires_known_member_id": False,
        "supports_skip_assignment": True,
    }
    return classic_members.join(driver.group, JoinRequest(**(request | changes)), driver.now)  # type: ignore[arg-type]


def sync(driver: Driver, member_id: str, generation: int) -> tuple[int, ...]:
    request = SyncRequest(
        member_id=member_id,
        instance_id=None,
        generation=generation,
        protocol_type="consumer",
        protocol_name="range",
        assignments=(),
    )
    told = classic_members.sync(driver.group, request, driver.now)
    return read_assignment(told.assignment).partitions.get("a", ())


def beat(driver: Driver, member_id: str, generation: int) -> ErrorCode:
    return classic_members.heartbeat(driver.group, member_id, None, generation, driver.now)


def code_of(driver: Driver, **changes: object) -> ErrorCode:
    with pytest.raises(Refusal) as refused:
        join(driver, **changes)  # type: ignore[arg-type]
    return refused.value.code


def test_gets_what_is_free(driver: Driver) -> None:
    """It joins with nothing, is told to join again when partitions are free, and gets them with its next sync."""
    joined = join(driver)
    assert sync(driver, joined.member_id, joined.generation) == ()
    assert beat(driver, joined.member_id, joined.generation) is ErrorCode.none
    kept = driver.heartbeat("m", 2).assignment
    driver.heartbeat("m", 2, owned=kept)
    assert beat(driver, joined.member_id, joined.generation) is ErrorCode.rebalance_in_progress
    again = join(driver, joined.member_id)
    assert len(sync(driver, again.member_id, again.generation)) == 2


def test_gives_up_by_joining(driver: Driver) -> None:
    """It keeps what it has until it joins without it; then others get it."""
    driver.heartbeat("m", -1)
    joined = join(driver)
    assert len(sync(driver, joined.member_id, joined.generation)) == 4
    driver.join("n", "a")
    assert beat(driver, joined.member_id, joined.generation) is ErrorCode.rebalance_in_progress
    again = join(driver, joined.member_id, owned=(0, 1, 2, 3))
    kept = sync(driver, again.member_id, again.generation)
    assert len(kept) == 2
    assert driver.state_of(joined.member_id) is MemberState.UNREVOKED_PARTITIONS
    assert beat(driver, joined.member_id, again.generation) is ErrorCode.rebalance_in_progress
    last = join(driver, joined.member_id, owned=kept)
    assert beat(driver, joined.member_id, last.generation) is ErrorCode.none


def test_does_not_join_in_time(driver: Driver) -> None:
    """One that was told to join and does not is removed after its rebalance time-out."""
    joined = join(driver)
    sync(driver, joined.member_id, joined.generation)
    driver.join("n", "a")
    for _ in range(3):
        assert beat(driver, joined.member_id, joined.generation) is ErrorCode.rebalance_in_progress
        driver.advance(REBALANCE_MS / 3_000)
    assert joined.member_id not in driver.group.members


def test_does_not_sync_in_time(driver: Driver) -> None:
    """One that joins and does not sync is removed after its rebalance time-out, though it is alive."""
    joined = join(driver)
    for _ in range(3):
        beat(driver, joined.member_id, joined.generation)
        driver.advance(REBALANCE_MS / 3_000)
    assert joined.member_id not in driver.group.members


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"protocol_type": "connect"}, ErrorCode.inconsistent_group_protocol),
        ({"protocols": ()}, ErrorCode.inconsistent_group_protocol),
        ({"protocols": (Protocol("range", b"?"),)}, ErrorCode.inconsistent_group_protocol),
        ({"instance_id": "i", "member_id": "x"}, ErrorCode.unknown_member_id),
    ],
)
def test_refused(driver: Driver, changes: dict[str, object], code: ErrorCode) -> None:
    """One that is no consumer, or that the group does not know, is refused, and nothing has changed."""
    epoch, members = driver.group.epoch, set(driver.group.members)
    assert code_of(driver, **changes) is code
    assert (driver.group.epoch, set(driver.group.members)) == (epoch, members)


def test_other_protocols(driver: Driver) -> None:
    """It must share a protocol with the other classic members."""
    join(driver)
    said = write_subscription(Subscription(1, ("a",)))
    assert code_of(driver, protocols=(Protocol("own", said),)) is ErrorCode.inconsistent_group_protocol


def test_generations(driver: Driver) -> None:
    """Another generation than its own is refused, and so are members of the consumer protocol."""
    joined = join(driver)
    for member, generation, code in (
        (joined.member_id, joined.generation + 1, ErrorCode.illegal_generation),
        ("m", 2, ErrorCode.unknown_member_id),
        ("x", 2, ErrorCode.unknown_member_id),
    ):
        with pytest.raises(Refusal) as refused:
            beat(driver, member, generation)
        assert refused.value.code is code


def test_an_id_is_handed_out(driver: Driver) -> None:
    """A new member without an id is given one and asked to come back, and is no member before."""
    told = join(driver, requires_known_member_id=True)
    assert told.error is ErrorCode.member_id_required
    assert told.member_id not in driver.group.members
    assert join(driver, told.member_id).error is ErrorCode.none


def test_the_last_of_the_other_kind_leaves(driver: Driver) -> None:
    """When only classic members are left, the group may be a classic one."""
    join(driver)
    assert not driver.group.may_be_classic
    driver.heartbeat("m", -1)
    assert driver.group.may_be_classic


def test_leaving(driver: Driver) -> None:
    """It leaves by its id; an administrator removes a static one by its instance."""
    joined = join(driver)
    assert (
        classic_members.leave(driver.group, LeavingMember(joined.member_id, None, None), driver.now) is ErrorCode.none
    )
    static = join(driver, instance_id="i")
    assert classic_members.leave(driver.group, LeavingMember("", "i", None), driver.now) is ErrorCode.none
    assert static.member_id not in driver.group.members
    gone = LeavingMember("", "i", None)
    assert classic_members.leave(driver.group, gone, driver.now) is ErrorCode.unknown_member_id
