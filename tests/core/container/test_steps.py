"""A step of several frames is in the log as a whole or not at all, wherever the log ends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.container.container import STEP_OPERATIONS_MAX
from core.errors import CorruptLog
from core.log.format import FILE_HEADER_SIZE, KIND_UPDATE, STEP_GOES_ON, BadFrame, decode_frame, encode_frame
from core.log.records import Put
from core.log.replay import cut_tail, open_log_files, scan
from core.store import Store
from tests.core.log.test_replay import FILE_ID, contents, logs, scanned, write_log
from tests.core.support import (
    KIB,
    append,
    append_in_transaction,
    container_of,
    crash_copy,
    end_of,
    fast_directory,
    maintenance_of,
    make,
    open_store,
    read_all,
    run,
    until,
)
from tests.core.transaction_script import aborted

pytestmark = pytest.mark.slow

SLOTS: Final = 3
PUTS: Final = [Put("t", b"%d" % n, b"x") for n in range(STEP_OPERATIONS_MAX + 1)]
"""Two records of a step."""


def frames(first_lsn: int, steps: list[int], synced: list[int]) -> list[bytes]:
    """Frames of steps with these numbers of frames; `synced`: the log position that each step reports as synced."""
    made: list[bytes] = []
    for count, claim in zip(steps, synced, strict=True):
        for left in range(count - 1, -1, -1):
            lsn = first_lsn + len(made)
            follows = STEP_GOES_ON if left else 0
            made.append(encode_frame(lsn, claim, FILE_ID, KIND_UPDATE, b"body %d" % lsn * (lsn % 3), follows))
    return made


@given(st.lists(st.integers(1, 4), max_size=4))
@settings(max_examples=10)
def test_cut_at_every_byte(steps: list[int]) -> None:
    """Wherever the log is cut, the steps before are there, and nothing of the one that was cut."""
    parts = frames(1, steps, [0] * len(steps))
    ends = [0, *accumulate(map(len, parts))]
    whole = b"".join(parts)
    with tempfile.TemporaryDirectory(dir=fast_directory()) as name:
        for cut in range(len(whole) + 1):
            write_log(Path(name), [whole[:cut]], room=b"\xaa" * 100)
            survivors = max(n for n in [0, *accumulate(steps)] if ends[n] <= cut)
            assert list(range(1, survivors + 1)) == scanned(Path(name))


def test_end_of_a_log_that_is_cut_within_a_step(tmp_path: Path) -> None:
    """The log goes on at the step's first LSN, where its first frame was, and looks the same when it is read again."""
    parts = frames(1, [2, 1, 3], [0, 0, 0])
    path = write_log(tmp_path, parts[:-1], room=bytes(100))
    kept = sum(map(len, parts[:3]))
    for _ in range(2):
        (file,) = open_log_files(tmp_path)
        assert [frame.lsn for frame in scan(file, newest=True)] == [1, 2, 3]
        assert (4, FILE_HEADER_SIZE + kept) == (file.end_lsn, file.size)
        cut_tail(file)
        assert path.stat().st_size == file.size


def test_damage_in_a_step_that_was_not_synced(tmp_path: Path) -> None:
    """Pages of the last group may be missing in any order: a step that lacks one of them goes as a whole."""
    parts = frames(10, [1, 3, 1], [9, 10, 10])
    path = write_log(tmp_path, parts, 10, bytes(100))
    whole = path.read_bytes()
    start = FILE_HEADER_SIZE + len(parts[0])
    for at in range(start, start + sum(map(len, parts[1:4]))):
        damaged = bytearray(whole)
        damaged[at] ^= 0x08
        path.write_bytes(damaged)
        assert scanned(tmp_path) == [10]


def test_damage_in_a_step_that_was_synced(tmp_path: Path) -> None:
    """If a later frame reports the step as synced, the start is refused, and the damaged frame is named."""
    parts = frames(10, [1, 3, 2], [9, 9, 13])
    path = write_log(tmp_path, parts, 10, bytes(100))
    whole = path.read_bytes()
    borders = [FILE_HEADER_SIZE + end for end in accumulate(map(len, parts), initial=0)]
    for lsn, (begin, end) in enumerate(list(pairwise(borders))[1:4], 11):
        for at in range(begin, end):
            damaged = bytearray(whole)
            damaged[at] ^= 0x40
            path.write_bytes(damaged)
            with pytest.raises(CorruptLog, match=f"LSN {lsn} is damaged") as caught:
                scanned(tmp_path)
            assert (path, begin) == (caught.value.path, caught.value.position)
            assert damaged == path.read_bytes()


