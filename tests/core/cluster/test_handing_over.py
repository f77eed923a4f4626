"""A container that is handed over: its heir has read ahead, the owner writes until the end, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

from core import membership
from core.errors import CoordinatorAway, NotHosted, StorageFailure
from core.hosted import HostedContainer
from core.streams.live import Slot
from core.streams.writers import Duplicate
from tests.core.cluster.test_membership import CONTAINERS, Cluster, Node, cluster_in, contents
from tests.core.log.objects.test_store import Faulty, text
from tests.core.support import append, begin_append, run, until

pytestmark = pytest.mark.slow


async def two_nodes(cluster: Cluster) -> tuple[Node, Node]:
    """The first has all containers and a stream with an entry in each slot; the second has nothing."""
    first = await cluster.join()
    await cluster.at_rest(first)
    stream = await first.store.create_stream("s", slots=CONTAINERS)
    for number in range(CONTAINERS):
        await append(stream.slot(number), text(number), writer=(9, 0, 0))
    second = await cluster.join()
    await second.store.catch_up()
    return first, second


def slot_in(node: Node, container: int) -> Slot:
    stream = node.stream()
    return next(one for one in map(stream.slot, range(CONTAINERS)) if one.container_id == container)


async def taken_until_refused(slot: Slot) -> list[asyncio.Future[None]]:
    """Append all the time until it is not taken any more."""
    taken: list[asyncio.Future[None]] = []
    with contextlib.suppress(NotHosted):
        while len(taken) < 100_000:
            _, told = begin_append(slot, text(101 + len(taken)), writer=(9, 0, 1 + len(taken)))
            taken.append(told.future)
            await asyncio.sleep(0.001)
    return taken


def test_a_container_goes_to_the_node_that_is_wished_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Appends are taken until the heir is warm; what was taken is acknowledged and there; writers go on where they
    were; the heir reads next to nothing after the owner has let go. The others stay."""
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            slot = slot_in(first, 2)
            cluster.coordinator.ask(2, 1)
            taken = await taken_until_refused(slot)
            assert cluster.coordinator.warmed[2].node == 1
            await until(lambda: second.membership.serving == {2})
            await asyncio.gather(*taken)
            assert first.membership.serving == {0, 1, 3}
            theirs = slot_in(second, 2)
            container = second.store.hosted(theirs).container
            assert isinstance(container.check_writer(theirs, 9, 0, len(taken), 1), Duplicate)
            await append(theirs, text(7), writer=(9, 0, len(taken) + 1))
            expected = [text(theirs.number), *(text(101 + number) for number in range(len(taken))), text(7)]
            assert (await contents([second]))[theirs.number] == expected
            await until(lambda: 2 not in first.store.containers)
            assert slot.has_moved

            await append(slot_in(first, 1), text(8))
            cluster.coordinator.ask(2, 0)
            await until(lambda: first.membership.serving == {0, 1, 2, 3})
            assert (await contents([first]))[theirs.number] == expected

    run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("dies", ["heir", "owner"])
def test_one_dies_when_the_log_is_closed_already(tmp_path: Path, dies: str) -> None:
    """Its end is written for an epoch that nobody will have. Whoever is left has all of it, and goes on."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            heir, owner = second.seat, first.seat
            owner.is_away_for = {"hand_over"}
            cluster.coordinator.ask(2, 1)
            await until(lambda: owner.refused)
            assert 2 not in second.membership.serving
            with pytest.raises(NotHosted):
                begin_append(slot_in(first, 2), text(1))
            if dies == "heir":
                second.membership._ownership.drain()  # else its next look would begin another life's work
                heir.lose_lease()
            else:
                first.membership._ownership.drain()
                owner.lose_lease()
            owner.is_away_for = set()
            left = first if dies == "heir" else second
            await cluster.at_rest(left)
            slot = slot_in(left, 2)
            await append(slot, text(5))
            assert (await contents([left]))[slot.number] == [text(slot.number), text(5)]
            assert left.store.hosted(slot).container.epoch > CONTAINERS + 1

    run(scenario())


def test_an_owner_waits_for_puts_before_it_lets_go(tmp_path: Path) -> None:
    """The store holds one back: the container is nobody else's until its outcome is known, and then it is there."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            faulty = Faulty(cluster.storage)
            first = await cluster.join(faulty)  # type: ignore[arg-type]
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            second = await cluster.join()
            await second.store.catch_up()
            faulty.gate.clear()
            _, told = begin_append(slot, text(1))
            cluster.coordinator.ask(slot.container_id, 1)
            await until(lambda: slot.container_id in cluster.coordinator.warmed)
            await asyncio.sleep(0.2)
            assert not told.future.done()
            assert not second.membership.serving
            faulty.gate.set()
            await told.future
            await until(lambda: second.membership.serving == {slot.container_id})
            assert await contents([second]) == {0: [text(1)]}

    run(scenario())


