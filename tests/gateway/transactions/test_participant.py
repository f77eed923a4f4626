"""A container's part in transactions whose coordinator is another one's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from kio.schema.errors import ErrorCode

from core.errors import NotHosted, NotMovedYet, SlotMoves
from core.log.records import Put
from gateway.groups.persistence import UnreadableRecord
from gateway.records.record_batch import read_header
from gateway.refusals import Refusal
from gateway.transactions import participant as module
from gateway.transactions.coordinator_epochs import COORDINATORS_TABLE, CoordinatorEpochs
from gateway.transactions.outcome import Outcome
from gateway.transactions.participant import Participant
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE
from gateway.transactions.transaction import COMPLETE, Identity, TransactionState
from gateway.transactions.writes import TransactionalWrites
from gateway.wire.errors import InvalidBatch
from tests.core.support import Gate, until
from tests.gateway.transactions.services import ELSEWHERE, HOME, TIMEOUT_MS, Services, batch_of, run, serving

pytestmark = pytest.mark.slow

BOTH = (HOME, ELSEWHERE)


def part(services: Services) -> Participant:
    return services.all_transactions.participant_in(ELSEWHERE)


def outcome_of(services: Services, who: Identity, *, committed: bool = True, epoch: int | None = None) -> Outcome:
    return Outcome(
        producer_id=who.producer_id,
        epoch=who.epoch,
        marker_epoch=who.epoch,
        committed=committed,
        coordinator_epoch=services.store.home.epoch if epoch is None else epoch,
    )


def test_the_same_end_again(tmp_path: Path) -> None:
    """An end that is sent again writes no second marker, and touches no later transaction of the producer."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            first, places = outcome_of(services, who), [services.place("u")]
            following = await services.end(who)
            await part(services).end(first, places)
            assert (services.slot("u").stable_end, services.slot("u").durable_end) == (2, 2)
            await services.write(following, "u", b"b")
            await part(services).end(first, places)
            assert (services.slot("u").stable_end, services.slot("u").durable_end) == (2, 3)
            await services.end(following)
            assert await services.committed("u") == [b"a", b"b"]

    run(scenario())


def test_an_end_that_finds_nothing_is_logged_all_the_same(tmp_path: Path) -> None:
    """A node that was replaced finds nothing, as its successor has the batches. Only its log can tell it that, and an
    end that it answers without asking would be complete with a transaction still open."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            container = services.store.containers[ELSEWHERE].container
            for _ in range(2):
                before = container.applied_lsn
                await part(services).end(outcome_of(services, who), [services.place("u")])
                assert container.applied_lsn > before
            container.leave()
            with pytest.raises(NotHosted):
                await part(services).end(outcome_of(services, who), [services.place("u")])

    run(scenario())


def test_a_coordinator_that_was_replaced(tmp_path: Path) -> None:
    """Its late word is refused once the new one has ended a transaction, after a restart as well."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            await services.end(who, bumps=False)
            old = outcome_of(services, who, committed=False)
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.write(who, "u", b"b", sequence=1)
            await services.end(who, bumps=False)
            assert old.coordinator_epoch < services.store.home.epoch
        async with serving(tmp_path, containers=BOTH) as services:
            await services.write(who, "u", b"c", sequence=2)
            with pytest.raises(Refusal, match="transaction_coordinator_fenced"):
                await part(services).end(old, [services.place("u")])
            await services.end(who, bumps=False)
            assert await services.committed("u") == [b"a", b"b", b"c"]

    run(scenario())