@pytest.mark.parametrize("last", [1, 2, 3])
def test_steps_in_an_older_file(tmp_path: Path, last: int) -> None:
    """A complete file ends with a whole step; where any of its frames is damaged, the start is refused."""
    parts = frames(1, [2, last], [0, 2])
    path = write_log(tmp_path, parts, 1, b"\xaa" * 100)
    write_log(tmp_path, frames(3 + last, [1], [2 + last]), 3 + last)
    older, _ = open_log_files(tmp_path)
    assert list(range(1, 3 + last)) == [frame.lsn for frame in scan(older, newest=False)]

    position = FILE_HEADER_SIZE
    whole = path.read_bytes()
    for lsn, part in enumerate(parts, 1):
        damaged = bytearray(whole)
        damaged[position + len(part) - 1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptLog, match=f"LSN {lsn} is damaged") as caught:
            list(scan(older, newest=False))
        assert position == caught.value.position
        position += len(part)


def test_older_file_that_ends_within_a_step(tmp_path: Path) -> None:
    """No step goes on in another file: missing frames were lost."""
    write_log(tmp_path, frames(1, [1, 3], [0, 1])[:-1], 1)
    write_log(tmp_path, frames(4, [1], [3]), 4)
    older, _ = open_log_files(tmp_path)
    with pytest.raises(CorruptLog, match="began with LSN 2 is not ended"):
        list(scan(older, newest=False))


# Whole stores


async def store_with_step(directory: Path) -> tuple[Path, int]:
    """A copy of a store whose log ends with the end of a transaction in all slots, and where that step begins."""
    store = await open_store(directory / "live")
    stream = await make(store, slots=SLOTS)
    for number in range(SLOTS):
        await append_in_transaction(stream.slot(number), b"x", (1, 0, 0))
    begin = container_of(store).log.position
    ends = [end_of(stream.slot(number), 1, committed=False, epoch=1) for number in range(SLOTS)]
    await container_of(store).end_transactions(ends, PUTS)
    copy = await crash_copy(store, directory / "copy")
    await store.close(clean=False)
    return copy, begin


def look(store: Store) -> bool:
    """Whether the step is there; asserts that it is there as a whole or not at all."""
    stream = store.streams.get("s")
    assert stream is not None
    slots = [stream.slot(number) for number in range(SLOTS)]
    found = {(slot.end, slot.stable_end, slot.has_open_transaction(1), tuple(aborted(slot))) for slot in slots}
    epochs = {(slot.writers or {})[1].epoch for slot in slots}
    is_there = len(store.table("t")) > 0
    expected = (2, 2, False, ((0, 1, 1),)) if is_there else (1, 0, True, ())
    assert ({expected}, {int(is_there)}) == (found, epochs)
    assert len(store.table("t")) == (len(PUTS) if is_there else 0)
    return is_there


def frames_of(path: Path, begin: int) -> Iterator[tuple[int, int, int]]:
    """LSN, first and last byte of the frames of a log file from a position on."""
    data = memoryview(path.read_bytes())
    (file,) = [file for file in open_log_files(path.parent) if file.path == path]
    while True:
        try:
            frame = decode_frame(data, begin, file.file_id)
        except BadFrame:
            return
        yield frame.lsn, begin, frame.end
        begin = frame.end


