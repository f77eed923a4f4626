"""Coordinators load in steps. Nobody is told a part of what they keep, and what happens meanwhile is not lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from core import turns
from core.applied.tables import ROWS_AT_ONCE, Put, Table
from core.errors import NotHosted
from gateway.coordination.local import LocalCoordinators
from gateway.groups.classic import membership
from gateway.groups.classic.messages import GroupRecord, MemberRecord
from gateway.groups.consumer import messages as consumer
from gateway.groups.consumer.format import CONSUMER_TABLE, encode_head, encode_key, encode_member
from gateway.groups.offsets import committed
from gateway.groups.offsets.service import OffsetCommit
from gateway.groups.persistence import (
    GROUPS_TABLE,
    NO_EPOCH,
    OFFSETS_TABLE,
    CommittedOffset,
    OffsetKey,
    encode_group,
    encode_offset,
    encode_offset_key,
)
from gateway.groups.streams import format as streams_format
from gateway.groups.streams import messages as streams_messages
from gateway.refusals import Refusal
from gateway.transactions import coordinator, participant, pending_offsets
from gateway.transactions.coordinator_epochs import CoordinatorEpochs
from gateway.transactions.known import put
from gateway.transactions.pending_offsets import puts
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE
from gateway.transactions.transaction import Transaction
from tests.core.support import owner_of, until
from tests.core.test_several_containers import failing
from tests.gateway.groups.harness import RANGE
from tests.gateway.transactions.services import ELSEWHERE, HOME, Services, run, serving

BOTH = (HOME, ELSEWHERE)
MANY = 2 * ROWS_AT_ONCE + 7
SESSION_S = 10


class Held:
    """Loads stop behind the first step of a table, until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
        self.is_reached = asyncio.Event()
        self.goes_on = asyncio.Event()
        in_steps = Table.in_steps

        async def held(of: Table, *how: Any, **more: Any) -> AsyncIterator[list[tuple[bytes, bytes]]]:
            async for rows in in_steps(of, *how, **more):
                yield rows
                if of.name == table:
                    self.is_reached.set()
                    await self.goes_on.wait()

        monkeypatch.setattr(Table, "in_steps", held)


async def store_offsets(services: Services, group: str, topic: str, count: int, offset: int = 7) -> None:
    """As if they had been committed."""
    container = services.store.containers[services.all_groups.homes.of(group)].container
    value = encode_offset(CommittedOffset(offset, NO_EPOCH, "", services.clock.wall_ms()))
    keys = [encode_offset_key(OffsetKey(group, topic, number)) for number in range(count)]
    await container.update(*(Put(OFFSETS_TABLE, key, value) for key in keys))


async def commit(services: Services, group: str, offset: int, topic: str = "t") -> ErrorCode:
    (error,) = await services.all_groups.of(group).offsets.commit(group, [OffsetCommit(topic, 0, offset, -1, "")])
    return error


def kinds(services: Services) -> tuple[LocalCoordinators[Any], ...]:
    return services.all_groups, services.all_transactions


async def close(services: Services, container_id: int) -> None:
    """Its coordinators end, as before a hand-over; its log stays open."""
    for kind in reversed(kinds(services)):
        await kind.release(container_id)


async def load(services: Services, container_id: int) -> None:
    """As `Openings` does."""
    for kind in kinds(services):
        await kind.load_in(container_id)


async def start(services: Services, container_id: int) -> None:
    for kind in kinds(services):
        await kind.start_in(container_id)


@asynccontextmanager
async def loading(
    services: Services, monkeypatch: pytest.MonkeyPatch, table: str, container_id: int = ELSEWHERE
) -> AsyncIterator[None]:
    """A container is closed and opened again; inside, its load stands still in the middle of a table."""
    await close(services, container_id)
    with monkeypatch.context() as patch:
        held = Held(patch, table)
        opening = asyncio.create_task(load(services, container_id))
        try:
            await held.is_reached.wait()
            yield
        finally:
            held.goes_on.set()
            await asyncio.wait([opening])
    opening.result()


