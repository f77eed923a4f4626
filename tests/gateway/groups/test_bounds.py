"""Memory that strangers can make groups hold has a bound, and honest members go on at it...."""

from __future__ import annotations

from pathlib import Path

from kio.schema.errors import ErrorCode

from gateway.groups.classic.group import Group
from gateway.groups.classic.membership import ID_PREFIX_CHARS_MAX
from gateway.groups.classic.messages import JoinRequest, Protocol
from gateway.groups.classic.roster import PENDING_MAX
from gateway.groups.classic.states import GroupState
from tests.gateway.apis.harness import Admin
from tests.gateway.groups.harness import GroupDriver

KIB = 1024


def protocols(size: int) -> list[Protocol]:
    return [Protocol("range", bytes(size - len("range")))]


def used(driver: GroupDriver) -> int:
    return driver.rules.allowance.used


def test_metadata_of_one_member() -> None:
    """A member with more metadata than one may have is refused with 81, and leaves nothing behind."""
    driver = GroupDriver(member_bytes=10 * KIB)

    driver.join("a", protocols=protocols(10 * KIB))
    refused = driver.join("b", protocols=protocols(10 * KIB + 1))
    driver.pass_time(0)

    assert driver.joined("a").error is ErrorCode.none
    assert refused is not None
    assert refused.error is ErrorCode.group_max_size_reached
    assert (len(driver.group.roster), used(driver)) == (1, 10 * KIB)


def test_metadata_of_all_members() -> None:
    """Members beyond what all may hold together are refused with 81; those in the group may rejoin."""
    driver = GroupDriver(initial_delay_ms=1_000, member_bytes=10 * KIB)
    for name in ("a", "b", "c"):
        assert driver.join(name, protocols=protocols(10 * KIB)) is None, "it waits for others"

    refused = driver.join("d", protocols=protocols(10 * KIB))
    driver.pass_time(10)
    again = driver.join("e", driver.joined("a").member_id, protocols=protocols(9 * KIB))

    assert refused is not None
    assert refused.error is ErrorCode.group_max_size_reached
    assert again is None or again.error is ErrorCode.none
    assert used(driver) == 29 * KIB


def test_metadata_is_returned() -> None:
    """Memory of members that have left, or whose group is gone, is free for others."""
    driver = GroupDriver(member_bytes=10 * KIB)
    (first,) = driver.stable("a", protocols=protocols(8 * KIB))
    assert used(driver) == 8 * KIB + len(first)

    driver.leave(first)
    assert used(driver) == 0
    driver.stable("b", protocols=protocols(8 * KIB))
    driver.group.die(ErrorCode.not_coordinator, driver.now)

    assert used(driver) == 0


def test_assignments() -> None:
    """A leader that assigns more than members may hold has its group begin again, with -1 as in Kafka."""
    driver = GroupDriver(member_bytes=KIB)
    driver.join("a")
    driver.pass_time(0)
    result = driver.joined("a")

    refused = driver.sync("s", result.member_id, result.generation, {result.member_id: bytes(KIB + 1)})

    assert refused is not None
    assert refused.error is ErrorCode.unknown_server_error
    assert driver.state is GroupState.PREPARING_REBALANCE
    assert not driver.stored


def test_assignments_of_all_groups() -> None:
    """No member has more than it may, but all together more than there is room for."""
    driver = GroupDriver(member_bytes=KIB)  # room for three such members
    for name in "abcd":
        driver.join(name)
    driver.pass_time(0)
    result = driver.joined("a")
    shares = {member.member_id: bytes(KIB * 7 // 8) for member in result.members}

    refused = driver.sync("s", result.member_id, result.generation, shares)

    assert refused is not None
    assert refused.error is ErrorCode.unknown_server_error
    assert not driver.stored


def test_ids_that_nobody_uses() -> None:
    """Ids that were handed out and are not used make room for others, oldest first."""
    driver = GroupDriver()
    answers = [driver.join(f"a{n}", needs_id=True) for n in range(PENDING_MAX + 5)]

    oldest = driver.join("old", answers[0].member_id)  # type: ignore[union-attr]
    newest = driver.join("new", answers[-1].member_id)  # type: ignore[union-attr]

    assert oldest is not None
    assert oldest.error is ErrorCode.unknown_member_id
    assert newest is None or newest.error is ErrorCode.none
    assert len(driver.group.roster.pending) == PENDING_MAX - 1


def test_client_ids_longer_than_member_ids() -> None:
    """A client id of any length gives a member id that can be answered, so no ghost is left in the group."""
    driver = GroupDriver()
    request = JoinRequest(
        member_id="",
        instance_id=None,
        client_id="x" * 32_767,
        client_host="/127.0.0.1",
        protocol_type="consumer",
        protocols=(Protocol("range", b""),),
        session_timeout_ms=10_000,
        rebalance_timeout_ms=10_000,
        reason=None,
        requires_known_member_id=False,
        supports_skip_assignment=False,
    )
    driver._wait("a")
    driver._carry_out(driver.group.join(request, "a", driver.now))

    (member,) = driver.group.roster
    assert len(member.member_id) < ID_PREFIX_CHARS_MAX + 40
    assert isinstance(driver.group, Group)


def test_groups(tmp_path: Path) -> None:
    """A commit or member of one group too many is refused with 44; groups that are there go on."""
    admin = Admin(tmp_path, ["groups.max=2"])
    try:
        topic = admin.create()

        def commit(group: str) -> int:
            partition = {"partition_index": 0, "committed_offset": 1, "committed_metadata": ""}
            answer = admin.ask(
                "OffsetCommit",
                8,
                group_id=group,
                generation_id_or_member_epoch=-1,
                member_id="",
                topics=[{"name": topic, "partitions": [partition]}],
            )
            return int(answer.topics[0].partitions[0].error_code)

        def join(group: str) -> int:
            answer = admin.ask(
                "JoinGroup",
                3,
                group_id=group,
                session_timeout=10_000,
                rebalance_timeout=10_000,
                member_id="",
                protocol_type="consumer",
                protocols=[{"name": "range", "metadata": b""}],
            )
            return int(answer.error_code)

        assert [commit("a"), join("b"), commit("c"), join("d"), commit("a"), commit("a")] == [0, 0, 44, 44, 0, 0]
    finally:
        admin.close()