@pytest.mark.parametrize("room", [True, False])
def test_start_where_the_log_ends_within_a_step(tmp_path: Path, room: bool) -> None:
    """Cut at every border of a frame and within every frame: markers and tables are there together or not at all."""

    async def scenario() -> None:
        copy, begin = await store_with_step(tmp_path)
        (path,) = logs(copy)
        whole = path.read_bytes()
        step = list(frames_of(path, begin))
        assert len(step) == SLOTS + 2
        end = step[-1][2]
        for cut in {place for _, first, last in step for place in (first, first + 1, (first + last) // 2, last)}:
            path.write_bytes(whole[:cut] + bytes(len(whole) - cut if room else 0))
            await look_twice(copy, tmp_path / f"{cut}", expected=cut == end)

    run(scenario())


def test_start_where_a_frame_of_the_last_step_is_missing(tmp_path: Path) -> None:
    """The frames behind it are whole, and count for nothing."""

    async def scenario() -> None:
        copy, begin = await store_with_step(tmp_path)
        (path,) = logs(copy)
        whole = path.read_bytes()
        for lsn, first, last in frames_of(path, begin):
            path.write_bytes(whole[:first] + bytes(last - first) + whole[last:])
            await look_twice(copy, tmp_path / f"{lsn}", expected=False)

    run(scenario())


async def look_twice(copy: Path, place: Path, *, expected: bool) -> None:
    """Start, start again, and end the transaction if it is open."""
    shutil.copytree(copy, place)
    for _ in range(2):
        store = await open_store(place)
        assert expected is look(store)
        await store.close(clean=False)
    store = await open_store(place)
    stream = store.streams.get("s")
    assert stream is not None
    ends = [end_of(stream.slot(number), 1, committed=False, epoch=1) for number in range(SLOTS)]
    await container_of(store).end_transactions(ends, PUTS)
    assert look(store)
    await store.close()
    shutil.rmtree(place)


def test_start_with_a_synced_step_damaged(tmp_path: Path) -> None:
    """A bit of a step that was acknowledged stops the start, and nothing on disk is changed."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "live")
        stream = await make(store, slots=2)
        for number in range(2):
            await append_in_transaction(stream.slot(number), b"x", (1, 0, 0))
        begin = container_of(store).log.position
        ends = [end_of(stream.slot(number), 1, committed=True) for number in range(2)]
        await container_of(store).end_transactions(ends, PUTS)
        last = container_of(store).log.position
        await append(stream.slot(0), b"says so")
        copy = await crash_copy(store, tmp_path / "copy")
        await store.close(clean=False)
        (path,) = logs(copy)
        whole = path.read_bytes()
        for lsn, first, end in frames_of(path, begin):
            if first == last:
                break
            damaged = bytearray(whole)
            damaged[(first + end) // 2] ^= 1
            path.write_bytes(damaged)
            before = contents(copy)
            with pytest.raises(CorruptLog, match=f"LSN {lsn} is damaged") as caught:
                await open_store(copy)
            assert (path, first) == (caught.value.path, caught.value.position)
            assert before == contents(copy)

    run(scenario())


@pytest.mark.parametrize("size", [10, 40])
def test_step_that_needs_a_new_file(tmp_path: Path, size: int) -> None:
    """A step that does not fit into the open file lies in the next one, all of it, though it be larger than a file."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "live")
        stream = await make(store, slots=SLOTS)
        log = container_of(store).log
        for number in range(SLOTS):
            await append_in_transaction(stream.slot(number), b"x", (1, 0, 0))
        filler = await append(stream.slot(0), bytes(58 * KIB))
        await until(lambda: log.can_roll)
        before = log.file.path
        puts = [Put("t", b"%d" % n, b"x" * size) for n in range(4 * STEP_OPERATIONS_MAX)]
        ends = [end_of(stream.slot(number), 1, committed=True) for number in range(SLOTS)]
        await container_of(store).end_transactions(ends, puts)
        after = log.file.path
        copy = await crash_copy(store, tmp_path / "copy")
        await store.close(clean=False)

        assert before != after
        newest = logs(copy)[-1]
        assert newest.name == after.name
        assert len(list(frames_of(newest, FILE_HEADER_SIZE))) == SLOTS + 4
        store = await open_store(copy)
        stream = store.streams.get("s")  # type: ignore[assignment]
        assert len(puts) == len(store.table("t"))
        assert [filler + 2, 2, 2] == [slot.stable_end for slot in stream.written_slots()]
        await maintenance_of(store).index_files()
        assert (await read_all(store, stream.slot(1)))[0] == b"x"
        await store.close()

    run(scenario())