def refuses(call: Callable[[], object]) -> None:
    with pytest.raises(Refusal, match="coordinator_load_in_progress"):
        call()


# No turn is long


class Rows:
    """How many rows were decoded in each turn of the loop."""

    def __init__(self) -> None:
        self.turn = 0
        self.count: Counter[int] = Counter()

    def watch(
        self, monkeypatch: pytest.MonkeyPatch, where: object, name: str, rows: Callable[..., int] = lambda *_: 1
    ) -> None:
        """Count the rows that are given to a function."""
        decode = getattr(where, name)

        def counted(*given: Any) -> Any:
            self.count[self.turn] += rows(*given)
            return decode(*given)

        monkeypatch.setattr(where, name, counted)

    async def during(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        while not task.done():
            self.turn += 1
            await asyncio.sleep(0)
        await task


def transaction(number: int) -> Transaction:
    return Transaction(transactional_id=f"x{number}", producer_id=number, epoch=0, timeout_ms=60_000, changed_ms=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "name", "most"),
    [
        (committed, "decode_offset_key", ROWS_AT_ONCE),
        (coordinator, "decode_transaction", coordinator.IDS_AT_ONCE),
        (pending_offsets, "decode_pending_key", participant.LOADED_AT_ONCE),
        (CoordinatorEpochs, "load", ROWS_AT_ONCE),
    ],
)
def test_no_turn_reads_more_rows_than_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str, most: int
) -> None:
    """Of offsets, transactional ids, pending offsets and epochs of coordinators."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            container = services.store.containers[HOME].container
            pending = CommittedOffset(7, NO_EPOCH, "", 1)
            await services.create("t")
            await store_offsets(services, services.group, "t", MANY)
            numbers = range(MANY)
            await container.update(
                *(put(transaction(number)) for number in numbers),
                *puts(1, {OffsetKey(services.group, "t", number): pending for number in numbers}),
                *(CoordinatorEpochs.row(number, 1) for number in numbers),
            )
        async with serving(tmp_path) as services:
            await close(services, HOME)
            rows = Rows()
            whole = where is CoordinatorEpochs
            rows.watch(monkeypatch, where, name, (lambda _, entries: len(entries)) if whole else (lambda *_: 1))
            await rows.during(load(services, HOME))
            assert rows.count.total() == MANY
            assert max(rows.count.values()) == most
            await start(services, HOME)
            assert services.groups.offsets.count(services.group) == MANY

    run(scenario())


def member(number: int) -> MemberRecord:
    return MemberRecord(f"m{number}", None, "c", "/127.0.0.1", SESSION_S * 1_000, 60_000, RANGE, b"a")


def record(members: int) -> GroupRecord:
    return GroupRecord(
        generation=3,
        state_since_ms=1,
        protocol_type="consumer",
        protocol_name="range",
        leader="m0",
        members=tuple(map(member, range(members))),
    )


def test_groups_are_restored_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of classic groups, one after the other where a turn is over at once."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            container = services.store.containers[HOME].container
            names = [f"{services.group}-{number}" for number in range(20)]
            await container.update(*(Put(GROUPS_TABLE, name.encode(), encode_group(record(30))) for name in names))
        async with serving(tmp_path) as services:
            await close(services, HOME)
            monkeypatch.setattr(turns, "TURN_S", 0.0)
            rows = Rows()
            rows.watch(monkeypatch, membership, "Member")
            await rows.during(load(services, HOME))
            assert rows.count.total() == 20 * 30
            assert max(rows.count.values()) == 1
            await start(services, HOME)
            assert {getattr(group, "member_count", 0) for group in services.all_groups} == {30}

    run(scenario())


# Requests in the middle


def test_requests_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is to come again, of groups and of transactions, until all of both is loaded; other containers
    serve."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            here, group, name = services.group, services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            await commit(services, here, 3)
            await store_offsets(services, group, "t", MANY)
            await services.init(name)
            for table in (OFFSETS_TABLE, TRANSACTIONS_TABLE):
                async with loading(services, monkeypatch, table):
                    refuses(lambda: services.all_groups.of(group))
                    assert services.all_groups.is_here(group)
                    assert services.all_groups.are_loading
                    assert await services.all_groups.consumed("t", [0], [here]) == [3]
                    assert await services.all_groups.consumed("t", [MANY - 1], [group]) == [
                        None if table == OFFSETS_TABLE else 7
                    ]
                    with pytest.raises(NotHosted):
                        services.all_transactions.participant_in(ELSEWHERE)
                    assert await commit(services, here, 3) is ErrorCode.none
                refuses(lambda: services.all_groups.of(group))  # it is loaded, and does not serve yet
                refuses(lambda: services.all_transactions.of(name))
                await start(services, ELSEWHERE)
                assert not any(kind.are_loading for kind in kinds(services))
                assert len(services.all_groups.of(group).offsets.of_group(group)["t"]) == MANY
                assert services.all_transactions.of(name).get(name) is not None

    run(scenario())


def test_members_have_their_whole_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears members while their group loads, however long that takes; afterwards their sessions run again."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            group = services.name_in(ELSEWHERE, "g")
            container = services.store.containers[ELSEWHERE].container
            await container.update(Put(GROUPS_TABLE, group.encode(), encode_group(record(2))))
            await services.init(services.name_in(ELSEWHERE))
            async with loading(services, monkeypatch, TRANSACTIONS_TABLE):  # groups are loaded
                services.clock.advance(5 * SESSION_S)
            await start(services, ELSEWHERE)
            groups = services.all_groups.of(group)
            services.clock.advance(SESSION_S - 1)
            groups.expire_due()
            assert groups.heartbeat(group, "m0", None, 3) is ErrorCode.none
            services.clock.advance(2)
            groups.expire_due()
            assert groups.heartbeat(group, "m0", None, 3) is ErrorCode.rebalance_in_progress
            assert groups.heartbeat(group, "m1", None, 3) is ErrorCode.unknown_member_id

    run(scenario())


# A close in the middle


@pytest.mark.parametrize("table", [OFFSETS_TABLE, TRANSACTIONS_TABLE])
def test_a_close_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """What loads ends, and serves nobody; the next load is whole."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group, name = services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            await store_offsets(services, group, "t", MANY)
            await services.init(name)
            await close(services, ELSEWHERE)
            with monkeypatch.context() as patch:
                held = Held(patch, table)
                opening = asyncio.create_task(load(services, ELSEWHERE))
                await held.is_reached.wait()
                await close(services, ELSEWHERE)
                await asyncio.gather(opening, return_exceptions=True)  # transactions find no groups
            await start(services, ELSEWHERE)
            for kind, of in zip(kinds(services), (group, name), strict=True):
                with pytest.raises(Refusal, match="not_coordinator"):
                    kind.of(of)
                assert not kind.are_loading
            await load(services, ELSEWHERE)
            await start(services, ELSEWHERE)
            assert services.all_groups.of(group).offsets.count(group) == MANY

    run(scenario())


