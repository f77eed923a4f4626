"""A container that is looked at from outside, while its owner goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.log.objects.home import LogObjects, LogStorage
from core.log.objects.looking import copied
from tests.core.support import run
from tier2.filesystem import FilesystemSettings, FilesystemStorage


class Meanwhile(FilesystemStorage):
    """Something happens before the first read of a checkpoint's file."""

    then: Callable[[], Awaitable[None]] | None = None

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        if self.then is not None and "/files/" in key:
            then, self.then = self.then, None
            await then()
        return await super().get_range(key, start, length)


@pytest.mark.slow
def test_a_copy_has_the_files_of_one_checkpoint(tmp_path: Path) -> None:
    """The owner stores another one while the first is read, and removes its files."""
    count = 0

    async def snapshot(directory: Path) -> None:
        nonlocal count
        count += 1
        (directory / f"state-{count}").write_text("it")

    async def scenario() -> None:
        storage = await Meanwhile.open(FilesystemSettings(directory=tmp_path / "bucket"))
        own, copy = tmp_path / "own", tmp_path / "copy"
        for directory in (own, copy):
            (directory / "log").mkdir(parents=True)
        owner = await LogObjects.take(LogStorage(storage=storage, puts=storage), 0, own, own / "log")
        await owner.checkpoint(1, 7, snapshot, is_due=True)
        storage.then = lambda: owner.checkpoint(1, 8, snapshot, is_due=True)
        await copied(storage, 0, copy, copy / "log")
        assert sorted(path.name for path in copy.iterdir()) == ["log", "state-2"]
        await storage.close()

    run(scenario())
