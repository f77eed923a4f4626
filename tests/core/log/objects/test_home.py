"""The checkpoints of an owner, on a store that answers late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.log.objects.home import LogObjects, LogStorage
from core.log.objects.manifest import manifests_prefix, newest_manifest
from core.log.objects.state_files import download
from tests.core.support import run
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Data, ObjectStat, Unavailable


class Late(FilesystemStorage):
    """Gives no answer to the first put of a manifest, which comes when the test says so."""

    late: Callable[[], Awaitable[ObjectStat]] | None = None

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if key.startswith(manifests_prefix(0)) and self.late is None:
            put = super().put
            self.late = lambda: put(key, data, token=token)
            raise Unavailable("no answer in time")
        return await super().put(key, data, token=token)


def test_a_manifest_that_comes_late_names_files_that_are_there(tmp_path: Path) -> None:
    """The same state is checkpointed twice, as RocksDB writes it: each time with other bytes in its mutable files."""
    count = 0

    async def snapshot(directory: Path) -> None:
        nonlocal count
        count += 1
        (directory / "CURRENT").write_text(f"{count}")

    async def scenario() -> None:
        storage = await Late.open(FilesystemSettings(directory=tmp_path / "bucket"))
        directory = tmp_path / "container-0"
        (directory / "log").mkdir(parents=True)
        owner = await LogObjects.take(LogStorage(storage=storage, puts=storage), 0, directory, directory / "log")
        with pytest.raises(Unavailable):
            await owner.checkpoint(1, 7, snapshot, is_due=True)
        await owner.checkpoint(1, 7, snapshot, is_due=True)
        assert storage.late is not None
        await storage.late()
        manifest = await newest_manifest(storage, 0)
        assert manifest is not None
        await download(storage, manifest.files, tmp_path / "taker")
        await owner.checkpoint(1, 8, snapshot, is_due=True)
        await storage.late()
        manifest = await newest_manifest(storage, 0)
        assert manifest is not None
        assert manifest.lsn == 8
        await download(storage, manifest.files, tmp_path / "taker")
        await storage.close()

    run(scenario())
