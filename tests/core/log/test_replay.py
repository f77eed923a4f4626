"""Reading the log back: the whole frames before the first that is torn, or a refusal that names what is damaged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import CorruptLog, CorruptState, StorageFailure
from core.log.format import (
    FILE_HEADER_SIZE,
    KIND_UPDATE,
    FileHeader,
    encode_file_header,
    encode_frame,
)
from core.log.replay import cut_tail, open_log_files, scan
from core.store import Store
from tests.core.support import (
    KIB,
    append,
    container_of,
    crash_copy,
    fast_directory,
    maintenance_of,
    make,
    open_store,
    read_all,
    roll,
    run,
)

pytestmark = pytest.mark.slow

FILE_ID = 0xFEED_BEEF


def frames(first_lsn: int, synced: list[int], file_id: int = FILE_ID) -> list[bytes]:
    """A frame for each claim of what was synced when it was written."""
    return [
        encode_frame(first_lsn + i, claim, file_id, KIND_UPDATE, b"body %d" % i * (i % 3 + 1))
        for i, claim in enumerate(synced)
    ]


def write_log(directory: Path, parts: list[bytes], first_lsn: int = 1, room: bytes = b"") -> Path:
    header = FileHeader(container=0, first_lsn=first_lsn, file_id=FILE_ID, epoch=0, created_ms=0)
    path = directory / f"{first_lsn:020d}.log"
    path.write_bytes(encode_file_header(header) + b"".join(parts) + room)
    return path


def scanned(directory: Path) -> list[int]:
    """The LSNs of the newest file."""
    file = open_log_files(directory)[-1]
    return [frame.lsn for frame in scan(file, newest=True)]


@given(st.integers(0, 8), st.binary(max_size=64))
@settings(max_examples=8)
def test_cut_at_every_byte(count: int, room: bytes) -> None:
    """Wherever the last frames are cut, and whatever lies behind, exactly the whole frames before are there."""
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        parts = frames(1, [0] * count)
        whole = b"".join(parts)
        for cut in range(len(whole) + 1):
            write_log(Path(name), [whole[:cut]], room=room)
            sizes = [sum(map(len, parts[: i + 1])) for i in range(count)]
            survivors = sum(size <= cut for size in sizes)
            # Bytes that happen to complete the frame again are no cut.
            completed = survivors < count and (whole[:cut] + room).startswith(b"".join(parts[: survivors + 1]))
            if not completed:
                assert list(range(1, survivors + 1)) == scanned(Path(name))


def test_damage_below_what_was_synced(tmp_path: Path) -> None:
    """A byte changed in a frame that a later one says was synced stops the start, and changes nothing on disk."""
    parts = frames(10, [9, 9, 11, 12, 13])
    path = write_log(tmp_path, parts, 10, bytes(200))
    whole = bytearray(path.read_bytes())
    position = FILE_HEADER_SIZE
    for index, part in enumerate(parts[:-1]):
        for at in range(position, position + len(part)):
            damaged = bytearray(whole)
            damaged[at] ^= 0x04
            path.write_bytes(damaged)
            with pytest.raises(CorruptLog) as caught:
                scanned(tmp_path)
            assert (path, position) == (caught.value.path, caught.value.position)
            assert f"LSN {10 + index}" in caught.value.why
            assert damaged == path.read_bytes()
        position += len(part)


def test_damage_in_the_unsynced_tail(tmp_path: Path) -> None:
    """Pages of one unsynced group may be missing in any order: all frames from the first gap on are cut."""
    parts = frames(10, [9, 10, 10, 10, 10])
    path = write_log(tmp_path, parts, 10, bytes(100))
    whole = path.read_bytes()
    position = FILE_HEADER_SIZE + len(parts[0])
    for index, part in enumerate(parts[1:], 1):
        for at in range(position, position + len(part)):
            damaged = bytearray(whole)
            damaged[at] ^= 0x80
            path.write_bytes(damaged)
            assert list(range(10, 10 + index)) == scanned(tmp_path)
        position += len(part)


def test_zeroed_sector_below_a_claim(tmp_path: Path) -> None:
    """A frame whose length is gone is found to be damage all the same: later frames are looked for, not walked to."""
    parts = frames(10, [9, 9, 11, 12])
    path = write_log(tmp_path, parts, 10)
    data = bytearray(path.read_bytes())
    at = FILE_HEADER_SIZE + len(parts[0])
    data[at : at + len(parts[1]) + 8] = bytes(len(parts[1]) + 8)
    path.write_bytes(data)
    with pytest.raises(CorruptLog, match="LSN 11 is damaged"):
        scanned(tmp_path)


def test_length_from_hell(tmp_path: Path) -> None:
    """A length of four billion costs nothing: the frame ends beyond the file."""
    (frame,) = frames(1, [0])
    write_log(tmp_path, [b"\xff\xff\xff\xff" + frame[4:]])
    assert scanned(tmp_path) == []


def test_recycled_bytes(tmp_path: Path) -> None:
    """Frames of the file's former life are not read, though their LSNs follow."""
    stale = frames(1, [0] * 6, file_id=0x0BAD_CAFE)
    write_log(tmp_path, [*frames(1, [0, 0]), *stale[2:]])
    assert scanned(tmp_path) == [1, 2]


