"""The next log files: their size follows the load, within what the disk has."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.errors import StorageFailure
from core.log.files import BALLAST_NAME, SpareFile, allocate_spare
from core.log.spares import Spares
from tests.core.support import DEADLINE_S, KIB, run, until

SMALL, LARGE = 256 * KIB, 2048 * KIB


class Filler:
    """Lets a file be filled, or holds that up in the middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        monkeypatch.setattr("core.log.files.time.sleep", lambda _: self.goes_on.wait(DEADLINE_S))


class Taker:
    """The log: takes one file after the other, and is done with it at once."""

    def __init__(self, spares: Spares, filler: Filler) -> None:
        self.spares = spares
        self.filler = filler

    async def in_time(self) -> int:
        """Take the next file once it is filled; returns its bytes. The one behind it is not filled meanwhile."""
        await until(lambda: self._next is not None and self._next.is_filled)
        return self._take()

    async def in_a_hurry(self) -> int:
        """Take the next file before it is filled."""
        await until(lambda: self._next is not None)
        assert self._next is not None
        assert not self._next.is_filled
        return self._take()

    @property
    def _next(self) -> SpareFile | None:
        return self.spares._spare

    def _take(self) -> int:
        self.filler.goes_on.clear()
        spare = self.spares.take()
        spare.take()
        os.close(spare.fd)
        spare.path.unlink()
        return spare.allocated


def scenario(directory: Path, filler: Filler, steps: Callable[[Taker], Awaitable[None]]) -> None:
    async def main() -> None:
        failures: list[StorageFailure] = []
        spares = Spares(directory, SMALL, LARGE, "spares", failures.append, fills=True)
        await spares.start()
        await steps(Taker(spares, filler))
        filler.goes_on.set()
        await spares.close()
        assert not failures

    run(main())


def test_a_log_that_is_filled_in_time_keeps_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet container takes little of the disk, however long it serves."""
    filler = Filler(monkeypatch)

    async def steps(log: Taker) -> None:
        for _ in range(5):
            filler.goes_on.set()
            assert await log.in_time() == SMALL

    scenario(tmp_path, filler, steps)


def test_a_log_in_a_hurry_gets_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a file was needed before it was filled, all further ones are large: also those of quiet times after it."""
    filler = Filler(monkeypatch)

    async def steps(log: Taker) -> None:
        assert await log.in_time() == SMALL
        assert await log.in_a_hurry() == SMALL
        for _ in range(2):
            filler.goes_on.set()
            assert await log.in_time() == LARGE

    scenario(tmp_path, filler, steps)


def test_a_disk_without_room_for_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a small one does, and nothing is refused. Large ones come when there is room again."""
    filler, has_room = Filler(monkeypatch), threading.Event()

    def allocate(directory: Path, size: int) -> SpareFile:
        if size > SMALL and not has_room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return allocate_spare(directory, size)

    monkeypatch.setattr("core.log.spares.allocate_spare", allocate)

    async def steps(log: Taker) -> None:
        assert await log.in_time() == SMALL
        assert await log.in_a_hurry() == SMALL
        filler.goes_on.set()
        await until(lambda: log.spares.room == SMALL)
        assert not log.spares.is_full
        has_room.set()
        assert await log.in_time() == SMALL
        filler.goes_on.set()
        assert await log.in_time() == LARGE

    scenario(tmp_path, filler, steps)


def test_a_ballast_that_cannot_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is told, and the next file comes when there is room, also where the ballast cannot be removed."""
    filler, has_room = Filler(monkeypatch), threading.Event()
    has_room.set()

    def allocate(directory: Path, size: int) -> SpareFile:
        if not has_room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return allocate_spare(directory, size)

    monkeypatch.setattr("core.log.spares.allocate_spare", allocate)
    monkeypatch.setattr("core.log.spares.RETRY_S", 0.01)

    async def steps(log: Taker) -> None:
        (tmp_path / BALLAST_NAME).unlink()
        (tmp_path / BALLAST_NAME).mkdir()
        has_room.clear()
        filler.goes_on.set()
        await log.in_time()
        await until(lambda: log.spares.is_full)
        has_room.set()
        await until(lambda: log.spares.room == SMALL)
        assert not log.spares.is_full

    scenario(tmp_path, filler, steps)
