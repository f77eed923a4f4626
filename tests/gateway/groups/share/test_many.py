"""Very many acknowledgements, share-partitions and groups at once: each step is short, and nothing is lost by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.errors import StorageFull
from core.log.records import Delete, Operation
from gateway.apis.shared import sharing
from gateway.groups.share import deletions, sessions
from gateway.groups.share.format import GROUPS_TABLE, PARTITIONS_TABLE, PlaceKey
from gateway.groups.share.group import Heartbeat
from gateway.groups.share.partition import Judgement, Limits, Run, SharePartition, Span, State, Verdict
from gateway.refusals import Refusal
from gateway.wire.message import Message
from tests.gateway.apis.harness import KEYS, NOW, Admin, admin_of
from tests.gateway.groups.share.speaking import ACCEPT, RELEASE
from tests.gateway.groups.share.test_storing import HeldLog, Speaker, acquired, begun, reached
from tests.gateway.harness import Client

pytestmark = pytest.mark.slow

MANY = 60
LIMITS = Limits(lock_s=30.0, deliveries=5, in_flight=10_000)
WITHIN_S = 60
GROUP = 32
"""Kafka's number of groups among resources that have configs."""


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    with admin_of(tmp_path) as made:
        yield made


def codes(answer: Message) -> list[int]:
    return [partition.error_code for topic in answer.responses for partition in topic.partitions]


# Acknowledgements


def test_each_batch_is_checked_in_turn(admin: Admin, given: list[None]) -> None:
    topic = admin.create()
    admin.produce(topic, *[NOW] * MANY)
    member = Speaker(admin, topic)

    async def settled() -> tuple[Message, int]:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0)) == [(0, MANY - 1)]
        given.clear()
        return await member.settle(1, *((at, at, ACCEPT) for at in range(MANY))), live.state.start

    answer, start = admin.run(settled())
    assert codes(answer) == [ErrorCode.none]
    assert start == MANY
    assert len(given) >= MANY


def test_more_than_a_member_can_hold(admin: Admin) -> None:
    """It is refused, whatever else it says; what it says of records that were settled before is no error."""
    topic = admin.create()
    admin.produce(topic, *[NOW] * MANY)
    member = Speaker(admin, topic)

    async def settled() -> list[int]:
        live = await begun(admin, topic)
        assert acquired(await member.fetch(0, most=10)) == [(0, 9)]
        told = await member.settle(1, *((at, at, ACCEPT) for at in range(MANY)))
        assert codes(told) == [ErrorCode.invalid_record_state]
        assert [(run.first, run.last, run.state) for run in live.state.runs] == [(0, 9, State.HELD)]
        told = await member.settle(2, *((at, at, ACCEPT) for at in (*range(MANY), 3)))
        assert codes(told) == [ErrorCode.invalid_request], "the last is out of order"
        assert codes(await member.settle(3, (0, 9, ACCEPT))) == [ErrorCode.none]
        return codes(await member.settle(4, *((at, at, ACCEPT) for at in range(10))))

    assert admin.run(settled()) == [ErrorCode.none]


def test_each_topic_in_turn(admin: Admin, given: list[None]) -> None:
    """Also of topics that there are not; and so is the answer."""
    said = [{"first_offset": 0, "last_offset": 0, "acknowledge_types": [ACCEPT]}]
    topics = [
        {"topic_id": UUID(int=number + 9), "partitions": [{"partition_index": 0, "acknowledgement_batches": said}]}
        for number in range(MANY)
    ]
    member = Speaker(admin, admin.create())
    admin.run(member.fetch(0))
    given.clear()
    body = {"group_id": "g", "member_id": "m", "share_session_epoch": 1, "is_renew_ack": False}
    answer = admin.run(admin._client.ask(KEYS["ShareAcknowledge"], 2, {**body, "topics": topics}))

    assert codes(answer) == [ErrorCode.unknown_topic_id] * MANY
    assert len(given) >= 3 * MANY