HEAD = consumer.HeadRecord(epoch=2, target_epoch=2, signature=0, state_since_ms=1)
STREAMS_HEAD = streams_messages.HeadRecord(
    epoch=2, target_epoch=2, validated_epoch=0, signature=0, standbys=0, state_since_ms=1, shutdown_by=""
)


def rows_of_large_groups(group: str) -> dict[str, list[Put]]:
    """A group of each kind with 30 members, as it is stored."""
    names = [f"m{number}" for number in range(30)]
    of_consumers = [
        (consumer.RowKey(consumer.RowKind.HEAD), encode_head(HEAD)),
        *((consumer.RowKey(consumer.RowKind.MEMBER, name), encode_member(consumer_member(name))) for name in names),
    ]
    of_streams = [
        (streams_messages.RowKey(streams_messages.RowKind.HEAD), streams_format.encode_head(STREAMS_HEAD)),
        *(
            (
                streams_messages.RowKey(streams_messages.RowKind.MEMBER, name),
                streams_format.encode_member(streams_member(name)),
            )
            for name in names
        ),
    ]
    return {
        "classic": [Put(GROUPS_TABLE, group.encode(), encode_group(record(30)))],
        "consumer": [Put(CONSUMER_TABLE, encode_key(group, key), value) for key, value in of_consumers],
        "streams": [
            Put(streams_format.STREAMS_TABLE, streams_format.encode_key(group, key), value) for key, value in of_streams
        ],
    }


