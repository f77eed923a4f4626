"""Members with very many topics: each step of their way is bounded, and no step is lost on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from gateway.groups import landing
from gateway.groups.consumer import format as stored
from gateway.groups.consumer import group as consumer_group
from gateway.groups.consumer import reconciliation
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import CurrentRecord, Heartbeat, HeartbeatAnswer, MemberState
from gateway.groups.consumer.targets import Computed, Draft
from gateway.groups.journal import GroupJournal
from gateway.groups.modern.rows import STORING_TARGETS
from tests.gateway.groups.consumer.harness import REBALANCE_MS, Driver, FakeTopics
from tests.gateway.groups.consumer.test_services import AT_ONCE, beat, group_of, rows, until
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


def test_a_wide_topic_goes_over_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one topic with very many partitions a member gets, and gives up, so many at a time."""
    monkeypatch.setattr(reconciliation, "PLACES_AT_ONCE", STEP + 1)  # a topic and its partitions
    driver = Driver(FakeTopics(wide=3 * STEP))
    joining = Heartbeat(member_id="m", epoch=0, names=frozenset({"wide"}), rebalance_timeout_ms=REBALANCE_MS, owned={})
    answer = driver.group.heartbeat(joining, driver.now)
    got = [len(driver.owned("m"))]
    while answer.is_partial:
        answer = driver.group.answer_again("m", {}, driver.now)
        got.append(len(driver.owned("m")))
    driver.join("n", "wide")
    kept = []
    while driver.state_of("m") is not MemberState.STABLE or not kept:
        answer = driver.heartbeat("m", answer.epoch, owned=driver.group.member("m").partitions())
        kept.append(len(driver.owned("m")))
    driver.heartbeat("n", driver.group.member("n").epoch)

    assert got == [10, 20, 30]
    assert kept[:2] == [20, 15]
    assert driver.owned("n") == {("wide", number) for number in range(3 * STEP)} - driver.owned("m")


def test_partitions_that_others_have_hide_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first partitions of a topic are not free yet, and more than a step takes: those behind come all the same."""
    monkeypatch.setattr(reconciliation, "PLACES_AT_ONCE", 2)
    driver = Driver(FakeTopics(wide=8))
    first = driver.join("m", "wide")
    driver.join("n", "wide")
    driver.heartbeat("m", first.epoch, owned=driver.group.member("m").partitions())  # it must give some up
    driver.group.remove(driver.group.member("m"), driver.now)
    second = driver.group.member("n")
    driver.heartbeat("n", second.epoch)
    driver.heartbeat("n", second.epoch)

    assert driver.owned("n") == {("wide", number) for number in range(8)}


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


@pytest.mark.parametrize(("topics", "partitions"), [(6, 1), (1, 6)])
def test_long_rows_are_encoded_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: int, partitions: int
) -> None:
    """A row of many topics, or partitions, does not hold the loop; it is stored and read again like any other."""
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
            names = [f"t{n}" for n in range(topics)]
            await services.create(*names, partitions=partitions)
            answer = await beat(services, "m", 0, names=frozenset(names))
            had = group_of(services).member("m").current()
        async with serving(tmp_path, AT_ONCE) as services:
            assert group_of(services).member("m").current() == had
            assert sum(map(len, (answer.assignment or {}).values())) == topics * partitions

    run(test())
    assert loop_thread not in elsewhere
    assert elsewhere


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, released: threading.Event) -> Iterator[threading.Event]:
    """Targets are computed no sooner than `released`; yields what is set when one has begun."""
    begun = threading.Event()
    compute = Draft.compute

    def slowly(draft: Draft) -> Computed:
        begun.set()
        assert released.wait(30)
        return compute(draft)

    with monkeypatch.context() as patch:
        patch.setattr(Draft, "compute", slowly)
        try:
            yield begun
        finally:
            released.set()


def test_a_group_that_is_deleted_while_its_target_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is stored again, and what it held for the allowance of all groups is given back."""
    monkeypatch.setattr(consumer_group, "AT_ONCE_MAX", 0)

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            await services.create("t")
            await beat(services, "m", 0)
            group = group_of(services)
            with held_up(monkeypatch, released := threading.Event()) as begun:
                await beat(services, "n", 0)
                await until(begun.is_set)
                await beat(services, "m", -1)
                await beat(services, "n", -1)
                assert await services.groups.delete_group("g") is ErrorCode.none
                released.set()
                await until(lambda: not services.groups.consumer._computing)
            await services.groups._journal.settle()
            assert rows(services) == 0
            assert group.rules.allowance.used == 0
        async with serving(tmp_path, AT_ONCE) as services:
            assert services.groups.get("g") is None

    run(test())


