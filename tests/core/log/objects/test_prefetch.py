"""What is read ahead of a takeover: a cache of the store, and nothing that decides."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.log.objects import prefetch, state_files
from core.log.objects.format import HEADER_SIZE, Stretch, log_key
from core.log.objects.looking import _walked
from core.log.objects.manifest import newest_manifest
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import GENESIS, Place
from core.log.objects.rebuild import rebuild
from core.log.objects.state_files import download
from tests.core.log.objects.test_store import store_on, text
from tests.core.support import append, make, run
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import ObjectNotFound, Storage, Unavailable


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


def bytes_below(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.parametrize("piece_bytes", [8 << 20, 100], ids=["small files", "files in pieces"])
def test_what_is_damaged_here_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    """A disk that gives other bytes back than it took: headers, groups and files of the checkpoint are those of the
    store all the same, which nobody has to restore."""
    monkeypatch.setattr(prefetch, "HEADERS_MAX", 0)  # they are read from the disk as well
    monkeypatch.setattr(state_files, "PIECE_BYTES", piece_bytes)

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage) as store:
            slot = (await make(store)).slot(0)
            for number in range(4):
                await append(slot, text(number))
            await store.containers[0].maintenance.store_now()
            await append(slot, text(4))

        async def made(source: Storage, directory: Path) -> dict[str, bytes]:
            stretches: dict[Place, Stretch] = {}
            (directory / "logs").mkdir(parents=True)
            walked = await _walked(source, 0, stretches)
            manifest = await newest_manifest(source, 0)
            assert manifest is not None
            assert walked.groups
            await download(source, manifest.files, directory)
            await rebuild(source, 0, walked, stretches, directory / "logs")
            return bytes_below(directory)

        ahead = Prefetched(storage, 0, tmp_path / "scratch")
        await ahead.fetch()
        await asyncio.to_thread(ahead._scratch.write, b"?" * ahead._end, 0)
        assert await made(ahead, tmp_path / "ahead") == await made(storage, tmp_path / "plain")
        ahead.forget()
        await storage.close()

    run(scenario())


class GoesAway(FilesystemStorage):
    """Answers a first read, and no other; both have begun by then."""

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        if key == log_key(0, Place(1, 1)):
            return await super().get_range(key, start, length)
        await asyncio.sleep(0.1)
        raise Unavailable("the store is away")


def test_a_write_that_is_late_goes_to_no_other_file(tmp_path: Path) -> None:
    """The store goes away while what it has answered waits for a thread: what was read ahead is forgotten, and its
    file's number is another file's by the time the thread comes."""

    async def scenario() -> None:
        storage = await GoesAway.open(FilesystemSettings(directory=tmp_path / "bucket"))
        for lsn in (1, 2):
            await storage.put(log_key(0, Place(1, lsn)), b"x" * (HEADER_SIZE + 1))
        busy, threads = threading.Event(), ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(threads)
        threads.submit(busy.wait, 10)
        found = Prefetched(storage, 0, tmp_path / "scratch")
        with pytest.raises(Unavailable):
            await found.fetch()
        found.forget()
        others = [(tmp_path / f"other-{number}").open("wb") for number in range(5)]
        busy.set()
        await asyncio.to_thread(lambda: None)  # behind all that waited
        for other in others:
            other.close()
            assert await asyncio.to_thread(Path(other.name).read_bytes) == b""
        await storage.close()

    run(scenario())