def consumer_member(name: str) -> consumer.MemberRecord:
    return consumer.MemberRecord(
        member_id=name,
        instance_id=name,
        rack_id=None,
        client_id="c",
        client_host="/127.0.0.1",
        rebalance_timeout_ms=60_000,
        names=frozenset("t"),
        regex="",
        assignor=None,
        classic=None,
    )


def streams_member(name: str) -> streams_messages.MemberRecord:
    return streams_messages.MemberRecord(
        member_id=name,
        rack_id=None,
        client_id="c",
        client_host="/127.0.0.1",
        rebalance_timeout_ms=60_000,
        topology_epoch=0,
        process_id="p",
        endpoint=None,
        tags=(),
    )


@pytest.mark.parametrize("kind", ["classic", "consumer", "streams"])
def test_a_close_in_the_middle_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Nothing of it is left of what all groups may hold together."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            group = services.name_in(ELSEWHERE, "g")
            container = services.store.containers[ELSEWHERE].container
            await container.update(*rows_of_large_groups(group)[kind])
            await close(services, ELSEWHERE)
            used = services.all_groups.allowance
            with monkeypatch.context() as patch:
                patch.setattr(turns, "TURN_S", 0.0)
                opening = asyncio.create_task(load(services, ELSEWHERE))
                while not used.used:  # noqa: ASYNC110 - it is within a few turns of the loop
                    await asyncio.sleep(0)
                assert not list(services.all_groups)  # some of its members are restored
                await close(services, ELSEWHERE)
                await asyncio.gather(opening, return_exceptions=True)
            assert used.used == 0
            await load(services, ELSEWHERE)
            await start(services, ELSEWHERE)
            assert services.all_groups.of(group).get(group) is not None

    run(scenario())


def test_a_failure_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's storage fails while its coordinators load: they end, and those of others serve."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            group = services.name_in(ELSEWHERE, "g")
            await store_offsets(services, group, "t", MANY)
            await close(services, ELSEWHERE)
            with monkeypatch.context() as patch, failing(ELSEWHERE):
                held = Held(patch, OFFSETS_TABLE)
                opening = asyncio.create_task(services.all_groups.load_in(ELSEWHERE))
                await held.is_reached.wait()
                with pytest.raises(Exception, match="Input/output error"):
                    await owner_of(services.slot("u")).update()
                await opening
                await until(lambda: not services.all_groups.are_loading)
            await services.all_groups.start_in(ELSEWHERE)
            with pytest.raises(Refusal, match="not_coordinator"):
                services.all_groups.of(group)
            assert await commit(services, services.group, 3) is ErrorCode.none

    run(scenario())


def test_a_close_while_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a coordinator goes on behind its end."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            group = services.name_in(ELSEWHERE, "g")
            for number in range(20):
                await store_offsets(services, group, f"gone-{number}", 1)
            await close(services, ELSEWHERE)
            await load(services, ELSEWHERE)
            groups = services.all_groups.in_container(ELSEWHERE)
            assert groups is not None
            monkeypatch.setattr(turns, "TURN_S", 0.0)
            starting = asyncio.create_task(services.all_groups.start_in(ELSEWHERE))
            while not groups._is_active:  # noqa: ASYNC110 - it is within a few turns of the loop
                await asyncio.sleep(0)
            assert groups._sweeper is None  # it gives way in the middle of its start
            await close(services, ELSEWHERE)
            await starting
            assert groups._sweeper is None
            with pytest.raises(Refusal, match="not_coordinator"):
                services.all_groups.of(group)

    run(scenario())


# A deletion in the middle