def test_a_coordinator_that_was_replaced_where_a_partition_was_before(tmp_path: Path) -> None:
    """Its late word is refused in the container to which the partition has moved since, too."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            await services.end(who, bumps=False)
            old = outcome_of(services, who, committed=False)
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.write(who, "u", b"b", sequence=1)
            await services.end(who, bumps=False)
            await services.store.move_slot(services.slot("u").stream, 0, HOME)
        async with serving(tmp_path, containers=BOTH) as services:
            await services.write(who, "u", b"c", sequence=2)
            with pytest.raises(Refusal, match="transaction_coordinator_fenced"):
                await services.all_transactions.participant_in(HOME).end(old, [services.place("u")])
            await services.end(who, bumps=False)
            assert await services.committed("u") == [b"a", b"b", b"c"]

    run(scenario())


@pytest.mark.parametrize("version", [11, 12])
def test_an_end_between_question_and_batch(tmp_path: Path, version: int) -> None:
    """A batch whose transaction ended while its coordinator was asked is refused: nobody would end what it begins."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            if version < 12:
                await services.transactions.add(services.name, who, [services.place("u")])
            answered, held = asyncio.Event(), asyncio.Event()
            real = services.transactions.add_elsewhere, services.transactions.verify_elsewhere

            async def slow(*arguments: object) -> object:
                answer = await real[version < 12](*arguments)  # type: ignore[arg-type]
                answered.set()
                await held.wait()
                return answer

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(services.transactions, "verify_elsewhere" if version < 12 else "add_elsewhere", slow)
                patch.setattr(services.transactions, "is_verified", lambda *_: False)  # as if its row were on its way
                writing = asyncio.create_task(services.write(who, "u", b"a", version=version))
                await answered.wait()
                services.clock.advance(TIMEOUT_MS / 1_000)
                await services.abort_overdue()
                held.set()
                with pytest.raises(InvalidBatch) as refused:
                    await writing
            assert refused.value.error_code == ErrorCode.transaction_abortable
            assert services.slot("u").end == 0

    run(scenario())


def test_the_end_of_the_one_before_between_question_and_batch(tmp_path: Path) -> None:
    """It was late, or is sent again: the next transaction has an epoch of its own, and goes on."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            group = services.name_in(ELSEWHERE, "g")
            who = await services.init()
            await services.write(who, "u", b"a")
            first, places = outcome_of(services, who), [services.place("u")]
            following = await services.end(who)
            real = services.transactions.add_elsewhere

            async def overtaken(*arguments: object) -> None:
                await real(*arguments)  # type: ignore[arg-type]
                await part(services).end(first, places)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(services.transactions, "add_elsewhere", overtaken)
                await services.write(following, "u", b"b")
                await services.commit_offset(following, 7, group=group)
            await services.end(following)
            assert await services.committed("u") == [b"a", b"b"]
            assert services.offset(group) == 7

    run(scenario())


@pytest.mark.parametrize("was_committed", [True, False])
def test_a_late_end_touches_no_offsets_of_the_next_transaction(tmp_path: Path, was_committed: bool) -> None:
    """It would apply what may be aborted yet, or drop what will be committed."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group = services.name_in(ELSEWHERE, "g")
            who = await services.init()
            await services.commit_offset(who, 1, group=group)
            first = outcome_of(services, who, committed=was_committed)
            following = await services.end(who, committed=was_committed)
            before = services.offset(group)
            await services.commit_offset(following, 7, group=group)
            await part(services).end(first, [])
            assert (services.offset(group), services.is_unstable(group)) == (before, True)
            await services.end(following, committed=not was_committed)
            assert services.offset(group) == (before if was_committed else 7)

    run(scenario())


def test_asked_once(tmp_path: Path) -> None:
    """The coordinator is asked once for a transaction and partition, and again in the next transaction."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            group = services.name_in(ELSEWHERE, "g")
            who, asked = await services.init(), 0
            real = services.transactions.add_elsewhere

            async def counted(*arguments: object) -> None:
                nonlocal asked
                asked += 1
                await real(*arguments)  # type: ignore[arg-type]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(services.transactions, "add_elsewhere", counted)
                for expected in (4, 8):  # two partitions, and a group for each of two topics' offsets
                    for sequence in range(3):
                        await services.write(who, "u", b"a", sequence=sequence)
                        await services.write(who, "u", b"a", sequence=sequence, partition=1)
                        await services.commit_offset(who, sequence, group=group)
                    await services.write(who, "t", b"a")
                    assert asked == expected - 1 - (expected == 8)
                    who = await services.end(who)

    run(scenario())


@pytest.mark.parametrize("version", [11, 12])
def test_a_stranger_is_refused(tmp_path: Path, version: int) -> None:
    """A partition elsewhere takes nothing of a producer that is fenced, or, before version 12, was not added."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            former, who = await services.init(), await services.init()
            with pytest.raises(Refusal, match="producer_fenced"):
                await services.write(former, "u", b"a", version=version)
            if version < 12:
                with pytest.raises(InvalidBatch, match="not part of a transaction"):
                    await services.write(who, "u", b"a", version=version)
            assert services.slot("u").end == 0

    run(scenario())


