"""The files of a checkpoint on their way to this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.log.objects.manifest import StateFile
from core.log.objects.state_files import download
from tests.core.support import run
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import ObjectNotFound


class Slow(FilesystemStorage):
    """Answers when the test says so; that an object is missing it says at once."""

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        if key != "missing":
            await asyncio.sleep(0.1)
        return await super().get_range(key, start, length)


def test_nothing_of_a_download_goes_on_behind_its_end(tmp_path: Path) -> None:
    """An owner has removed one of the files: the taker begins anew, with files of the same names."""

    async def scenario() -> None:
        storage = await Slow.open(FilesystemSettings(directory=tmp_path / "bucket"))
        await storage.put("old", b"old")
        others = asyncio.all_tasks()
        with pytest.raises(ObjectNotFound):
            await download(storage, [StateFile("a", "missing", 3, 0), StateFile("b", "old", 3, 0)], tmp_path / "own")
        assert asyncio.all_tasks() == others
        await storage.close()

    run(scenario())