def test_a_member_that_comes_again_while_a_target_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is of the member before, of the same id, but it has nothing yet: it gets all of its target."""
    monkeypatch.setattr(consumer_group, "AT_ONCE_MAX", 0)
    driver = Driver(FakeTopics(a=1, b=1))
    driver.join("m", "a")
    group = driver.group
    joining: dict[str, Any] = {"rebalance_timeout_ms": REBALANCE_MS, "owned": {}}
    group.heartbeat(Heartbeat(member_id="m", epoch=group.epoch, names=frozenset({"a", "b"})), driver.now)
    while not group.subscriptions.is_seen:
        group.look(driver.now)
    group.assign_if_due(driver.now)
    assert group.wanted is not None, "a target with both topics is computed"
    computed, group.wanted = group.wanted.compute(), None
    group.heartbeat(Heartbeat(member_id="m", epoch=-1), driver.now)
    group.heartbeat(Heartbeat(member_id="m", epoch=0, names=frozenset({"a", "b"}), **joining), driver.now)
    group.assigned(computed, driver.now)
    driver.compute()
    for _ in range(3):
        driver.heartbeat("m", group.member("m").epoch)

    assert driver.owned("m") == {("a", 0), ("b", 0)}


def test_a_target_that_comes_while_rows_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head never tells of a target whose rows are not stored: after a crash it is computed anew."""
    monkeypatch.setattr(landing, "SIZE_AT_ONCE", -1)
    released = threading.Event()
    begun = threading.Event()
    encode = stored.encode_current

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            await services.create("t")
            await beat(services, "m", 0)

            def slowly(record: CurrentRecord) -> bytes:
                begun.set()
                assert released.wait(30)
                return encode(record)

            monkeypatch.setattr(stored, "encode_current", slowly)
            joins = [asyncio.create_task(beat(services, "n", 0))]
            await until(begun.is_set)
            joins.append(asyncio.create_task(beat(services, "o", 0)))
            await until(lambda: len(group_of(services).members) == 3)
            writes = _noted_heads(monkeypatch)
            released.set()
            await asyncio.gather(*joins)
            assert writes == [STORING_TARGETS, group_of(services).target_epoch]

    run(test())


def test_rows_of_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows that need several records for their size are told apart from whole ones, too."""
    monkeypatch.setattr(landing, "BYTES_PER_RECORD_MAX", 1)

    async def test() -> None:
        async with serving(tmp_path, AT_ONCE, clean=False) as services:
            await services.create("t")
            writes = _noted_heads(monkeypatch)
            await beat(services, "m", 0)
            assert writes == [STORING_TARGETS, group_of(services).target_epoch]

    run(test())


def _noted_heads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The target epochs of the heads that are stored from now on."""
    noted: list[int] = []
    write = GroupJournal.write_rows

    def write_rows(journal: GroupJournal, changes: list[Put | Delete]) -> asyncio.Task[ErrorCode]:
        for change in changes:
            _, key = stored.decode_key(change.key)
            if key == ConsumerGroup.head_key and isinstance(change, Put):
                noted.append(stored.decode_head(change.value).target_epoch)
        return write(journal, changes)

    monkeypatch.setattr(GroupJournal, "write_rows", write_rows)
    return noted
