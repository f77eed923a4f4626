"""What is read ahead of a takeover: a cache of the store, and nothing that decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.log.objects.format import log_key
from core.log.objects.manifest import newest_manifest
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import GENESIS
from tests.core.log.objects.test_store import store_on, text
from tests.core.support import append, make, run
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import ObjectNotFound


class Counting(FilesystemStorage):
    """Counts the reads of each key."""

    reads: dict[str, int]

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self.reads[key] = self.reads.get(key, 0) + 1
        return await super().get_range(key, start, length)


def test_groups_and_files_are_read_once_and_all_else_is_asked_of_the_store(tmp_path: Path) -> None:
    """Bytes that are kept are those of the store; fences, and what was not there, are read anew each time."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage) as store:
            slot = (await make(store)).slot(0)
            for number in range(4):
                await append(slot, text(number))
            await store.containers[0].maintenance.store_now()
            await append(slot, text(4))
        counting = await Counting.open(FilesystemSettings(directory=tmp_path / "bucket"))
        counting.reads = {}
        found = Prefetched(counting, 0, tmp_path / "scratch")
        assert list((tmp_path / "scratch").iterdir()) == [], "what is kept has no name"
        await found.fetch()
        await found.fetch()
        manifest = await newest_manifest(storage, 0)
        assert manifest is not None
        groups = [info async for info in storage.list("log/0/00000000000000000001/")]
        kept = [(file.key, file.size) for file in manifest.files if file.size]
        for key, size in [*kept, *((info.key, info.size) for info in groups)]:
            assert counting.reads.pop(key) == 1
            assert await found.get_range(key, 0, size) == await storage.get_range(key, 0, size)
            assert await found.get_range(key, 1, size - 1) == await storage.get_range(key, 1, size - 1)
            assert key not in counting.reads
        fence, missing = log_key(0, GENESIS), log_key(0, GENESIS).replace("0/", "9/")
        for reads in (1, 2):
            assert await found.get_range(fence, 0, 96) == await storage.get_range(fence, 0, 96)
            assert counting.reads[fence] == reads
            with pytest.raises(ObjectNotFound):
                await found.get_range(missing, 0, 96)
        found.forget()
        assert await found.get_range(kept[0][0], 0, kept[0][1]) == await storage.get_range(kept[0][0], 0, kept[0][1])
        await counting.close()
        await storage.close()

    run(scenario())
