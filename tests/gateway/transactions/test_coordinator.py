"""The coordinator on a real store: time-outs, expiry, restarts in every state, full disks, several containers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core import turns
from core.clock import ManualClock
from core.container.container import Container
from core.container.ports import TransactionEnd
from core.errors import StorageFull
from core.log.records import Operation, Put
from gateway.groups.offsets.service import OffsetCommit
from gateway.refusals import Refusal
from gateway.transactions import retries
from gateway.transactions.partitions import transaction_end
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE, encode_transaction
from gateway.transactions.transaction import EPOCH_MAX, Identity, Transaction, TransactionState
from tests.core.support import Gate, owner_of, until
from tests.gateway.transactions.services import ELSEWHERE, TIMEOUT_MS, Services, append, full, run, serving

pytestmark = pytest.mark.slow

BOTH = (0, ELSEWHERE)
WEEK_S = 7 * 24 * 3_600


async def store_as(services: Services, known: Transaction) -> None:
    """Put a transaction into the log as it is to be found by the next start."""
    key = known.transactional_id.encode()
    await services.store.home.update(Put(TRANSACTIONS_TABLE, key, encode_transaction(known)))


def test_commit(tmp_path: Path) -> None:
    """Records and offsets of a transaction become visible together, when it commits."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.write(who, "t", b"b", partition=1)
            await services.commit_offset(who, 7)
            before = (await services.committed("t"), services.offset(), services.is_unstable())
            following = await services.end(who)
            after = (await services.committed("t"), services.offset(), services.is_unstable())

            assert before == ([], None, True)
            assert after == ([b"a"], 7, False)
            assert await services.committed("t", 1) == [b"b"]
            assert following == Identity(who.producer_id, who.epoch + 1)
            assert services.store.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())


def test_abort(tmp_path: Path) -> None:
    """An aborted one leaves nothing visible, and earlier committed records stay."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            await services.commit_offset(who, 3)
            who = await services.end(who)
            await services.write(who, "t", b"a")
            await services.commit_offset(who, 7)
            await services.end(who, committed=False)

            assert (await services.committed("t"), services.offset(), services.is_unstable()) == ([], 3, False)
            assert services.slot("t").stable_end == services.slot("t").durable_end == 2
            assert services.store.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())


def test_time_out(tmp_path: Path) -> None:
    """A transaction that takes longer than its producer said is aborted, and its producer fenced."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            await services.write(who, "t", b"a")
            services.clock.advance(TIMEOUT_MS / 1_000 - 0.001)
            await services.transactions.abort_overdue()
            assert services.known().is_ongoing
            services.clock.advance(0.001)
            await services.transactions.abort_overdue()

            assert services.known().state is TransactionState.COMPLETE_ABORT
            assert services.slot("t").stable_end == 2
            assert services.all_transactions.counters.timed_out == 1
            for call in (services.end(who), services.write(who, "t", b"b", sequence=1), services.init(expected=who)):
                with pytest.raises(Refusal, match="producer_fenced"):
                    await call
            assert (await services.init()).epoch == who.epoch + 2

    run(scenario())


def test_time_is_counted_from_the_beginning(tmp_path: Path) -> None:
    """More partitions do not prolong a transaction, the next one has its full time, and an idle id stays."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            services.clock.advance(WEEK_S)
            await services.write(who, "t", b"a")
            services.clock.advance(50)
            await services.write(who, "t", b"b", partition=1)
            who = await services.end(who)
            await services.write(who, "t", b"c")
            services.clock.advance(50)
            await services.transactions.abort_overdue()
            assert services.known().is_ongoing
            await services.write(who, "t", b"d", partition=1)
            services.clock.advance(10)
            await services.transactions.abort_overdue()

            assert services.known().state is TransactionState.COMPLETE_ABORT
            assert await services.committed("t") == [b"a"]

    run(scenario())


@pytest.mark.parametrize("jump_ms", [-3_600_000, 0])
def test_time_out_over_a_restart(tmp_path: Path, jump_ms: int) -> None:
    """A transaction open at a crash goes on, and times out, also if the clock was set back."""

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock, clean=False) as services:
            await services.create("t")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.commit_offset(who, 7)
        clock.advance(30)
        clock.jump_wall(jump_ms)
        async with serving(tmp_path, clock=clock) as services:
            assert services.known().is_ongoing
            assert (services.is_unstable(), services.slot("t").stable_end) == (True, 0)
            await services.write(who, "t", b"b", sequence=1)
            await services.transactions.abort_overdue()
            assert services.known().is_ongoing
            clock.advance(60 if jump_ms else 30)
            await services.transactions.abort_overdue()

            assert services.known().state is TransactionState.COMPLETE_ABORT
            assert (services.is_unstable(), services.offset(), await services.committed("t")) == (False, None, [])
            assert services.slot("t").stable_end == 3

    run(scenario())


def test_commit_after_a_restart(tmp_path: Path) -> None:
    """A producer does not notice a crash: records and offsets from before it are committed with those after it."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.commit_offset(who, 7)
        async with serving(tmp_path, clean=False) as services:
            await services.write(who, "t", b"b", sequence=1)
            following = await services.end(who)
        async with serving(tmp_path) as services:
            assert (await services.committed("t"), services.offset()) == ([b"a", b"b"], 7)
            assert await services.end(who) == following  # the answer was lost, and it asks again
            assert services.known().state is TransactionState.COMPLETE_COMMIT

    run(scenario())


