"""Records that nobody waits for: they cost no write of their own where another one comes soon."""

from __future__ import annotations

import asyncio
from pathlib import Path

from core.applied.tables import Put
from tests.core.support import DEADLINE_S, container_of, open_store, run

LATER, NOW = Put("t", b"later", b"1"), Put("t", b"now", b"2")


def test_it_goes_with_the_next_one(tmp_path: Path) -> None:
    """One write of the log has both, in the order in which they came."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        container = container_of(store)
        before = container.log.stats.syncs
        later = container.submit([LATER], later=True)
        now = container.submit([NOW])
        await now
        assert later.done()
        assert container.log.stats.syncs == before + 1
        assert list(container.table("t").items()) == [(b"later", b"1"), (b"now", b"2")]
        await store.close()

    run(scenario())


def test_it_goes_by_itself(tmp_path: Path) -> None:
    """Also when nothing follows, and when somebody waits for all that is queued after all."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        container = container_of(store)
        async with asyncio.timeout(DEADLINE_S):
            await container.submit([LATER], later=True)
            container.submit([NOW], later=True)
            await container.all_durable()
        assert container.table("t").get(b"now") == b"2"
        await store.close()

    run(scenario())


def test_a_stop_takes_it_along(tmp_path: Path) -> None:
    """Nothing that was queued is left behind."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        container_of(store).submit([LATER], later=True)
        await store.close()
        again = await open_store(tmp_path)
        assert container_of(again).table("t").get(b"later") == b"1"
        await again.close()

    run(scenario())
