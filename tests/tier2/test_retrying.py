"""The retrying store's reaction to each kind of failure, above the file system's store, with faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.retrying import RetryingStorage, RetryPolicy
from tier2.storage import (
    AlreadyExists,
    Buffer,
    Data,
    NoRoom,
    ObjectInfo,
    ObjectNotFound,
    ObjectStat,
    TimedOut,
    Unavailable,
)

QUICK = RetryPolicy(attempts_max=4, first_backoff_s=0.001, backoff_max_s=0.004, deadline_s=5)


class Faulty(FilesystemStorage):
    """Fails as often as told: before it acts (`refuse`), or after (`forget`)."""

    refuse = 0
    forget = 0
    calls = 0
    list_breaks_at = ""

    def _before(self) -> None:
        self.calls += 1
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("refused")

    def _after(self) -> None:
        if self.forget:
            self.forget -= 1
            raise TimedOut("no answer")

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        self._before()
        stat = await super().put(key, data, token=token)
        self._after()
        return stat

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        self._before()
        stat = await super().put_new(key, data, token=token)
        self._after()
        return stat

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self._before()
        return await super().get_range(key, start, length)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self._before()
        async for info in super().list(prefix, after=after):
            if info.key == self.list_breaks_at:
                self.list_breaks_at = ""
                raise Unavailable("cut")
            yield info


def run(
    directory: Path,
    scenario: Callable[[Faulty, RetryingStorage], Coroutine[Any, Any, None]],
    policy: RetryPolicy = QUICK,
) -> None:
    async def main() -> None:
        faulty = await Faulty.open(FilesystemSettings(directory=directory))
        store = RetryingStorage(faulty, policy, random.Random(1))
        try:
            await scenario(faulty, store)
        finally:
            await store.close()

    asyncio.run(main())


def test_tries_again(tmp_path: Path) -> None:
    """A request that fails three times of four still succeeds."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        await store.put("k", b"x")
        faulty.refuse = 3
        assert await store.get_range("k", 0, 1) == b"x"
        assert (store.counters.retries, store.counters.failures) == (3, 0)

    run(tmp_path, scenario)


def test_gives_up(tmp_path: Path) -> None:
    """After the last try the last error is raised, and nothing is tried beyond."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        faulty.refuse = 100
        with pytest.raises(Unavailable, match="refused"):
            await store.put("k", b"x")
        assert faulty.calls == 4
        assert store.counters.failures == 1

    run(tmp_path, scenario)


def test_only_retries_what_may_be_retried(tmp_path: Path) -> None:
    """A missing object is reported at once."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        with pytest.raises(ObjectNotFound):
            await store.get_range("missing", 0, 1)
        assert faulty.calls == 1

    run(tmp_path, scenario)


def test_deadline_over_all_tries(tmp_path: Path) -> None:
    """However many tries are left, the call ends at its deadline and says what failed last."""
    policy = RetryPolicy(attempts_max=10**6, first_backoff_s=0.01, backoff_max_s=0.01, deadline_s=0.3)

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        faulty.refuse = 10**6
        with pytest.raises(TimedOut, match="refused"):
            await store.get_range("k", 0, 1)

    run(tmp_path, scenario, policy)


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_put_whose_answer_was_lost(tmp_path: Path, refused: int) -> None:
    """A put that happened is not sent again, a put_new that happened does not fail on its own object."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        for put in (store.put, store.put_new):
            faulty.refuse, faulty.forget = refused, 1
            stat = await put(put.__name__, b"xyz")
            assert stat.size == 3
        assert store.counters.settled == 2

    run(tmp_path, scenario)


def test_put_new_that_came_second(tmp_path: Path) -> None:
    """A key that another one took while we failed is reported as taken."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        await faulty.put("k", b"theirs", token="theirs")
        faulty.refuse = 1
        with pytest.raises(AlreadyExists):
            await store.put_new("k", b"mine")

    run(tmp_path, scenario)


def test_list_goes_on_where_it_broke(tmp_path: Path) -> None:
    """A listing that breaks off yields every key once."""

    async def scenario(faulty: Faulty, store: RetryingStorage) -> None:
        names = [f"k{number}" for number in range(10)]
        for name in names:
            await faulty.put(name, b"")
        faulty.list_breaks_at = "k4"
        faulty.refuse = 2
        assert [info.key async for info in store.list("k")] == names

    run(tmp_path, scenario)


def test_no_room_is_not_asked_again(tmp_path: Path) -> None:
    """A put that finds no room is not sent again: room comes from deletions, and those who put wait for them."""

    class Full(Faulty):
        async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
            self.calls += 1
            raise NoRoom("the disk is full")

    async def scenario() -> int:
        below = Full(FilesystemSettings(directory=tmp_path))
        storage = RetryingStorage(below, QUICK, random.Random(1))
        with pytest.raises(NoRoom):
            await storage.put("k", b"x")
        await storage.close()
        return below.calls

    assert asyncio.run(scenario()) == 1