def test_expiry(tmp_path: Path) -> None:
    """Ids that nobody used for a week are forgotten, for good; those with a transaction under way are not."""

    async def scenario() -> None:
        clock = ManualClock()
        async with serving(tmp_path, clock=clock) as services:
            await services.create("t")
            await services.init("unused")
            await services.init("going on")
            used = await services.init("used")
            clock.advance(WEEK_S - 1)
            await services.transactions.forget_unused()
            assert len(services.transactions) == 3
            who = await services.init("going on")
            await services.write(who, "t", b"a", name="going on")
            await services.write(used, "t", b"b", name="used", partition=1)
            await services.end(used, name="used")
            clock.advance(1)
            await services.transactions.forget_unused()
            assert {known.transactional_id for known in services.transactions} == {"going on", "used"}
            clock.advance(WEEK_S)
            await services.transactions.forget_unused()
            assert {known.transactional_id for known in services.transactions} == {"going on"}
        async with serving(tmp_path, clock=clock) as services:
            assert {known.transactional_id for known in services.transactions} == {"going on"}
            with pytest.raises(Refusal, match="invalid_producer_id_mapping"):
                await services.end(used, name="used")
            assert (await services.init("used")).producer_id > used.producer_id

    run(scenario())


def test_a_look_for_unused_ids_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ids there are: where a turn is over at once, each of them has a turn of its own."""
    ids = 20

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            for number in range(ids):
                await services.init(f"x{number}")
            monkeypatch.setattr(turns, "TURN_S", -1.0)
            looking = asyncio.create_task(services.transactions.forget_unused())
            rounds = 0
            while not looking.done():
                rounds += 1
                await asyncio.sleep(0)
            assert rounds > ids

    run(scenario())


@pytest.mark.parametrize("bumps", [True, False])
def test_full_disk(tmp_path: Path, bumps: bool) -> None:
    """A request that finds no room is refused for now and has changed nothing; it succeeds when there is room."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            with full(services.store.home):
                for call in (services.init("y"), services.init(), services.commit_offset(who, 7)):
                    with pytest.raises(StorageFull):
                        await call
                with pytest.raises(StorageFull):
                    await services.transactions.add(services.name, who, [services.place("t")])
            assert services.transactions.get("y") is None
            assert services.known().state is TransactionState.EMPTY
            assert services.known().identity == who
            assert not services.is_unstable()
            await services.write(who, "t", b"a")
            await services.commit_offset(who, 7)
            known = services.known()
            with full(services.store.home):
                for call in (services.end(who, bumps=bumps), services.init()):
                    with pytest.raises(StorageFull):
                        await call
                services.clock.advance(TIMEOUT_MS / 1_000)
                with pytest.raises(StorageFull):
                    await services.transactions.abort_overdue()
            assert (services.known(), services.is_unstable(), services.slot("t").end) == (known, True, 1)

            await services.end(who, bumps=bumps)
            assert (await services.committed("t"), services.offset()) == ([b"a"], 7)

    run(scenario())