class Counted(list[Run]):
    """Runs, and how often one of them is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Run]:
        for run in super().__iter__():
            self.looks += 1
            yield run


@pytest.mark.parametrize("count", [500, 2_000])
def test_runs_are_gone_through_once(count: int) -> None:
    """A member settles records one by one that it got one by one: each is looked at a few times, however many."""
    partition = SharePartition(0)
    for at in range(count):
        partition.acquire("m", at, [Span(at, at)], 1, LIMITS, float(at) / count)
    assert len(partition.runs) == count
    partition.runs = runs = Counted(partition.runs)
    verdicts = (Verdict.ACCEPT, Verdict.RELEASE)
    partition.acknowledge("m", [Judgement(at, at, [verdicts[at % 2]]) for at in range(count)], LIMITS, 2.0)

    left = [State.AVAILABLE, *[State.SETTLED, State.AVAILABLE] * (count // 2 - 1)]
    assert [run.state for run in partition.runs] == left
    assert runs.looks <= 10 * count


def test_a_judgement_over_many_runs() -> None:
    """One that begins and ends within runs, and one that goes on in the last of them; a hole is found."""
    partition = SharePartition(0)
    for at in range(0, 30, 10):
        partition.acquire("m", at, [Span(at, at + 9)], 10, LIMITS, float(at))
    judgements = [Judgement(5, 24, [Verdict.ACCEPT]), Judgement(25, 27, [Verdict.RELEASE])]
    partition.acknowledge("m", judgements, LIMITS, 2.0)
    told = [(run.first, run.last, run.state) for run in partition.runs]
    assert told == [
        (0, 4, State.HELD),
        (5, 24, State.SETTLED),
        (25, 27, State.AVAILABLE),
        (28, 29, State.HELD),
    ]
    for judgement in (Judgement(0, 5, [Verdict.ACCEPT]), Judgement(24, 28, [Verdict.ACCEPT])):
        with pytest.raises(Refusal):
            partition.acknowledge("m", [judgement], LIMITS, 2.0)


def test_rows_that_are_long_go_by_themselves(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more of them are encoded in one turn than have so many runs together."""
    monkeypatch.setattr(sharing, "RUNS_TOGETHER_MAX", 3)
    topic = admin.create(3)
    for partition in range(3):
        admin.produce(topic, *[NOW] * 8, partition=partition)
    log, member = HeldLog(admin, topic, monkeypatch), Speaker(admin, topic)

    async def settled() -> Message:
        for partition in range(3):
            await begun(admin, topic, partition)
        await member.fetch(0)
        log.records.clear()
        return await member.settle(1, *((at, at, (RELEASE, ACCEPT)[at % 2]) for at in range(8)))

    assert codes(admin.run(settled())) == [ErrorCode.none] * 3
    assert log.records == [1, 1, 1]


# What is forgotten


class Forgotten:
    """The rows that each record of the log deletes: of share-partitions, and of groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.groups: list[int] = []
        self.fails = False
        submit = Container.submit

        def noted(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
            rows = [one for one in operations if isinstance(one, Delete) and one.table == PARTITIONS_TABLE]
            if rows and self.fails:
                raise StorageFull("the disk is full")
            if rows:
                self.sizes.append(len(rows))
            if groups := [one for one in operations if isinstance(one, Delete) and one.table == GROUPS_TABLE]:
                self.groups.append(len(groups))
            return submit(container, operations)

        monkeypatch.setattr(deletions, "ROWS_PER_RECORD_MAX", 4)
        monkeypatch.setattr(Container, "submit", noted)


def rows(admin: Admin) -> int:
    return len(admin.broker.store.home.table(PARTITIONS_TABLE))


async def begun_many(admin: Admin, topics: Iterable[str], partitions: int) -> None:
    for topic in topics:
        for number in range(partitions):
            await begun(admin, topic, number)


def test_a_group_is_forgotten_in_steps(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = admin.create(10)
    admin.run(begun_many(admin, [topic], 10))
    forgotten = Forgotten(monkeypatch)
    admin.run(admin.broker.share.partitions.delete_groups(["g"]))

    assert rows(admin) == 0
    assert forgotten.sizes == [4, 4, 2]
    assert len(admin.broker.share.partitions) == 0


def test_rows_of_partitions_that_are_not_in_use(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart they are known by their rows alone."""
    topic = admin.create(10)
    admin.run(begun_many(admin, [topic], 10))
    admin.restart()
    forgotten = Forgotten(monkeypatch)
    admin.run(admin.broker.share.partitions.delete_groups(["g"]))

    assert rows(admin) == 0
    assert forgotten.sizes == [4, 4, 2]


