"""Fetch sessions: the answers to incremental fetches, and the bounds of sessions...."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.clock import ManualClock
from gateway.apis import fetch
from gateway.broker import Broker
from gateway.fetching.looking import ColdRead
from gateway.fetching.sessions import EVICTABLE_AFTER_S, FetchSession, FetchSessions, Target
from gateway.wire.message import Message
from tests.gateway.apis.test_fetch import found, partitions, run
from tests.gateway.harness import Client, batch

pytestmark = pytest.mark.slow


class Session:
    """A client's side of an incremental fetch session."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.id = 0
        self.epoch = 0

    async def fetch(self, *wanted: tuple[str, int, int], **options: Any) -> Message:
        answer = await self._client.fetch(*wanted, session_id=self.id, session_epoch=self.epoch, **options)
        if not answer.error_code:
            self.id, self.epoch = answer.session_id, self.epoch + 1
        return answer


def test_a_session_answers_only_what_is_new(tmp_path: Path) -> None:
    """The first answer names every partition; later ones only those with data or news."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        first = await session.fetch(("t", 0, 0), ("t", 1, 0), ("t", 2, 0))
        quiet = await session.fetch()
        await client.produce("t", batch(b"a"), partition=1)
        news = await session.fetch()
        read_on = await session.fetch(("t", 1, 1))
        await client.produce("t", batch(b"b"), partition=1)
        more = await session.fetch()

        assert session.id > 0
        assert set(partitions(first)) == {0, 1, 2}
        assert partitions(quiet) == {}
        assert found(news) == {1: [(0, b"a")]}
        assert partitions(read_on) == {}
        assert found(more) == {1: [(1, b"b")]}

    run(tmp_path, scenario)


def test_a_session_returns_data_again_until_the_client_moves_on(tmp_path: Path) -> None:
    """The server never guesses that a client has read its answers."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        await client.produce("t", batch(b"a"))
        answers = [found(await session.fetch(("t", 0, 0))), found(await session.fetch()), found(await session.fetch())]

        assert answers == [{0: [(0, b"a")]}] * 3

    run(tmp_path, scenario)


def test_a_session_repeats_errors(tmp_path: Path) -> None:
    """A partition with an error is in every answer, until the client changes it."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        codes = [
            partitions(await session.fetch(("t", 0, 9), ("t", 1, 0)))[0].error_code,
            partitions(await session.fetch())[0].error_code,
        ]
        mended = await session.fetch(("t", 0, 0))

        assert codes == [1, 1]
        assert partitions(mended)[0].error_code == 0

    run(tmp_path, scenario)


def test_a_session_forgets_partitions(tmp_path: Path) -> None:
    """A forgotten partition is not answered any more, and can come back."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        await session.fetch(("t", 0, 0), ("t", 1, 0))
        await client.produce("t", batch(b"a"), partition=0)
        without = await session.fetch(forget=[("t", 0)])
        back = await session.fetch(("t", 0, 0))

        assert found(without) == {}
        assert found(back) == {0: [(0, b"a")]}

    run(tmp_path, scenario)


def test_a_partition_that_moves_while_a_fetch_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slot was found in one container, and is in another one when it is looked at: the session hears of what is
    appended there."""
    monkeypatch.setattr(fetch, "LOOKS_AT_ONCE", 1)
    choose = fetch._Fetch._choose_of_many

    async def scenario(broker: Broker, client: Client) -> None:
        stream = broker.topics.get("t")
        assert stream is not None
        source = stream.slot(0).container_id
        (target,) = broker.store.containers.keys() - {source}

        async def move_before(self: fetch._Fetch, todo: Sequence[Target]) -> tuple[list[ColdRead], list[Target]]:
            await broker.store.move_slot(stream, 0, target)
            return await choose(self, todo)

        session = Session(client)
        with monkeypatch.context() as patch:
            patch.setattr(fetch._Fetch, "_choose_of_many", move_before)
            await session.fetch(("t", 0, 0), ("t", 1, 0))
        assert stream.slot(0).container_id == target
        await client.produce("t", batch(b"a"))
        assert found(await session.fetch()) == {0: [(0, b"a")]}

    run(tmp_path, scenario, "containers=2")


def test_session_errors(tmp_path: Path) -> None:
    """An unknown id is 70, a wrong epoch 71, ids mixed with names 106; epoch -1 ends a session."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        await session.fetch(("t", 0, 0))
        unknown = await client.fetch(session_id=session.id ^ 1, session_epoch=1)
        wrong = await client.fetch(session_id=session.id, session_epoch=7)
        mixed = await client.fetch(session_id=session.id, session_epoch=1, version=13)
        await client.fetch(("t", 0, 0), session_id=session.id, session_epoch=-1)
        ended = await client.fetch(session_id=session.id, session_epoch=1)

        assert [a.error_code for a in (unknown, wrong, mixed, ended)] == [70, 71, 106, 70]
        assert broker.topics.get("t").slot(0).watchers is None  # type: ignore[union-attr]

    run(tmp_path, scenario)