def test_full_disk_elsewhere(tmp_path: Path) -> None:
    """A commit that is chosen but finds no room in another container is answered, and completed when there is room."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.write(who, "u", b"b")
            with full(services.store.containers[ELSEWHERE].container):
                following = await services.end(who)
                assert await services.committed("t") == [b"a"]  # nothing holds this part up
            assert services.known().state is TransactionState.PREPARE_COMMIT
            for call in (services.end(who), services.init(), services.write(following, "t", b"c")):
                with pytest.raises(Refusal, match="concurrent_transactions"):
                    await call
            with pytest.raises(Refusal, match="invalid_txn_state"):
                await services.end(who, committed=False)
            assert await services.committed("u") == []
            await services.transactions.complete_prepared()

            assert (await services.committed("t"), await services.committed("u")) == ([b"a"], [b"b"])
            assert await services.end(who) == following == Identity(who.producer_id, who.epoch + 1)

    run(scenario())


def test_a_look_before_the_outcome_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears of an outcome that is not in the log yet, also if all prepared transactions are gone through just
    then; and one that is completed twice at once is completed once."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            gate = Gate(monkeypatch)
            ending = asyncio.create_task(services.end(who))
            await until(lambda: services.known().state is TransactionState.PREPARE_COMMIT)
            looking = asyncio.create_task(services.transactions.complete_prepared())
            await until(gate.waiting.is_set)
            for _ in range(20):
                await asyncio.sleep(0)
            assert services.slot("u").end == 1  # no marker, not even queued
            gate.open.set()
            await asyncio.gather(ending, looking)
            await until(lambda: services.known().state is TransactionState.COMPLETE_COMMIT)
            assert (await services.committed("u"), services.slot("u").end) == ([b"a"], 2)
            assert services.all_transactions.counters.committed == 1

    run(scenario())


def test_no_end_holds_up_another(tmp_path: Path) -> None:
    """Of several that are prepared, those that can be completed are, whatever comes before them."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=(0, 1, 2)) as services:
            await services.create_elsewhere("u")
            await services.create_elsewhere("v", 1_001, 2)
            names = {topic: services.name_in(0, topic) for topic in ("u", "v")}
            who = {topic: await services.init(name) for topic, name in names.items()}
            for topic, name in names.items():
                await services.write(who[topic], topic, b"a", name=name)
            away = [services.store.containers[number].container for number in (1, 2)]
            with full(away[0]):
                with full(away[1]):
                    for topic, name in names.items():
                        await services.end(who[topic], name=name)
                await services.transactions.complete_prepared()
                assert [await services.committed(topic) for topic in names] == [[], [b"a"]]
            await services.transactions.complete_prepared()
            assert [await services.committed(topic) for topic in names] == [[b"a"], [b"a"]]

    run(scenario())


def test_one_that_waits_long_lets_others_be_tried_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that cannot be completed for a moment is tried again by its own pause, not by that of another one
    which has failed for long."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=(0, 1, 2)) as services:
            await services.create_elsewhere("u")
            await services.create_elsewhere("v", 1_001, 2)
            names = {topic: services.name_in(0, topic) for topic in ("u", "v")}
            who = {topic: await services.init(name) for topic, name in names.items()}
            for topic, name in names.items():
                await services.write(who[topic], topic, b"a", name=name)
            with full(services.store.containers[1].container):
                with monkeypatch.context() as patch:
                    patch.setattr(retries, "RETRY_S", 3_600.0)  # as after many tries
                    await services.end(who["u"], name=names["u"])
                with full(services.store.containers[2].container):
                    await services.end(who["v"], name=names["v"])
                    assert services.known(names["v"]).state is TransactionState.PREPARE_COMMIT
                await until(lambda: services.known(names["v"]).state is TransactionState.COMPLETE_COMMIT)
                assert services.known(names["u"]).state is TransactionState.PREPARE_COMMIT

    run(scenario())