@pytest.mark.parametrize("call", ["ask", "reserve_epoch"])
def test_an_owner_that_gets_no_answer_serves_no_longer_than_its_lease(tmp_path: Path, call: str) -> None:
    """What it has begun to give away is left at once when the lease ends: who waits for it hears of that."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            first.seat.is_away_for = {call, "read_epochs"}
            _, waiting = begin_append(slot_in(first, 2), text(1))
            if call == "ask":
                first.membership._ownership.drain()
                first.seat.hear()
            else:
                cluster.coordinator.ask(2, 1)
            await until(lambda: call in first.seat.refused)
            assert 2 in first.membership.serving
            assert not waiting.future.done()
            first.seat.lose_lease()
            await until(lambda: not first.store.containers)
            with pytest.raises(StorageFailure):
                await waiting.future
            await cluster.at_rest(second)

    run(scenario())


def test_a_last_checkpoint_is_broken_off_when_the_container_is_lost(tmp_path: Path) -> None:
    """The store does not take it for as long as it likes: whoever waits for the container hears of its end at once."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            faulty = Faulty(cluster.storage)
            first = await cluster.join(faulty)  # type: ignore[arg-type]
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            await append(slot, text(0))
            second = await cluster.join()
            faulty.takes_state.clear()
            cluster.coordinator.ask(slot.container_id, 1)
            await until(lambda: faulty.waiting)
            faulty.gate.clear()
            _, told = begin_append(slot, text(1))
            first.seat.lose_lease()
            await until(lambda: not first.store.containers)
            with pytest.raises(StorageFailure):
                await told.future
            await cluster.at_rest(second)
            assert await contents([second]) == {0: [text(0)]}

    run(scenario())


def test_an_owner_whose_log_does_not_end_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not reach the store, and others may: what it has acknowledged is there, and they go on."""
    monkeypatch.setattr(membership, "CLOSE_S", 0.3)

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            faulty = Faulty(cluster.storage)
            first = await cluster.join(faulty)  # type: ignore[arg-type]
            await cluster.at_rest(first)
            slot = (await first.store.create_stream("s", slots=1)).slot(0)
            await append(slot, text(0))
            second = await cluster.join()
            await second.store.catch_up()
            faulty.gate.clear()
            _, told = begin_append(slot, text(1))
            cluster.coordinator.ask(slot.container_id, 1)
            await until(lambda: second.membership.serving == {slot.container_id})
            with pytest.raises(StorageFailure):
                await told.future
            assert await contents([second]) == {0: [text(0)]}

    run(scenario())


def test_nothing_begins_in_a_container_that_is_closed(tmp_path: Path) -> None:
    """The registry is away when a container is to be served, and its log takes long to begin: it is left only then,
    with all that has begun in it."""

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            first, second = await two_nodes(cluster)
            begin, catch_up, close = second.store.begin_serving, second.store.catch_up, HostedContainer.close
            going_on, begun, away = asyncio.Event(), list[HostedContainer](), asyncio.Event()
            ended: list[str] = []

            async def begin_late(hosted: HostedContainer) -> None:
                begun.append(hosted)
                if len(begun) == 1:
                    await going_on.wait()
                await begin(hosted)
                ended.append("begun")

            async def refused() -> None:
                if not away.is_set():
                    away.set()
                    raise CoordinatorAway("the registry is away")
                await catch_up()

            async def closed(hosted: HostedContainer, *, clean: bool = True) -> None:
                if hosted in begun:
                    ended.append("closed")
                await close(hosted, clean=clean)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(second.store, "begin_serving", begin_late)
                patch.setattr(second.store, "catch_up", refused)
                patch.setattr(HostedContainer, "close", closed)
                patch.setattr("core.cluster.ownership.RETRY_S", 0.1)
                cluster.coordinator.ask(2, 1)
                await away.wait()
                for _ in range(20):
                    await asyncio.sleep(0)
                assert ended == []
                going_on.set()
                await until(lambda: len(ended) >= 2)
                assert ended[:2] == ["begun", "closed"]
                await until(lambda: 2 in first.membership.serving | second.membership.serving)

    run(scenario())