def test_topics_are_forgotten_together(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a look at all partitions for each of them."""
    topics, kept = [admin.create(1) for _ in range(8)], admin.create(1)
    admin.run(begun_many(admin, [*topics, kept], 1))
    looks = 0
    delete = deletions.Deletions._delete

    async def counted(*args: Any) -> None:
        nonlocal looks
        looks += 1
        await delete(*args)

    monkeypatch.setattr(deletions.Deletions, "_delete", counted)
    answer = admin.ask("DeleteTopics", 5, topic_names=topics, timeout=10_000)
    assert {one.error_code for one in answer.responses} == {0}
    admin.run(admin.broker.share.partitions._deletions.finish())

    assert rows(admin) == 1
    assert looks <= 3


def test_topics_of_a_group_are_forgotten_together(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an administrator, of a group without members; another group keeps them."""
    topics = [admin.create(2) for _ in range(4)]
    admin.run(begun_many(admin, topics, 2))
    places = [{"topic_name": topics[0], "partitions": [{"partition_index": 0, "start_offset": 0}]}]
    for group in ("g", "h"):
        assert admin.ask("AlterShareGroupOffsets", 0, group_id=group, topics=places).error_code == 0
    forgotten = Forgotten(monkeypatch)
    answer = admin.ask("DeleteShareGroupOffsets", 0, group_id="g", topics=[{"topic_name": name} for name in topics])

    assert [one.error_code for one in answer.responses] == [0] * 4
    assert rows(admin) == 1
    assert forgotten.sizes == [4, 4]


def begin(admin: Admin, group: str, topic: str, *partitions: int) -> None:
    """As an administrator: it makes the group, if there is none."""
    places = [{"partition_index": number, "start_offset": 0} for number in partitions]
    topics = [{"topic_name": topic, "partitions": places}]
    assert admin.ask("AlterShareGroupOffsets", 0, group_id=group, topics=topics).error_code == 0


def test_groups_are_deleted_together(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one look at all share-partitions, whose rows share records of the log, and by one record of the groups."""
    topic, groups = admin.create(2), [f"g{number}" for number in range(6)]
    for group in (*groups, "kept"):
        begin(admin, group, topic, 0, 1)
    looks = 0
    delete = deletions.Deletions._delete

    async def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await delete(*args)

    monkeypatch.setattr(deletions.Deletions, "_delete", counted)
    forgotten = Forgotten(monkeypatch)
    told = admin.ask("DeleteGroups", 2, groups_names=[*groups, "no-such-group"]).results

    assert {one.group_id: one.error_code for one in told} == {**dict.fromkeys(groups, 0), "no-such-group": 69}
    assert (rows(admin), len(admin.broker.share.partitions)) == (2, 2)
    assert [group.group_id for group in admin.broker.share.coordinators] == ["kept"]
    assert (looks, forgotten.sizes, forgotten.groups) == (1, [4, 4, 4], [6])


def test_no_share_group_costs_a_look(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting other groups, or none, goes through no share-partition."""
    monkeypatch.setattr(deletions.Deletions, "_delete", None)
    told = admin.ask("DeleteGroups", 2, groups_names=["no-such-group"]).results

    assert [one.error_code for one in told] == [69]


def test_a_group_that_cannot_be_deleted_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of which something stays is told why, and there to be deleted again."""
    with admin_of(tmp_path, "containers=2") as admin:
        topic, store = admin.create(4), admin.broker.store
        here, there = (
            next(number for number in range(4) if admin.slot(topic, number).container_id == container_id)
            for container_id in sorted(store.containers)
        )
        begin(admin, "stays", topic, here)
        begin(admin, "goes", topic, there)
        full, submit = admin.slot(topic, here).container_id, Container.submit

        def fails(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
            if container.id == full and any(getattr(one, "table", "") == PARTITIONS_TABLE for one in operations):
                raise StorageFull("the disk is full")
            return submit(container, operations)

        with monkeypatch.context() as patched:
            patched.setattr(Container, "submit", fails)
            told = admin.ask("DeleteGroups", 2, groups_names=["stays", "goes"]).results
        assert {one.group_id: bool(one.error_code) for one in told} == {"stays": True, "goes": False}
        assert [group.group_id for group in admin.broker.share.coordinators] == ["stays"]
        told = admin.ask("DeleteGroups", 2, groups_names=["stays"]).results
        assert [one.error_code for one in told] == [0]


def test_a_topic_that_went_before_a_crash(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are nobody's, and the next start deletes them; those of others stay."""
    gone, kept = admin.create(3), admin.create(2)
    admin.run(begun_many(admin, [gone], 3))
    admin.run(begun_many(admin, [kept], 2))
    admin.run(admin.broker.store.delete_stream(admin.stream(gone)))  # and the process dies before anything else is done
    assert rows(admin) == 5
    admin.restart()

    admin.run(reached(lambda: rows(admin) == 2))
    key, slot = PlaceKey("g", admin.stream(kept).uuid, 0), admin.slot(kept)

    async def still() -> int:
        return (await admin.broker.share.partitions.of(key, slot)).state.start

    assert admin.run(still()) == 0


def test_a_failure_is_told(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group goes on where it was."""
    topic = admin.create()
    admin.run(begun_many(admin, [topic], 1))
    forgotten = Forgotten(monkeypatch)
    forgotten.fails = True
    failures = admin.run(admin.broker.share.partitions.delete_groups(["g"]))
    assert isinstance(failures["g"], StorageFull)
    key, slot = PlaceKey("g", admin.stream(topic).uuid, 0), admin.slot(topic)

    async def still() -> int:
        return (await admin.broker.share.partitions.of(key, slot)).state.start

    assert admin.run(still()) == 0
    assert rows(admin) == 1


def test_a_partition_that_is_elsewhere_by_now(tmp_path: Path) -> None:
    """Its container has left this process, and its row with it: all that is here is forgotten all the same."""
    with admin_of(tmp_path, "containers=2") as admin:
        topic = admin.create(4)
        admin.run(begun_many(admin, [topic], 4))
        (away,) = {admin.slot(topic, number).container_id for number in range(4)} - {admin.broker.store.home.id}
        admin.run(admin.broker.store.release(away))
        admin.run(admin.broker.share.partitions.delete_groups(["g"]))

        assert rows(admin) == 0
        assert len(admin.broker.share.partitions) == 0


def test_a_container_that_fails_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in others is forgotten, and the failure is told; another try forgets the rest."""
    with admin_of(tmp_path, "containers=2") as admin:
        topic = admin.create(4)
        admin.run(begun_many(admin, [topic], 4))
        store, partitions = admin.broker.store, admin.broker.share.partitions
        (other,) = store.containers.keys() - {store.home.id}
        submit = Container.submit

        def fails(container: Container, operations: Sequence[Operation]) -> asyncio.Future[None]:
            if container.id == store.home.id and isinstance(operations[0], Delete):
                raise StorageFull("the disk is full")
            return submit(container, operations)

        assert rows(admin) == len(store.containers[other].container.table(PARTITIONS_TABLE)) == 2
        with monkeypatch.context() as full:
            full.setattr(Container, "submit", fails)
            assert isinstance(admin.run(partitions.delete_groups(["g"]))["g"], StorageFull)
        assert (rows(admin), len(store.containers[other].container.table(PARTITIONS_TABLE))) == (2, 0)
        admin.run(partitions.delete_groups(["g"]))
        assert rows(admin) == 0


def test_no_member_joins_a_group_that_goes(admin: Admin) -> None:
    """It would begin where the group was, and lose its place when that is forgotten. It asks again, and begins anew."""
    topic, share = admin.create(), admin.broker.share
    coordinator = share.coordinators.of("g")
    who = {"member_id": "m", "rack_id": None, "client_id": "c", "client_host": "/127.0.0.1"}
    joining = Heartbeat(epoch=0, names=frozenset({topic}), **who)
    load = ErrorCode.coordinator_load_in_progress

    async def deleted() -> None:
        await coordinator.ensure("g")
        await begun(admin, topic)
        async with share.partitions._deletions._one_at_a_time:  # another deletion takes its time
            deletion = asyncio.create_task(share.delete(["g"]))
            await asyncio.sleep(0)
            for join in (coordinator.heartbeat("g", joining), coordinator.ensure("g")):
                with pytest.raises(Refusal) as why:
                    await join
                assert why.value.code is load
            assert await share.delete(["g"]) == {"g": load}
        assert await deletion == {"g": ErrorCode.none}
        assert (await coordinator.heartbeat("g", joining)).member_id == "m"

    admin.run(deleted())
    assert rows(admin) == 0


def test_no_member_joins_while_topics_are_forgotten(admin: Admin) -> None:
    """It would lose its place in the middle."""
    topic, share = admin.create(), admin.broker.share
    coordinator = share.coordinators.of("g")

    async def deleted() -> Message:
        await coordinator.ensure("g")
        await begun(admin, topic)
        body = {"group_id": "g", "topics": [{"topic_name": topic}]}
        async with share.partitions._deletions._one_at_a_time:  # another deletion takes its time
            sent = admin._client.send(KEYS["DeleteShareGroupOffsets"], 0, body)
            await reached(lambda: bool(admin.broker.share.partitions._deletions._one_at_a_time._waiters))
            with pytest.raises(Refusal) as why:
                await coordinator.ensure("g")
            assert why.value.code is ErrorCode.coordinator_load_in_progress
        return await admin._client.receive(sent)

    answer = admin.run(deleted())
    assert (answer.error_code, [one.error_code for one in answer.responses]) == (0, [0])
    admin.run(coordinator.ensure("g"))
    assert rows(admin) == 0


def test_a_group_stays_until_all_of_it_is_forgotten(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure it is there to be deleted again: no other of its name begins where it was."""
    topic, share = admin.create(), admin.broker.share
    coordinator = share.coordinators.of("g")
    admin.run(coordinator.ensure("g"))
    admin.run(begun_many(admin, [topic], 1))
    forgotten = Forgotten(monkeypatch)
    forgotten.fails = True
    assert admin.run(share.delete(["g"])) != {"g": ErrorCode.none}
    assert coordinator.get("g") is not None
    forgotten.fails = False
    assert admin.run(share.delete(["g"])) == {"g": ErrorCode.none}
    assert coordinator.get("g") is None
    assert rows(admin) == 0


# A session's end


def test_a_session_of_many_partitions_ends(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its member held is given back in turns; meanwhile it has no other session, from which that would be taken,
    too."""
    monkeypatch.setattr(sessions, "GIVEN_BACK_AT_ONCE", 2)
    topic = admin.create(6)
    for partition in range(6):
        admin.produce(topic, NOW, partition=partition)
    member = Speaker(admin, topic)

    async def ended() -> tuple[int, list[tuple[int, int]]]:
        lives = [await begun(admin, topic, partition) for partition in range(6)]

        def held() -> int:
            return sum(run.state is State.HELD for live in lives for run in live.state.runs)

        assert len(acquired(await member.fetch(0))) == held() == 6
        kept = admin.broker.share.sessions
        kept.end(kept._sessions["g", "m"])
        assert held() == 4
        with pytest.raises(Refusal) as why:
            kept.take("g", "m", sessions.INITIAL_EPOCH, Closing())
        assert why.value.code is ErrorCode.share_session_not_found
        await asyncio.wait(kept._giving_back.values())
        await asyncio.sleep(0)
        return held(), acquired(await member.fetch(0))

    assert admin.run(ended()) == (0, [(0, 0)] * 6)


class Closing:
    """A connection on which nothing is said."""

    def on_close(self, callback: Callable[[], None]) -> None: ...

    def forget_on_close(self, callback: Callable[[], None]) -> None: ...


# A group's settings


def test_more_may_be_in_flight(admin: Admin) -> None:
    """Who waits because as many are as may be gets records when the limit is raised, not when the wait is over."""
    admin.ask("IncrementalAlterConfigs", 1, **_limit(100))
    topic = admin.create()
    admin.produce(topic, *[NOW] * 150)

    async def waited() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        await begun(admin, topic)
        first = acquired(await Speaker(admin, topic).fetch(0, most=1_000))
        client = await Client.connect(admin.broker)
        limits = {"max_wait": 60_000, "min_bytes": 1, "max_bytes": 1 << 20, "max_records": 1_000, "batch_size": 1_000}
        partition = {"partition_index": 0, "acknowledgement_batches": []}
        said = {"topics": [{"topic_id": admin.stream(topic).uuid, "partitions": [partition]}], **limits}
        other = {"group_id": "g", "member_id": "other", "share_session_epoch": 0, "share_acquire_mode": 1}
        body = {**other, **said, "is_renew_ack": False, "forgotten_topics_data": []}
        sent = client.send(KEYS["ShareFetch"], 2, body)
        kept = admin.broker.share.sessions
        async with asyncio.timeout(WITHIN_S):
            while not any(one.waiting for one in kept._sessions.values()):  # noqa: ASYNC110 - in some turns
                await asyncio.sleep(0)
            await admin._client.ask(KEYS["IncrementalAlterConfigs"], 1, _limit(200))
            second = acquired(await client.receive(sent))
        client.close()
        return first, second

    assert admin.run(waited()) == ([(0, 99)], [(100, 149)])


def _limit(records: int) -> dict[str, Any]:
    config = {"name": "share.partition.max.record.locks", "config_operation": 0, "value": str(records)}
    resource = {"resource_type": GROUP, "resource_name": "g", "configs": [config]}
    return {"resources": [resource], "validate_only": False}


def test_configs_that_another_process_was_told(admin: Admin) -> None:
    """Only those who hear of resources whose configs are others now are told."""
    heard: list[tuple[int, str]] = []
    admin.ask("IncrementalAlterConfigs", 1, **_limit(100))
    configs = admin.broker.resource_configs
    configs.on_change(lambda kind, name: heard.append((kind, name)))
    configs.take_over()
    assert heard == []
    configs._set.clear()  # as if this process had not heard yet
    configs.take_over()
    assert heard == [(GROUP, "g")]
