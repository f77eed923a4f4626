"""What classic members of a consumer group agree on is counted, and the count is what asking all of them would give."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from kio.schema.errors import ErrorCode

from gateway.groups.classic.messages import LeavingMember, Protocol
from gateway.groups.consumer import classic_members
from gateway.groups.consumer.agreement import Agreement
from gateway.groups.consumer.embedded import Subscription, write_subscription
from gateway.groups.consumer.messages import ClassicFacts
from tests.gateway.groups.consumer.harness import SESSION_MS, Driver, FakeTopics
from tests.gateway.groups.consumer.test_classic_members import code_of, join

NAMES = st.sampled_from("abc")
FACTS = st.none() | st.lists(NAMES, min_size=1, max_size=4).map(
    lambda names: ClassicFacts(SESSION_MS, tuple(Protocol(name, b"") for name in names))
)


def shared(members: list[ClassicFacts], names: list[str]) -> bool:
    return any(all(name in {known for known, _ in facts.protocols} for facts in members) for name in names)


@given(st.lists(FACTS, max_size=6), st.lists(NAMES, min_size=1, max_size=3), st.data())
def test_as_all_would_say(came: list[ClassicFacts | None], names: list[str], data: st.DataObject) -> None:
    """Whoever came and went, and whoever asks for itself."""
    agreement = Agreement()
    for facts in came:
        agreement.join(facts)
    stayed = []
    for facts in came:
        if data.draw(st.booleans()):
            agreement.leave(facts)
        else:
            stayed.append(facts)
    classic = [facts for facts in stayed if facts is not None]

    assert agreement.members == len(classic)
    assert agreement.is_shared(names, None) == shared(classic, names)
    for index, facts in enumerate(classic):
        assert agreement.is_shared(names, facts) == shared(classic[:index] + classic[index + 1 :], names)
    for facts in stayed:
        agreement.leave(facts)
    assert repr(agreement) == "<Agreement of 0 members, 0 protocols>"


def offers(*names: str) -> tuple[Protocol, ...]:
    said = write_subscription(Subscription(1, ("a",), None, {}))
    return tuple(Protocol(name, said) for name in names)


@pytest.fixture
def driver() -> Driver:
    made = Driver(FakeTopics(a=4))
    made.join("m", "a")
    return made


def test_members_that_change_come_back_and_go(driver: Driver) -> None:
    """A member is counted once, with what it offers now; a static one that returns takes its former's place."""
    first = join(driver, protocols=offers("range", "sticky"))
    join(driver, instance_id="i", protocols=offers("range", "sticky"))
    assert code_of(driver, protocols=offers("own")) is ErrorCode.inconsistent_group_protocol

    again = join(driver, first.member_id, protocols=offers("sticky"))
    join(driver, instance_id="i", protocols=offers("sticky", "own"))

    assert driver.group.agreement.members == 2
    assert code_of(driver, protocols=offers("range")) is ErrorCode.inconsistent_group_protocol
    classic_members.leave(driver.group, LeavingMember(again.member_id, None, None), driver.now)
    assert driver.group.agreement.members == 1
    assert join(driver, protocols=offers("own")).error is ErrorCode.none
    driver.group.die()
    assert driver.group.agreement.members == 0


def test_a_member_that_changes_its_protocol(driver: Driver) -> None:
    """It is counted for the one that it speaks now."""
    member = join(driver).member_id
    assert not driver.group.has_only_classic_members
    driver.join(member, "a")
    assert driver.group.agreement.members == 0
    join(driver, member)
    assert driver.group.agreement.members == 1