def test_released_elsewhere(tmp_path: Path) -> None:
    """A commit with partitions in a container that is not here any more is completed when it is."""

    async def scenario() -> None:
        async with serving(tmp_path, containers=BOTH) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.write(who, "u", b"b")
            await services.release(ELSEWHERE)
            following = await services.end(who)
            assert services.known().state is TransactionState.PREPARE_COMMIT
            assert await services.committed("t") == [b"a"]
        async with serving(tmp_path, containers=BOTH) as services:
            assert services.known().identity == following
            assert (await services.committed("t"), await services.committed("u")) == ([b"a"], [b"b"])

    run(scenario())


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("crash", ["chosen", "marked elsewhere", "marked in part"])
def test_crash_between(tmp_path: Path, committed: bool, crash: str) -> None:
    """A transaction whose outcome was logged ends that way after a crash: partitions, offsets and the new epoch."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=(0, 1, 2)) as services:
            await services.create("t")
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.write(who, "u", b"b")
            await services.write(who, "u", b"c", partition=1)
            await services.commit_offset(who, 7)
            known = services.known()
            prepared = known.ending(committed=committed, following=known.bumped(-1), remembers=True, now_ms=1)
            await store_as(services, prepared)
            marked = {"chosen": 0, "marked elsewhere": 2, "marked in part": 1}[crash]
            await services.store.containers[ELSEWHERE].container.end_transactions(
                [
                    transaction_end(
                        services.slot("u", n),
                        who.producer_id,
                        prepared.marker_epoch,
                        committed=committed,
                        coordinator_epoch=1,
                        now_ms=1,
                    )
                    for n in range(marked)
                ],
                (),
            )
        for _ in range(2):  # and it is stored as it is then
            async with serving(tmp_path, clean=False, containers=(0, 1, 2)) as services:
                values = [await services.committed(*where) for where in (("t",), ("u",), ("u", 1))]
                slots = [services.slot(*where) for where in (("t",), ("u",), ("u", 1))]

                assert values == ([[b"a"], [b"b"], [b"c"]] if committed else [[], [], []])
                assert services.offset() == (7 if committed else None)
                assert not services.is_unstable()
                assert [(slot.stable_end, slot.durable_end) for slot in slots] == [(2, 2)] * 3  # one marker each
                assert await services.end(who, committed=committed) == Identity(who.producer_id, who.epoch + 1)

    run(scenario())


def test_outcome_is_logged_first(tmp_path: Path) -> None:
    """A waiter for a commit in another container that is cut off finds it done; no abort is possible meanwhile."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
            ending = asyncio.create_task(services.end(who))
            await asyncio.sleep(0)
            assert services.known().state is TransactionState.PREPARE_COMMIT
            with pytest.raises(Refusal, match="concurrent_transactions"):
                await services.transactions.add(services.name, who, [services.place("u", 1)])
            services.clock.advance(TIMEOUT_MS)
            await services.transactions.abort_overdue()
            assert services.known().is_committed
            await services.store.home.all_durable()
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
        async with serving(tmp_path, containers=BOTH) as services:
            assert await services.committed("u") == [b"a"]
            assert (await services.end(who)).epoch == who.epoch + 1

    run(scenario())


@pytest.mark.parametrize("ending", ["time-out", "commit", "next producer"])
def test_written_elsewhere_before_a_crash(tmp_path: Path, ending: str) -> None:
    """A partition in another container ends with its transaction and never stays open after a crash, as the record that
    made it part of the transaction was synced first."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            who = await services.init()
            await services.write(who, "u", b"a")
        async with serving(tmp_path, containers=BOTH) as services:
            assert services.known().partitions == {services.place("u")}
            assert services.slot("u").stable_end == 0
            if ending == "time-out":
                services.clock.advance(TIMEOUT_MS / 1_000)
                await services.transactions.abort_overdue()
            elif ending == "commit":
                await services.end(who)
            else:
                await services.init()

            assert services.slot("u").stable_end == 2
            assert await services.committed("u") == ([b"a"] if ending == "commit" else [])

    run(scenario())


def test_of_no_id_that_is_known(tmp_path: Path) -> None:
    """An open transaction of an unknown producer stays as it is: an administrator may end it."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False, containers=BOTH) as services:
            await services.create_elsewhere("u")
            await services.init()
            append(services.slot("u"), Identity(999_999, 0), b"a")
            await owner_of(services.slot("u")).all_durable()
        async with serving(tmp_path, containers=BOTH) as services:
            assert services.known().state is TransactionState.EMPTY
            assert services.slot("u").stable_end == 0

    run(scenario())


@pytest.mark.parametrize("state", TransactionState)
def test_restart_in_every_state(tmp_path: Path, state: TransactionState) -> None:
    """Whatever the log holds: after the start nothing is prepared, and the next producer gets the next epoch."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            who = await services.init()
            known = replace(services.known(), state=state)
            if state.name.startswith("PREPARE"):
                known = replace(known, next=known.bumped(-1), remembers=True)
            if state is TransactionState.ONGOING:
                known = replace(known, partitions=frozenset({services.place("t")}), started_ms=0)
            await store_as(services, known)
        async with serving(tmp_path) as services:
            expected = {
                TransactionState.PREPARE_COMMIT: TransactionState.COMPLETE_COMMIT,
                TransactionState.PREPARE_ABORT: TransactionState.COMPLETE_ABORT,
            }
            assert services.known().state is expected.get(state, state)
            assert services.transactions.under_way == (state is TransactionState.ONGOING)
            epoch = services.known().epoch
            rises = 2 if state is TransactionState.ONGOING else 1
            assert await services.init() == Identity(who.producer_id, epoch + rises)

    run(scenario())


def test_epochs_used_up(tmp_path: Path) -> None:
    """A producer with the last but one epoch gets a new id with its next transaction, and can ask for that again."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            who = await services.init()
            await store_as(services, replace(services.known(), epoch=EPOCH_MAX - 1))
        last = Identity(who.producer_id, EPOCH_MAX - 1)
        async with serving(tmp_path) as services:
            await services.write(last, "t", b"a")
            await services.commit_offset(last, 7)
            following = await services.end(last)
            assert (following.epoch, following.producer_id > last.producer_id) == (0, True)
            assert await services.end(last) == following
            assert (await services.committed("t"), services.offset()) == ([b"a"], 7)
            await services.write(following, "t", b"b")
            with pytest.raises(Refusal, match="invalid_producer_id_mapping"):
                await services.write(last, "t", b"c", sequence=1)

    run(scenario())