def questions(services: Services, who: Identity, topic: str, version: int) -> list[Awaitable[None]]:
    """What a Produce of a first batch has to wait for before it is judged."""
    slot = services.slot(topic)
    batch = memoryview(batch_of(slot, who, b"a"))
    writes = TransactionalWrites(services.all_transactions, services.name, version)
    asked = writes.preparing([(topic, [(0, batch)])], lambda _: slot.stream)
    return [question for question in asked if question is not None]


@pytest.mark.parametrize("version", [11, 12])
def test_others_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """A partition whose row is synced takes its first batch at once, although the coordinator's log is busy with
    another producer's transaction; one whose row is still on its way waits for it."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            other = services.name_in(HOME, "other")
            who, another = await services.init(), await services.init(other)
            await services.transactions.add(services.name, who, [services.place("u")])
            gate = Gate(monkeypatch)
            busy = asyncio.create_task(services.transactions.add(other, another, [services.place("t")]))
            await until(gate.waiting.is_set)
            assert questions(services, who, "u", version) == []
            late = asyncio.create_task(services.transactions.add(services.name, who, [services.place("t")]))
            await asyncio.sleep(0)
            (question,) = questions(services, who, "u", version)
            waiting = asyncio.ensure_future(question)
            await asyncio.sleep(0)
            assert not waiting.done()
            gate.open.set()
            await asyncio.gather(busy, late, waiting)

    run(scenario())


@pytest.mark.parametrize("container", BOTH)
def test_a_partition_waits_for_the_coordinators_of_both_containers(tmp_path: Path, container: int) -> None:
    """A container that has just come to a node is served before they are loaded: what they know of replaced
    coordinators would stay behind."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            await services.end(who, bumps=False)
            old = outcome_of(services, who, committed=False)
        async with serving(tmp_path, containers=BOTH) as services:
            await services.write(who, "u", b"b", sequence=1)
            await services.end(who, bumps=False)
            await services.all_transactions.release(container)
            with pytest.raises(NotMovedYet, match=f"container {container} is not loaded"):
                await services.store.move_slot(services.slot("u").stream, 0, HOME)
            assert services.slot("u").container_id == ELSEWHERE
            await services.all_transactions.load_in(container)
            await services.all_transactions.start_in(container)
            await services.store.move_slot(services.slot("u").stream, 0, HOME)
            await services.write(who, "u", b"c", sequence=2)
            with pytest.raises(Refusal, match="transaction_coordinator_fenced"):
                await services.all_transactions.participant_in(HOME).end(old, [services.place("u")])

    run(scenario())


