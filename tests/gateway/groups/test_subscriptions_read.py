"""The topics of a classic group's subscriptions are read in steps, and until then it counts as subscribed to all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.turns import at_once
from gateway.groups.classic import subscription as subscriptions
from gateway.groups.classic.messages import Effect, JoinRequest, LeavingMember, Read
from gateway.groups.classic.subscription import subscribed_topics
from tests.gateway.groups.harness import RANGE, REBALANCE_MS, SESSION_MS, GroupDriver, subscription

AT_ONCE = 10


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "TOPICS_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(subscriptions, "TOPICS_MAX", 10 * AT_ONCE)


def names(count: int) -> list[str]:
    return [f"t{number}" for number in range(count)]


def test_a_long_subscription_is_read_in_steps() -> None:
    """A step goes through so many topics, whether or not it is the first time that they are seen."""
    wanted = names(3 * AT_ONCE + 1)
    steps = subscribed_topics([subscription(*wanted)] * 2)
    count = 0
    found: frozenset[str] | None = None
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found = done.value
            break
        count += 1

    assert found == frozenset(wanted)
    assert count == 2 * 4


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, AT_ONCE + 1])
def test_all_topics_are_found(count: int) -> None:
    assert at_once(subscribed_topics([subscription(*names(count))])) == frozenset(names(count))


def test_more_topics_than_are_remembered() -> None:
    """Their group counts as subscribed to all, as if they could not be read."""
    assert at_once(subscribed_topics([subscription(*names(10 * AT_ONCE))])) is not None
    assert at_once(subscribed_topics([subscription(*names(10 * AT_ONCE)), subscription("more")])) is None


@pytest.mark.parametrize("cut", [1, 5, 9, 100])
def test_a_subscription_that_is_cut_off(cut: int) -> None:
    """Wherever: nothing of it is believed, nor of those beside it."""
    whole = subscription(*names(3 * AT_ONCE))[:-8]  # without what follows the topics
    assert at_once(subscribed_topics([subscription("t"), whole[:-cut]])) is None


def reads(effects: list[Effect]) -> Iterator[Read]:
    return (effect for effect in effects if isinstance(effect, Read))


def completed(driver: GroupDriver) -> Read:
    """One member joins, and the join phase ends; what is to be read then."""
    request = JoinRequest(
        member_id="",
        instance_id=None,
        client_id="c",
        client_host="/h",
        protocol_type="consumer",
        protocols=RANGE,
        session_timeout_ms=SESSION_MS,
        rebalance_timeout_ms=REBALANCE_MS,
        reason=None,
        requires_known_member_id=False,
        supports_skip_assignment=True,
    )
    effects = driver.group.join(request, object(), driver.now)
    while (deadline := driver.deadlines.pop_due(driver.now_s)) is not None:
        effects += deadline.owner.fire(driver.now)
    (read,) = reads(effects)
    return read


def test_subscribed_to_all_until_they_are_read() -> None:
    """No offset expires, and none is deleted, that a member may want."""
    driver = GroupDriver()
    read = completed(driver)
    assert driver.group.is_subscribed_to("other")

    read.told(at_once(subscribed_topics(read.subscriptions)))

    assert driver.group.is_subscribed_to("t")
    assert not driver.group.is_subscribed_to("other")


def test_read_too_late() -> None:
    """What is told of a generation that is over changes nothing."""
    driver = GroupDriver()
    late = completed(driver)
    (member,) = driver.group.roster
    driver.group.leave([LeavingMember(member.member_id, None, None)], driver.now)
    assert driver.group.is_empty

    late.told(frozenset({"former"}))

    assert not driver.group.is_subscribed_to("former")