def test_fenced_with_epochs_used_up(tmp_path: Path) -> None:
    """A producer that names itself while its last epoch has a transaction gets another id, never the last epoch."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            who = await services.init()
            await store_as(services, replace(services.known(), epoch=EPOCH_MAX - 1))
        last = Identity(who.producer_id, EPOCH_MAX - 1)
        async with serving(tmp_path) as services:
            await services.write(last, "t", b"a")
            following = await services.init(expected=last)

            assert (following.epoch, following.producer_id > last.producer_id) == (0, True)
            assert await services.init(expected=last) == following
            assert (services.slot("t").stable_end, await services.committed("t")) == (2, [])

    run(scenario())


def test_two_at_once(tmp_path: Path) -> None:
    """Producers that begin at the same time get an epoch each, and all but the last are fenced."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            found = await asyncio.gather(*(services.init() for _ in range(5)))

            assert len({who.producer_id for who in found}) == 1
            assert sorted(who.epoch for who in found) == list(range(5))
            newest = max(found)
            for who in found:
                if who != newest:
                    with pytest.raises(Refusal, match="producer_fenced"):
                        await services.write(who, "t", b"a")
            await services.write(newest, "t", b"b")

    run(scenario())


def test_topic_deleted(tmp_path: Path) -> None:
    """A transaction ends although a topic of it is gone; a new topic of that name gets none of its offsets."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.create("other")
            who = await services.init()
            await services.write(who, "t", b"a")
            await services.write(who, "other", b"b")
            await services.commit_offset(who, 7)
            await services.commit_offset(who, 8, topic="other")
            stream = services.topics.get("t")
            assert stream is not None
            assert await services.topics.delete([stream]) == [None]
            await services.create("t")
            await services.groups.offsets.finish()
            assert not services.is_unstable()
            await services.end(who)

            assert (services.offset(), services.offset(topic="other")) == (None, 8)
            assert (await services.committed("t"), await services.committed("other")) == ([], [b"b"])
            assert services.store.table(PENDING_OFFSETS_TABLE).entries == {}

    run(scenario())


def test_topic_deleted_before_a_crash(tmp_path: Path) -> None:
    """Offsets of a topic that was deleted just before a crash are dropped by the start."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            who = await services.init()
            await services.commit_offset(who, 7)
            stream = services.topics.get("t")
            assert stream is not None
            await services.store.delete_stream(stream)
        async with serving(tmp_path) as services:
            await services.create("t")
            await services.groups.offsets.finish()
            assert not services.is_unstable()
            await services.end(who)
            assert services.offset() is None

    run(scenario())


def test_topic_sealed(tmp_path: Path) -> None:
    """A transaction ends in a topic that takes no more records."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            await services.write(who, "t", b"a")
            stream = services.topics.get("t")
            assert stream is not None
            await services.store.seal_stream(stream)
            await services.end(who)

            assert (await services.committed("t"), services.slot("t").stable_end) == ([b"a"], 2)

    run(scenario())


def test_an_offset_is_visible_when_its_commit_is_answered(tmp_path: Path) -> None:
    """At no later moment: a client that hears of the commit reads the offset."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            who = await services.init()
            for number in range(20):
                await services.commit_offset(who, number)
                who = await services.end(who)
                assert services.offset() == number

    run(scenario())