@pytest.mark.parametrize("version", [11, 12])
def test_a_partition_leaves_the_coordinators_container_before_it_is_judged(tmp_path: Path, version: int) -> None:
    """It lay beside its coordinator as the request began, so nobody was asked about it: the client tries again, and its
    transaction goes on."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            who, slot = await services.init(), services.slot("t")
            if version < 12:
                await services.transactions.add(services.name, who, [services.place("t")])
            batch = batch_of(slot, who, b"a")
            writes = TransactionalWrites(services.all_transactions, services.name, version)
            assert not any(writes.preparing([("t", [(0, memoryview(batch))])], lambda _: slot.stream))
            await services.store.move_slot(slot.stream, 0, ELSEWHERE)
            with pytest.raises(SlotMoves):
                writes.check(services.slot("t"), read_header(memoryview(batch)))
            await services.write(who, "t", b"a", version=version)
            await services.end(who)
            assert await services.committed("t") == [b"a"]

    run(scenario())


def test_a_partition_has_left_before_its_end_comes(tmp_path: Path) -> None:
    """Its transaction is open elsewhere, perhaps on another node, and here nothing is: who asked has to ask there."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            first, places = outcome_of(services, who), [services.place("u")]
            slot = services.slot("u")
            await services.store.move_slot(slot.stream, 0, HOME)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(services.slot("u"), "transactions", None)  # as an address of another node's partition
                with pytest.raises(NotHosted):
                    await part(services).end(first, places)
            await services.end(who)
            assert await services.committed("u") == [b"a"]

    run(scenario())


def test_an_end_waits_for_its_own_row_alone(tmp_path: Path) -> None:
    """Whatever others queue behind a logged outcome, the markers are on their way before that is synced."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            other = services.name_in(HOME, "other")
            who, another = await services.init(), await services.init(other)
            await services.write(who, "u", b"a")
            known = services.known()
            prepared = known.ending(committed=True, following=known.bumped(-1), remembers=True, now_ms=1)
            await services.transactions._known.change(prepared)
            with pytest.MonkeyPatch.context() as patch:
                gate, home = Gate(patch), services.store.home
                gate.of = str(home.directory)
                busy = asyncio.create_task(services.transactions.add(other, another, [services.place("t")]))
                await until(gate.waiting.is_set)
                completing = asyncio.create_task(services.transactions.complete_prepared())
                await until(lambda: services.slot("u").stable_end == 2)
                gate.open.set()
                await asyncio.gather(busy, completing)
            assert await services.committed("u") == [b"a"]

    run(scenario())


def test_offsets_lie_with_their_group(tmp_path: Path) -> None:
    """Pending offsets and what becomes of them are rows of the group's container, wherever the coordinator is."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create("t")
            group = services.name_in(ELSEWHERE, "g")
            who = await services.init()
            await services.commit_offset(who, 7, group=group)
            rows = [services.store.containers[n].container.table(PENDING_OFFSETS_TABLE).entries for n in BOTH]
            assert [len(found) for found in rows] == [0, 1]
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            assert services.known().groups == {group}
            assert services.is_unstable(group)
            who = await services.end(who)
            assert (services.offset(group), services.is_unstable(group)) == (7, False)
            await services.commit_offset(who, 9, group=group)
            await services.end(who, committed=False)
            assert (services.offset(group), services.is_unstable(group)) == (7, False)
        async with serving(tmp_path, containers=BOTH) as services:
            assert services.offset(group) == 7

    run(scenario())


def test_the_next_transaction_waits_for_offsets_elsewhere(tmp_path: Path) -> None:
    """While an end is not complete, offsets of the producer's next transaction cannot slip into it."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            group = services.name_in(ELSEWHERE, "g")
            who = await services.init()
            await services.commit_offset(who, 7, group=group)
            known = services.known()
            following = known.bumped(-1)
            await services.transactions._known.change(
                known.ending(committed=True, following=following, remembers=True, now_ms=1)
            )
            with pytest.raises(Refusal, match="concurrent_transactions"):
                await services.commit_offset(following, 8, group=group)
            await services.transactions.complete_prepared()
            assert services.offset(group) == 7
            await services.commit_offset(following, 8, group=group)
            assert services.offset(group) == 7

    run(scenario())


def old_rows(group: str) -> list[Put]:
    """A prepared transaction with pending offsets beside it, byte for byte as before offsets lay with their groups."""
    name = group.encode()
    row = (
        bytes.fromhex("01 02 01")  # version, PrepareCommit, remembers
        + bytes.fromhex("0500000000000000 0000")  # producer 5, epoch 0
        + bytes.fromhex("ffffffffffffffff ffff")  # no last identity
        + bytes.fromhex("0500000000000000 0100")  # next: epoch 1
        + bytes.fromhex("60ea0000 e803000000000000 d007000000000000")  # 60 s, began at 1,000, changed at 2,000
        + bytes.fromhex("00000000 01000000")  # no partition, one group
        + len(name).to_bytes(2, "little")
        + name
    )
    key = (
        bytes.fromhex("0000000000000005")
        + len(name).to_bytes(2, "little")
        + name
        + bytes.fromhex("0100 74 00000000")  # topic "t", partition 0
    )
    offset = bytes.fromhex("01 2a00000000000000 ffffffff d007000000000000 ffffffffffffffff")  # 42
    return [Put(TRANSACTIONS_TABLE, b"x", row), Put(PENDING_OFFSETS_TABLE, key, offset)]


def test_rows_of_earlier_releases(tmp_path: Path) -> None:
    """A transaction that was prepared before offsets lay with their groups is finished by the next start."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            await services.store.home.update(*old_rows("g"))
        async with serving(tmp_path, clean=False) as services:
            assert services.known().state is TransactionState.COMPLETE_COMMIT
            assert services.known().identity == Identity(5, 1)
            assert (services.offset(), services.is_unstable()) == (42, False)
        async with serving(tmp_path) as services:
            assert services.offset() == 42
            assert services.store.home.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())