def test_sessions_are_bounded(tmp_path: Path) -> None:
    """Sessions in use stay; a consumer without room for a session gets everything with every fetch."""

    async def scenario(broker: Broker, client: Client) -> None:
        sessions = [Session(client) for _ in range(2)]
        for session in sessions:
            await session.fetch(("t", 0, 0))
        without = [await client.fetch(("t", 0, 0), session_epoch=0) for _ in range(3)]
        codes = [(await session.fetch()).error_code for session in sessions]

        assert [answer.session_id for answer in without] == [0, 0, 0]
        assert [set(partitions(answer)) for answer in without] == [{0}] * 3
        assert codes == [0, 0]
        assert len(broker.fetch_sessions) == 2

    run(tmp_path, scenario, "max.incremental.fetch.session.cache.slots=2")


def test_partitions_of_sessions_are_bounded(tmp_path: Path) -> None:
    """A session begins, and grows, only while there is room for its partitions."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        await session.fetch(("t", 0, 0), ("t", 1, 0))
        other = await client.fetch(("t", 0, 0), ("t", 1, 0), session_epoch=0)
        grown = await session.fetch(("t", 2, 0))
        kept = session.id
        too_large = await session.fetch(("t", 3, 0))
        after = await client.fetch(session_id=kept, session_epoch=3)
        again = await client.fetch(("t", 0, 0), ("t", 1, 0), ("t", 2, 0), session_epoch=0)

        assert (other.session_id, set(partitions(other))) == (0, {0, 1})
        assert grown.session_id == kept
        assert (too_large.session_id, set(partitions(too_large))) == (0, {3})
        assert after.error_code == 70
        assert again.session_id > 0
        assert broker.topics.get("t").slot(3).watchers is None  # type: ignore[union-attr]

    run(tmp_path, scenario, "fetch.session.partitions.max=3")


def test_an_idle_session_makes_room() -> None:
    """After two minutes without a fetch, the one that was idle longest."""
    clock = ManualClock()
    sessions = FetchSessions(2, 10, clock)
    first, second = sessions.create(False), sessions.create(False)
    assert first is not None
    assert second is not None
    clock.advance(100)
    sessions.take(first.id, 1, False)
    clock.advance(EVICTABLE_AFTER_S - 100)

    assert sessions.create(False) is not None
    assert sessions.create(False) is None
    assert (first.ended, second.ended) == (False, True)


def test_a_fetch_outlives_its_session(tmp_path: Path) -> None:
    """A session that ends while a fetch of it reads from disk leaves nothing behind."""

    async def scenario(broker: Broker, client: Client) -> None:
        for n in range(200):
            await client.produce("t", batch(b"%d-" % n + b"x" * 10_000))
        session = Session(client)
        await session.fetch(("t", 0, 200))
        served = broker.fetch_sessions.take
        ended: list[int] = []

        def end_soon(session_id: int, *how: Any) -> FetchSession:
            asyncio.get_running_loop().call_soon(broker.fetch_sessions.remove, session_id)
            ended.append(session_id)
            return served(session_id, *how)

        broker.fetch_sessions.take = end_soon  # type: ignore[method-assign]
        answer = await session.fetch(("t", 0, 0), max_wait=100, min_bytes=40_000_000, partition_max_bytes=1)

        assert ended == [session.id]
        assert len(found(answer)[0]) == 1
        assert broker.topics.get("t").slot(0).watchers is None  # type: ignore[union-attr]

    run(tmp_path, scenario, "log.cache.bytes=1048576", "log.file.bytes=1048576")


def test_a_session_turns_fairly(tmp_path: Path) -> None:
    """With room for one batch an answer, every partition that has data gets its turn."""

    async def scenario(broker: Broker, client: Client) -> None:
        session = Session(client)
        for index in range(4):
            for _ in range(3):
                await client.produce("t", batch(b"x" * 1000), partition=index)
        seen = []
        answer = await session.fetch(*(("t", index, 0) for index in range(4)), max_bytes=1)
        for _ in range(8):
            ((index, records),) = found(answer).items()
            seen.append(index)
            answer = await session.fetch(("t", index, records[-1][0] + 1), max_bytes=1)

        assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]

    run(tmp_path, scenario)


def test_a_session_waits_and_wakes(tmp_path: Path) -> None:
    """An incremental fetch waits like any other, for any partition of its session."""

    async def scenario(broker: Broker, client: Client) -> None:
        session, other = Session(client), await Client.connect(broker)
        await session.fetch(*(("t", index, 0) for index in range(4)))
        waiting = asyncio.ensure_future(session.fetch(max_wait=15_000))
        await other.produce("t", batch(b"a"), partition=3)

        assert found(await waiting) == {3: [(0, b"a")]}
        other.close()

    run(tmp_path, scenario)