def test_group_deleted(tmp_path: Path) -> None:
    """What a transaction would have committed to a group that was deleted meanwhile goes with it; what it does to a new
    group of that name stays."""

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t")
            assert services.groups.admission.commit("g", "", None, -1) is ErrorCode.none
            who = await services.init()
            await services.commit_offset(who, 3)
            who = await services.end(who)
            await services.commit_offset(who, 7)
            assert await services.groups.delete_group("g") is ErrorCode.none
            assert not services.is_unstable()
            who = await services.end(who)
            assert services.offset() is None
            assert services.groups.get("g") is None
            await services.commit_offset(who, 8)
            await services.end(who)
        async with serving(tmp_path) as services:
            assert services.offset() == 8

    run(scenario())


def test_several_transactions_of_one_offset(tmp_path: Path) -> None:
    """An offset is unstable until the last transaction that may change it has ended."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            one, other = await services.init(), await services.init("y")
            await services.commit_offset(one, 1)
            await services.commit_offset(one, 2)
            await services.commit_offset(other, 3, name="y")
            await services.end(one)
            assert (services.offset(), services.is_unstable()) == (2, True)
            await services.end(other, name="y", committed=False)
            assert (services.offset(), services.is_unstable()) == (2, False)

    run(scenario())


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_offsets_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool, turns: int) -> None:
    """Many offsets end some at a time behind the outcome; after a crash at any turn the rest ends the same way."""
    monkeypatch.setattr("gateway.transactions.participant.OFFSETS_AT_ONCE", 2)
    real = Container.end_transactions
    left = turns  # steps until the crash

    def step(
        container: Container, ends: Sequence[TransactionEnd], operations: Sequence[Operation]
    ) -> asyncio.Future[None]:
        nonlocal left
        if left == 0:
            raise StorageFull("the disk is full")
        left -= 1
        return real(container, ends, operations)

    async def scenario() -> None:
        async with serving(tmp_path, clean=False) as services:
            await services.create("t", 9)
            who = await services.init()
            offsets, _ = services.groups.offsets.judge("g", [OffsetCommit("t", n, 7 + n, -1, "") for n in range(9)])
            await services.transactions.commit_offsets("x", who, "g", offsets)
            with monkeypatch.context() as patch:
                patch.setattr(Container, "end_transactions", step)
                await services.end(who, committed=committed)
            assert len(list(services.transactions.participant.pending_offsets.keys_of_group("g"))) == 9 - 2 * turns
            assert services.known().is_committed == committed
        async with serving(tmp_path) as services:
            assert services.known().state is (
                TransactionState.COMPLETE_COMMIT if committed else TransactionState.COMPLETE_ABORT
            )
            assert not list(services.transactions.participant.pending_offsets.keys_of_group("g"))
            found = services.groups.offsets.of_group("g").get("t", {})
            assert {n: offset.offset for n, offset in found.items()} == (
                {n: 7 + n for n in range(9)} if committed else {}
            )

    run(scenario())


@pytest.mark.slow
def test_many_offsets(tmp_path: Path) -> None:
    """More offsets than one record of the log can hold are pending and committed as one."""

    async def scenario() -> None:
        count = 70_000
        async with serving(tmp_path, "log.file.bytes=16777216", clean=False) as services:
            await services.create("t")
            who = await services.init()
            offsets = {}
            (template,) = services.groups.offsets.judge("g", [("t", 0, 7, -1, "")])[0].items()  # type: ignore[list-item]
            for number in range(count):
                offsets[template[0]._replace(partition=number)] = template[1]
            await services.transactions.commit_offsets("x", who, "g", offsets)
        async with serving(tmp_path, "log.file.bytes=16777216") as services:
            assert len(list(services.transactions.participant.pending_offsets.keys_of_group("g"))) == count
            await services.end(who)
            await until(lambda: services.known().state is TransactionState.COMPLETE_COMMIT)
            assert len(services.groups.offsets.of_group("g")["t"]) == count

    run(scenario())


def test_metrics(tmp_path: Path) -> None:
    """The operator's view: the number of ended ones and of open ones; an idle coordinator counts nothing."""

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            counters = services.all_transactions.counters
            idle = (len(services.transactions), services.transactions.under_way)
            assert (*idle, counters.committed, counters.aborted, counters.timed_out) == (0, 0, 0, 0, 0)
            await services.create("t")
            who, other = await services.init(), await services.init("y")
            await services.write(who, "t", b"a")
            await services.write(other, "t", b"b", name="y")
            assert (len(services.transactions), services.transactions.under_way) == (2, 2)
            await services.end(who)
            await services.end(other, name="y", committed=False)
            assert (services.transactions.under_way, counters.committed, counters.aborted) == (0, 1, 1)

    run(scenario())