def test_missing_file_in_the_middle(tmp_path: Path) -> None:
    """A gap between two files is damage."""
    write_log(tmp_path, frames(1, [0, 0]), 1)
    write_log(tmp_path, frames(5, [4, 4]), 5)
    older, _ = open_log_files(tmp_path)
    with pytest.raises(CorruptLog, match="LSN 3 is damaged, the next file has 5"):
        list(scan(older, newest=False))


def test_file_by_a_wrong_name(tmp_path: Path) -> None:
    write_log(tmp_path, frames(1, [0])).rename(tmp_path / f"{2:020d}.log")
    with pytest.raises(CorruptLog, match="begins at LSN 1"):
        open_log_files(tmp_path)


def test_room_behind_a_complete_file(tmp_path: Path) -> None:
    """A complete file ends where the next begins, whatever its unused room holds."""
    write_log(tmp_path, frames(1, [0, 0, 0]), 1, b"\xaa" * 500)
    write_log(tmp_path, frames(4, [3]), 4)
    older, _ = open_log_files(tmp_path)
    assert [frame.lsn for frame in scan(older, newest=False)] == [1, 2, 3]


def test_cutting_again_changes_nothing(tmp_path: Path) -> None:
    path = write_log(tmp_path, frames(1, [0, 0]), 1, bytes(300))
    (file,) = open_log_files(tmp_path)
    list(scan(file, newest=True))
    assert cut_tail(file) == 300
    kept = path.read_bytes()
    assert (0, kept) == (cut_tail(file), path.read_bytes())


# Whole stores


async def store_with_files(directory: Path, rolls: int) -> tuple[Store, list[bytes]]:
    store = await open_store(directory)
    slot = (await make(store)).slot(0)
    entries: list[bytes] = []
    for _ in range(rolls):
        entries += await roll(store, slot)
    return store, entries


def logs(directory: Path) -> list[Path]:
    return sorted((directory / "container-0" / "log").glob("*.log"))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted((directory / "container-0" / "log").glob("*"))}


@pytest.mark.parametrize("which", [0, 1])
def test_start_with_a_file_missing(tmp_path: Path, which: int) -> None:
    """A file that is missing at the beginning or in the middle stops the start."""

    async def scenario() -> None:
        store, _ = await store_with_files(tmp_path / "a", 3)
        copy = await crash_copy(store, tmp_path / "b")
        await store.close(clean=False)
        logs(copy)[which].unlink()
        with pytest.raises(CorruptLog):
            await open_store(copy)

    run(scenario())


@pytest.mark.parametrize("keep", [0, 1])
def test_start_with_the_end_of_the_log_missing(tmp_path: Path, keep: int) -> None:
    """RocksDB is there, the log that it reflects is not: the start is refused instead of going back in time."""

    async def scenario() -> None:
        store, _ = await store_with_files(tmp_path / "a", 2)
        await maintenance_of(store).checkpoint()
        copy = await crash_copy(store, tmp_path / "b")
        await store.close()
        for path in logs(copy)[keep:]:
            path.unlink()
        with pytest.raises((CorruptState, CorruptLog)):
            await open_store(copy)

    run(scenario())