@pytest.mark.parametrize("table", [OFFSETS_TABLE, PENDING_OFFSETS_TABLE])
def test_a_topic_is_deleted_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """Its offsets go, those too that are read later, or that a transaction has yet to commit; a new topic of the name
    begins without."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create("stays")
            group, name = services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            await store_offsets(services, group, "stays", 3)
            await store_offsets(services, group, "t", MANY)
            who = await services.init(name)
            await services.commit_offset(who, 9, name=name, group=group)
            async with loading(services, monkeypatch, table):
                stream = services.topics.get("t")
                assert stream is not None
                deleting = asyncio.create_task(services.topics.delete([stream]))
                await until(lambda: services.topics.get("t") is None)
                assert not deleting.done()  # it waits for the offsets
            await start(services, ELSEWHERE)
            assert await deleting == [None]
            await services.create("t")
            offsets = services.all_groups.of(group).offsets
            assert set(offsets.of_group(group)) == {"stays"}
            await services.end(who, name=name)
            assert services.offset(group) is None
            assert await commit(services, group, 1) is ErrorCode.none
            assert services.offset(group) == 1
            rows = services.store.containers[ELSEWHERE].container.table(OFFSETS_TABLE).entries
            assert len(rows) == 3 + 1

    run(scenario())


def test_a_deletion_and_a_close_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion waits for no coordinator that has gone; the next start finds the offsets."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group = services.name_in(ELSEWHERE, "g")
            await store_offsets(services, group, "t", MANY)
            await close(services, ELSEWHERE)
            with monkeypatch.context() as patch:
                held = Held(patch, OFFSETS_TABLE)
                opening = asyncio.create_task(services.all_groups.load_in(ELSEWHERE))
                await held.is_reached.wait()
                stream = services.topics.get("t")
                assert stream is not None
                deleting = asyncio.create_task(services.topics.delete([stream]))
                await until(lambda: services.topics.get("t") is None)
                await close(services, ELSEWHERE)
                await opening
            assert await deleting == [None]
            await load(services, ELSEWHERE)
            await start(services, ELSEWHERE)
            rows = services.store.containers[ELSEWHERE].container.table(OFFSETS_TABLE).entries
            await until(lambda: not rows)

    run(scenario())


# A topic that cannot be shown


def test_a_topic_that_is_not_whole(tmp_path: Path) -> None:
    """A container has no room for its copy of a topic, which is therefore not shown yet: its offsets stay, and what a
    transaction commits to it."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group, name = services.name_in(ELSEWHERE, "g"), services.name_in(ELSEWHERE)
            assert await commit(services, group, 5) is ErrorCode.none
            await store_offsets(services, group, "gone", 3)
            who = await services.init(name)
            await services.commit_offset(who, 9, name=name, group=group)
            await close(services, ELSEWHERE)
            stream, all_streams = services.slot("t").stream, services.store.streams
            all_streams.remove(stream)
            all_streams.add(stream)
            await load(services, ELSEWHERE)
            await start(services, ELSEWHERE)
            rows = services.store.containers[ELSEWHERE].container.table(OFFSETS_TABLE).entries
            await until(lambda: len(rows) == 1)  # those of a topic that is nowhere go
            assert services.offset(group) == 5
            await services.end(who, name=name)
            assert services.offset(group) == 9
            all_streams.name(stream)
            assert services.offset(group) == 9

    run(scenario())


def test_an_unreadable_row(tmp_path: Path) -> None:
    """It stops the load, wherever it lies, and the container serves nobody."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            group = services.name_in(ELSEWHERE, "g")
            await store_offsets(services, group, "t", MANY)
            container = services.store.containers[ELSEWHERE].container
            await container.update(Put(OFFSETS_TABLE, encode_offset_key(OffsetKey(group, "z", 0)), b"\xff"))
            await close(services, ELSEWHERE)
            with pytest.raises(Exception, match="committed offset has version 255"):
                await services.all_groups.load_in(ELSEWHERE)
            await services.all_groups.start_in(ELSEWHERE)
            refuses(lambda: services.all_groups.of(group))
            await close(services, ELSEWHERE)
            with pytest.raises(Refusal, match="not_coordinator"):
                services.all_groups.of(group)

    run(scenario())
