"""The right to commit offsets, by member and state (SEMANTICS 30)."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups.classic.committing import admit_commit
from tests.gateway.groups.harness import SESSION_MS, GroupDriver


@pytest.fixture
def driver() -> GroupDriver:
    return GroupDriver()


def test_empty_group_takes_commits_without_generation(driver: GroupDriver) -> None:
    """Consumers that assign by themselves, and administrators, commit while nobody is in the group."""
    assert driver.commit() is ErrorCode.none


def test_group_with_members_does_not(driver: GroupDriver) -> None:
    """While the group has members, a commit without member and generation is refused with 25."""
    driver.stable("a")

    assert driver.commit() is ErrorCode.unknown_member_id


def test_member_commits_in_its_generation(driver: GroupDriver) -> None:
    """A member commits in its own generation; others get 22, strangers 25."""
    (member,) = driver.stable("a")

    assert driver.commit(member, 1) is ErrorCode.none
    assert driver.commit(member, 2) is ErrorCode.illegal_generation
    assert driver.commit(member, -1) is ErrorCode.illegal_generation
    assert driver.commit("nobody", 1) is ErrorCode.unknown_member_id


def test_empty_group_knows_no_member(driver: GroupDriver) -> None:
    """A commit with a generation into an empty group is a stranger's."""
    assert driver.commit("nobody", 1) is ErrorCode.unknown_member_id


def test_commit_during_the_join_phase(driver: GroupDriver) -> None:
    """A member may still commit what it read before it joins again."""
    leader, follower = driver.stable("a", "b")
    driver.join("a", leader)

    assert driver.commit(follower, 1) is ErrorCode.none


def test_commit_while_the_leader_assigns(driver: GroupDriver) -> None:
    """Once it has had the answer to its join, a member's commit is answered with 27."""
    driver.join("a")
    driver.pass_time(0)

    assert driver.commit(driver.joined("a").member_id, 1) is ErrorCode.rebalance_in_progress


def test_transactional_commit_while_the_leader_assigns(driver: GroupDriver) -> None:
    """In a transaction it is taken, as in Kafka, if it is of this generation."""
    driver.join("a")
    driver.pass_time(0)
    member = driver.joined("a").member_id

    assert admit_commit(driver.group, member, None, 1, driver.now, transactional=True) is ErrorCode.none
    assert admit_commit(driver.group, member, None, 0, driver.now, transactional=True) is ErrorCode.illegal_generation


def test_commit_keeps_the_member_alive(driver: GroupDriver) -> None:
    """A commit is as good as a heartbeat."""
    (member,) = driver.stable("a")
    for _ in range(3):
        driver.pass_time(SESSION_MS / 1_000 - 1)
        driver.commit(member, 1)

    assert member in driver.group.roster


def test_fenced_instance_does_not_commit(driver: GroupDriver) -> None:
    """A static member's old id commits no more: 82."""
    driver.join("x", instance="x")
    driver.pass_time(0)
    (old,) = driver.sync_all("x")
    driver.join("x2", instance="x")

    assert driver.commit(old, 1, "x") is ErrorCode.fenced_instance_id
