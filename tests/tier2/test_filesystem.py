"""The file system driver's own promises besides the contract: durability, leftovers, two processes, errors."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from tier2 import filesystem
from tier2.filesystem import INCOMING, FilesystemSettings, FilesystemStorage
from tier2.giving_back import STEP_BYTES
from tier2.storage import Buffer, Misconfigured, ObjectNotFound, TimedOut


def run(directory: Path, scenario: Callable[[FilesystemStorage], Coroutine[Any, Any, None]], **settings: float) -> None:
    async def main() -> None:
        storage = await FilesystemStorage.open(FilesystemSettings(directory=directory, **settings))  # type: ignore[arg-type]
        try:
            await scenario(storage)
        finally:
            await storage.close()

    asyncio.run(main())


def test_sweeps_what_a_crash_left(tmp_path: Path) -> None:
    """A file of a writer that died is removed at the next open; one of a living writer stays."""
    incoming = tmp_path / INCOMING
    incoming.mkdir()
    (incoming / "dead").write_bytes(b"half")
    alive = os.open(incoming / "alive", os.O_CREAT | os.O_WRONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)

    async def scenario(storage: FilesystemStorage) -> None:
        assert sorted(path.name for path in incoming.iterdir()) == ["alive"]
        assert [info async for info in storage.list("")] == []

    run(tmp_path, scenario)
    os.close(alive)


@pytest.mark.parametrize("sweep", ["looks", "removes"])
def test_a_sweep_that_meets_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: str) -> None:
    """Another process's sweep has a file locked, or has removed it, before its writer locks it: the put goes on with
    another one, and leaves nothing behind."""
    open_direct = filesystem.open_direct
    met: list[int] = []

    def opened(path: Path, flags: int) -> int:
        fd = open_direct(path, flags)
        if not met:
            met.append(os.open(path, os.O_RDONLY))
            fcntl.flock(met[0], fcntl.LOCK_EX)
            if sweep == "removes":
                path.unlink()
                fcntl.flock(met[0], fcntl.LOCK_UN)
        return fd

    async def scenario(storage: FilesystemStorage) -> None:
        monkeypatch.setattr(filesystem, "open_direct", opened)
        await storage.put("a", b"value")
        assert await storage.get_range("a", 0, 5) == b"value"
        assert list((tmp_path / INCOMING).iterdir()) == []

    run(tmp_path, scenario)
    os.close(met[0])


def test_a_sweep_of_old_files_locks_no_young_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep of a process that runs comes in the way of no put of its own."""
    locked: list[int] = []
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: locked.append(how))

    async def scenario(storage: FilesystemStorage) -> None:
        (tmp_path / INCOMING / "young").write_bytes(b"half")
        assert await storage.sweep_uploads(60) == 0
        assert (tmp_path / INCOMING / "young").exists()

    run(tmp_path, scenario)
    assert locked == []


def test_syncs_file_then_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a put returns: the file is synced, then renamed, and each directory on the way to it is synced."""
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        events.append("sync " + os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))
        fsync(fd)

    def noted_rename(source: Path, target: Path) -> None:
        events.append("rename to " + os.path.relpath(target, tmp_path))
        rename(source, target)

    async def scenario(storage: FilesystemStorage) -> None:
        monkeypatch.setattr(filesystem.os, "fsync", noted_fsync)
        monkeypatch.setattr(filesystem.os, "rename", noted_rename)
        await storage.put("a/b/c", b"x")
        assert events[0].startswith("sync .incoming/")
        assert events[1:] == ["sync .", "sync a", "rename to a/b/c", "sync a/b"]
        events.clear()
        await storage.delete("a/b/c")
        assert events == ["sync a/b"]

    run(tmp_path, scenario)


def test_deadline_leaves_reads_alone(tmp_path: Path) -> None:
    """A put that hangs ends at its deadline for the caller, and reads go on meanwhile."""
    release, write_end = os.pipe()

    class Hanging:
        def open(self) -> Iterator[Buffer]:
            yield b"begun"
            os.read(release, 1)
            yield b"never"

    async def scenario(storage: FilesystemStorage) -> None:
        await storage.put("there", b"x")
        puts = [asyncio.create_task(storage.put(f"hangs-{n}", Hanging())) for n in range(6)]
        await asyncio.sleep(0)
        assert await storage.get_range("there", 0, 1) == b"x"
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert [type(result) for result in results] == [TimedOut] * 6
        os.write(write_end, b"xx")

    run(tmp_path, scenario, write_timeout_s=0.5)
    assert not (tmp_path / "hangs-0").exists()


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A path that is a file is refused at open, by name."""
    (tmp_path / "file").write_bytes(b"")

    async def scenario(storage: FilesystemStorage) -> None:
        raise AssertionError("opened")

    with pytest.raises(Misconfigured, match="file"):
        run(tmp_path / "file", scenario)


def test_two_stores_on_one_directory(tmp_path: Path) -> None:
    """A token is known to the store that put the object, and worth nothing once another one replaced it."""

    async def scenario(first: FilesystemStorage) -> None:
        second = await FilesystemStorage.open(FilesystemSettings(directory=tmp_path))
        await first.put("k", b"1", token="one")
        found = await first.stat("k")
        assert found is not None
        assert found.token == "one"
        await second.put("k", b"2", token="two")
        found = await first.stat("k")
        assert found is not None
        assert found.token == ""
        await second.close()

    run(tmp_path, scenario)


def test_deleted_objects_are_given_back_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a large object goes first and for good; then no sync lets go of more than 4 MiB."""
    synced: list[tuple[bool, int]] = []
    fsync = os.fsync
    path = tmp_path / "a" / "large"

    def noted_fsync(fd: int) -> None:
        status = os.fstat(fd)
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(path)):
            synced.append((path.exists(), status.st_size))
        fsync(fd)

    async def scenario(storage: FilesystemStorage) -> None:
        await storage.put("a/large", bytes(2 * STEP_BYTES + 5))
        monkeypatch.setattr(filesystem.os, "fsync", noted_fsync)
        await storage.delete("a/large")
        assert synced == [(False, 2 * STEP_BYTES), (False, STEP_BYTES), (False, 0)]
        assert await storage.stat("a/large") is None

    run(tmp_path, scenario)


def test_bytes_that_another_link_names_stay(tmp_path: Path) -> None:
    """An object that an operator's backup has linked is deleted here, and whole there."""
    content = os.urandom(2 * STEP_BYTES + 5)

    async def scenario(storage: FilesystemStorage) -> None:
        await storage.put("a/large", content)
        os.link(tmp_path / "a" / "large", tmp_path / "backup")
        await storage.delete("a/large")

    run(tmp_path, scenario)
    assert (tmp_path / "backup").read_bytes() == content


@pytest.mark.parametrize("moment", ["fstat", "pread"])
def test_reading_what_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A reader that has the object open while it is given back finds it deleted, never damaged."""
    real = getattr(os, moment)

    def deletes_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        filesystem._delete(tmp_path / "large")
        return real(*arguments)

    async def scenario(storage: FilesystemStorage) -> None:
        await storage.put("large", bytes(3 * STEP_BYTES))
        monkeypatch.setattr(filesystem.os, moment, deletes_first)
        with pytest.raises(ObjectNotFound):
            await storage.get_range("large", STEP_BYTES, 2 * STEP_BYTES)

    run(tmp_path, scenario)