# Epochs of coordinators

KEY, VALUE = bytes.fromhex("0000000000000005"), bytes.fromhex("0107000000")


def test_format() -> None:
    """The bytes that are stored for a producer, for ever."""
    epochs = CoordinatorEpochs(10)
    assert epochs.raising(5, 7) == [Put(COORDINATORS_TABLE, KEY, VALUE)]
    epochs.load([(KEY, VALUE)])
    assert (epochs.get(5), epochs.get(6)) == (7, None)
    assert (epochs.is_fenced(5, 6), epochs.is_fenced(5, 7), epochs.is_fenced(6, 0)) == (True, False, False)
    assert not epochs.is_fenced(6, -1)  # what an administrator's tool says that does not know better


@pytest.mark.parametrize(("key", "value"), [(KEY, b"\2" + VALUE[1:]), (KEY, VALUE[:-1]), (KEY[1:], VALUE), (KEY, b"")])
def test_unreadable(key: bytes, value: bytes) -> None:
    """A row of another release, or a damaged one, stops the start."""
    with pytest.raises(UnreadableRecord):
        CoordinatorEpochs(10).load([(key, value)])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=40))
def test_memory_and_log_agree(raised: list[tuple[int, int]]) -> None:
    """What a restart loads is what memory had; there are never more than the bound, and none falls."""
    epochs, table = CoordinatorEpochs(3), dict[bytes, bytes]()
    for producer_id, epoch in raised:
        before = epochs.get(producer_id)
        if epochs.is_fenced(producer_id, epoch):
            assert before is not None
            assert epoch < before
            continue
        for change in epochs.raising(producer_id, epoch):
            if isinstance(change, Put):
                table[change.key] = change.value
            else:
                del table[change.key]
        epochs.raised(producer_id, epoch)
        assert epochs.get(producer_id) == epoch
        assert len(epochs) <= 3
    loaded = CoordinatorEpochs(3)
    loaded.load(table.items())
    assert [loaded.get(producer_id) for producer_id in range(6)] == [epochs.get(n) for n in range(6)]