def test_refused_start_leaves_the_log_alone(tmp_path: Path) -> None:
    """A start that finds damage names the file and the position, and leaves every byte of the log as it was."""

    async def scenario() -> None:
        store, _ = await store_with_files(tmp_path / "a", 2)
        slot = store.streams.get("s").slot(0)  # type: ignore[union-attr]
        position = container_of(store).log.position
        for _ in range(3):
            await append(slot, b"x" * 100)
        copy = await crash_copy(store, tmp_path / "b")
        await store.close(clean=False)
        newest = logs(copy)[-1]
        data = bytearray(newest.read_bytes())
        data[position + 60] ^= 1
        newest.write_bytes(data)
        before = contents(copy)
        with pytest.raises(CorruptLog) as caught:
            await open_store(copy)
        assert (newest, position) == (caught.value.path, caught.value.position)
        assert before == contents(copy)

    run(scenario())


def test_damage_in_a_file_that_was_closed(tmp_path: Path) -> None:
    """A sidecar proves that its file was complete: a stop whose last checkpoint failed does not lose the end."""

    async def scenario() -> None:
        store, _ = await store_with_files(tmp_path / "a", 1)
        copy_before = await crash_copy(store, tmp_path / "b")
        await store.close()
        # The state of RocksDB as before, the log as after the stop.
        shutil.rmtree(copy_before / "container-0" / "log")
        shutil.copytree(tmp_path / "a" / "container-0" / "log", copy_before / "container-0" / "log")
        newest = logs(copy_before)[-1]
        data = bytearray(newest.read_bytes())
        data[-3] ^= 1
        newest.write_bytes(data)
        with pytest.raises(CorruptLog):
            await open_store(copy_before)

    run(scenario())


@pytest.mark.parametrize("renamed", [False, True])
def test_torn_roll(tmp_path: Path, renamed: bool) -> None:
    """A file that was being begun, with its name or without, holds nothing and hinders nothing."""

    async def scenario() -> None:
        store, entries = await store_with_files(tmp_path / "a", 1)
        copy = await crash_copy(store, tmp_path / "b")
        lsn = container_of(store).log.next_lsn
        await store.close(clean=False)
        header = FileHeader(container=0, first_lsn=lsn, file_id=77, epoch=9, created_ms=0)
        name = f"{lsn:020d}.log" if renamed else "0123456789abcdef.prepared"
        newest = logs(copy)[-1]
        (newest.parent / name).write_bytes(encode_file_header(header) + bytes(64 * KIB))

        for _ in range(2):  # the second start is as good as the first
            again = await open_store(copy)
            assert entries == await read_all(again, again.streams.get("s").slot(0))  # type: ignore[union-attr]
            assert container_of(again).epoch > (9 if renamed else 0)
            await again.close(clean=False)

    run(scenario())


def test_empty_newest_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All older files are truncated, the newest one holds nothing yet: two starts that are cut short do no harm."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "a")
        await store.update()
        copy = tmp_path / "b"
        await store.close()
        shutil.copytree(tmp_path / "a", copy)
        (only,) = logs(copy)
        lsn = lsn_after(only)
        header = FileHeader(container=0, first_lsn=lsn, file_id=77, epoch=0, created_ms=0)
        for path in only.parent.glob("*"):
            path.unlink()
        (only.parent / f"{lsn:020d}.log").write_bytes(encode_file_header(header) + bytes(64 * KIB))

        def no_room(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as full:
            full.setattr("core.log.spares.allocate_spare", no_room)
            with pytest.raises(StorageFailure, match="No space"):
                await open_store(copy)
        again = await open_store(copy)
        await again.close()

    run(scenario())


def lsn_after(path: Path) -> int:
    """The LSN after the last frame of a log file."""
    (file,) = open_log_files(path.parent)
    list(scan(file, newest=True))
    return file.end_lsn


def test_stale_sidecar(tmp_path: Path) -> None:
    """Sidecars whose log file is gone are swept at the start."""

    async def scenario() -> None:
        store, entries = await store_with_files(tmp_path, 1)
        await store.close()
        orphan = logs(tmp_path)[0].parent / f"{0:020d}.idx"
        orphan.write_bytes(b"left over")
        store = await open_store(tmp_path)
        assert not orphan.exists()
        assert entries == await read_all(store, store.streams.get("s").slot(0))  # type: ignore[union-attr]
        await store.close()

    run(scenario())
