"""Members with very many topics: each step of their way is bounded, and no step is lost on it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from gateway.groups import landing
from gateway.groups.consumer import format as stored
from gateway.groups.consumer import reconciliation
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import CurrentRecord, Heartbeat, HeartbeatAnswer, MemberState
from tests.gateway.groups.consumer.harness import REBALANCE_MS, Driver, FakeTopics
from tests.gateway.groups.consumer.test_services import AT_ONCE, beat, group_of
from tests.gateway.groups.services import run, serving

TOPICS = 30
STEP = 10
NAMES = frozenset(f"t{n}" for n in range(TOPICS))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A step goes through ten topics."""
    monkeypatch.setattr(reconciliation, "PLACES_AT_ONCE", STEP * 2)  # a topic and its partition are two places
    return Driver(FakeTopics(**dict.fromkeys(sorted(NAMES), 1)))


def steps(group: ConsumerGroup, driver: Driver, answer: HeartbeatAnswer) -> list[int]:
    """The sizes of a member's assignment, step by step, until it can get no more."""
    sizes = [len(group.member(answer.member_id).assigned)]
    while answer.is_partial:
        answer = group.answer_again(answer.member_id, {}, driver.now)
        sizes.append(len(group.member(answer.member_id).assigned))
    return sizes


def test_a_member_gets_its_topics_step_by_step(driver: Driver) -> None:
    joining = Heartbeat(member_id="m", epoch=0, names=NAMES, rebalance_timeout_ms=REBALANCE_MS, owned={})
    answer = driver.group.heartbeat(joining, driver.now)

    assert steps(driver.group, driver, answer) == [10, 20, 30]
    assert driver.state_of("m") is MemberState.STABLE


def test_a_member_gives_up_step_by_step(driver: Driver) -> None:
    """Half of a member's topics go to another: it is told to give up so many at a time, and nothing has two owners."""
    answer = driver.join("m", *NAMES)
    owned = dict(answer.assignment or {})
    driver.join("n", *NAMES)
    sizes = []
    for _ in range(12):
        answer = driver.heartbeat("m", answer.epoch, owned=owned)
        if answer.assignment is not None:
            owned = dict(answer.assignment)
        sizes.append(len(owned))
        other = driver.group.member("n")
        driver.heartbeat("n", other.epoch)

    assert sizes[:3] == [20, 15, 15]
    assert (driver.state_of("m"), driver.state_of("n")) == (MemberState.STABLE, MemberState.STABLE)
    assert driver.owned("m") | driver.owned("n") == {(name, 0) for name in NAMES}


def test_who_waits_asks_for_all_in_turn(driver: Driver) -> None:
    """What a member cannot get yet does not hide from it what is free behind."""
    first = driver.join("m", *NAMES)
    driver.join("n", *NAMES)
    lacked = list(driver.group.member("n").lacking)
    assert len(lacked) == TOPICS // 2
    driver.group.remove(driver.group.member("m"), driver.now)
    assert first.epoch
    answer = driver.heartbeat("n", driver.group.member("n").epoch)
    driver.heartbeat("n", answer.epoch)

    assert driver.owned("n") == {(name, 0) for name in NAMES}


def test_a_subscription_that_comes_back(driver: Driver) -> None:
    """A topic that a member drops and wants again before the next target is still to come."""
    driver.settings = driver.settings._replace(assignment_interval_ms=1_000)
    answer = driver.join("m", *NAMES)
    wanted = sorted(NAMES)
    answer = driver.heartbeat("m", answer.epoch, names=frozenset(wanted[:5]), owned=answer.assignment)
    answer = driver.heartbeat("m", answer.epoch, owned=answer.assignment)
    assert len(driver.owned("m")) < TOPICS
    answer = driver.heartbeat("m", answer.epoch, names=NAMES, owned=answer.assignment)
    for _ in range(8):
        driver.advance(1.0)
        answer = driver.heartbeat("m", answer.epoch, owned=driver.group.member("m").partitions())

    assert driver.owned("m") == {(name, 0) for name in NAMES}


def test_long_rows_are_encoded_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of many topics does not hold the loop; it is stored and read again like any other."""
    monkeypatch.setattr(landing, "SIZE_AT_ONCE", 5)
    loop_thread = threading.get_ident()
    elsewhere: set[int] = set()
    encode = stored.encode_current

    def noted(record: CurrentRecord) -> bytes:
        elsewhere.add(threading.get_ident())
        return encode(record)

    monkeypatch.setattr(stored, "encode_current", noted)

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            names = [f"t{n}" for n in range(6)]
            await services.create(*names)
            answer = await beat(services, "m", 0, names=frozenset(names))
            had = group_of(services).member("m").current()
        async with serving(tmp_path, AT_ONCE) as services:
            assert group_of(services).member("m").current() == had
            assert len(answer.assignment or {}) == 6
            await asyncio.sleep(0)

    run(test())
    assert loop_thread not in elsewhere
    assert elsewhere