def test_a_coordinator_is_replaced_between_two_steps_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successor has ended all of the transaction by then, and the producer has begun the next one, with the same
    epoch: the rest of the late end would commit that."""
    monkeypatch.setattr(module, "PLACES_AT_ONCE", 1)

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who, it = await services.init(), part(services)
            for partition in range(2):
                await services.write(who, "u", b"a", partition=partition)
            late = outcome_of(services, who)
            await services.store.home.rise(late.coordinator_epoch + 1)
            begun, go_on, real = asyncio.Event(), asyncio.Event(), it._step

            async def held(logged: asyncio.Future[None]) -> None:
                begun.set()
                await logged
                await go_on.wait()

            def step(outcome: Outcome, *arguments: Any) -> asyncio.Future[None]:
                logged = real(outcome, *arguments)
                return asyncio.ensure_future(held(logged)) if outcome is late else logged

            monkeypatch.setattr(it, "_step", step)
            ending = asyncio.create_task(it.end(late, [services.place("u"), services.place("u", 1)]))
            await begun.wait()
            await ended(services, who)
            await services.write(who, "u", b"b", partition=1, sequence=1)
            go_on.set()
            with pytest.raises(Refusal, match="transaction_coordinator_fenced"):
                await ending
            assert it.coordinator_epoch(who.producer_id) == services.store.home.epoch
            await services.end(who, committed=False, bumps=False)
            assert await services.committed("u", 1) == [b"a"]

    run(scenario())


def test_a_coordinator_is_replaced_while_it_commits_many_offsets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pending by then is of the producer's next transaction, and nobody has chosen its outcome."""
    monkeypatch.setattr(module, "OFFSETS_AT_ONCE", 1)

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create("v")
            group = services.name_in(ELSEWHERE, "g")
            who, it = await services.init(), part(services)
            for topic in ("t", "v"):
                await services.commit_offset(who, 1, group=group, topic=topic)
            late = outcome_of(services, who)
            await services.store.home.rise(late.coordinator_epoch + 1)
            real = it._container.end_transactions

            def end_transactions(*arguments: Any) -> asyncio.Future[None]:
                logged = real(*arguments)
                monkeypatch.setattr(it._container, "end_transactions", real)
                return asyncio.ensure_future(overtaken(logged))

            async def overtaken(logged: asyncio.Future[None]) -> None:
                await logged
                await ended(services, who)
                for topic in ("t", "v"):
                    await services.commit_offset(who, 7, group=group, topic=topic)

            monkeypatch.setattr(it._container, "end_transactions", end_transactions)
            with pytest.raises(Refusal, match="transaction_coordinator_fenced"):
                await it.end(late, [])
            await services.end(who, committed=False, bumps=False)
            assert [services.offset(group, topic) for topic in ("t", "v")] == [1, 1]

    run(scenario())


def test_a_container_goes_and_comes_back_between_question_and_batch(tmp_path: Path) -> None:
    """Whoever has it now has not seen whether the transaction has ended since: the batch would begin one that nobody
    ends."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who, real = await services.init(), services.transactions.add_elsewhere

            async def overtaken(*arguments: Any) -> None:
                await real(*arguments)
                await again(services, ELSEWHERE)
                services.clock.advance(TIMEOUT_MS / 1_000)
                await services.abort_overdue()

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(services.transactions, "add_elsewhere", overtaken)
                with pytest.raises(SlotMoves):  # the client tries again
                    await services.write(who, "u", b"a")
            assert services.slot("u").end == 0

    run(scenario())


def test_a_coordinator_goes_and_comes_back_before_a_batch_is_judged(tmp_path: Path) -> None:
    """A Produce that had to wait asks the one that is there now: the former one has not heard of the end."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            who, slot = await services.init(), services.slot("t")
            batch = batch_of(slot, who, b"a")
            writes = TransactionalWrites(services.all_transactions, services.name, 12)
            assert not any(writes.preparing([("t", [(0, memoryview(batch))])], lambda _: slot.stream))
            await services.store.home.all_durable()
            await again(services, HOME)
            await services.end(who)
            with pytest.raises(NotHosted):  # the client tries again
                writes.check(slot, read_header(memoryview(batch)))

    run(scenario())


async def again(services: Services, container_id: int) -> None:
    """The coordinator of a container ends, and another one begins from its rows."""
    await services.all_transactions.release(container_id)
    await services.all_transactions.load_in(container_id)
    await services.all_transactions.start_in(container_id)


async def ended(services: Services, who: Identity) -> None:
    """The producer's transaction is committed, everywhere, and its next one has the same epoch."""
    await services.end(who, bumps=False)
    await until(lambda: services.known().state in COMPLETE)
