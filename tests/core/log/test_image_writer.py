"""A log file from its image: the given bytes lie there in whole blocks, and a sync covers all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.log.image_writer import WRITE_BYTES_MAX, ImageWriter
from core.log.slabs import SLAB_BYTES_MAX, FileImage, Slabs
from tier2.direct_io import BLOCK_BYTES, open_direct

pytestmark = pytest.mark.slow

SIZES = st.one_of(
    st.integers(0, 3 * BLOCK_BYTES),
    st.sampled_from([WRITE_BYTES_MAX - 1, WRITE_BYTES_MAX, WRITE_BYTES_MAX + 1, 2 * WRITE_BYTES_MAX + 77]),
)


def image_of(size: int, memory: int = 1 << 20) -> FileImage:
    """An image with slabs for that many bytes. Small memory is cut into small slabs."""
    slabs = Slabs(memory, "test")
    image = slabs.begin_image()
    slabs.reach(image, size)
    slabs.close()
    return image


def _part(number: int, size: int) -> bytes:
    return (b"%08d" % number * (size // 8 + 1))[:size]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.lists(SIZES, max_size=4), max_size=6),
    skipped=st.integers(0, 2),
    memory=st.sampled_from([1 << 16, 1 << 20, 64 << 20]),
    synced=st.booleans(),
)
def test_what_was_given_lies_there(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], skipped: int, memory: int, synced: bool
) -> None:
    """After every flush the file holds all parts so far one behind the other, and zeros to the end of the block."""
    path = tmp_path_factory.mktemp("image") / "file"
    fd = open_direct(path, os.O_RDWR | os.O_CREAT)
    try:
        start = skipped * BLOCK_BYTES
        image = image_of(start + sum(map(sum, groups)) + BLOCK_BYTES, memory)
        writer, expected = ImageWriter(syncs_with_writes=True), b""
        writer.begin(fd, image, start)
        for number, sizes in enumerate(groups):
            parts = [_part(number, size) for size in sizes]
            for part in parts:
                writer.stage(part)
            if synced:
                writer.flush_synced()
            else:
                writer.flush()
            expected += b"".join(parts)
            found = path.read_bytes()[start:]
            assert found[: len(expected)] == expected
            assert not any(found[len(expected) :])
            assert len(found) - len(expected) < BLOCK_BYTES
    finally:
        os.close(fd)


def test_a_block_begins_a_file_or_nothing_does(tmp_path: Path) -> None:
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(ValueError, match="no block begins at 77"):
            ImageWriter(syncs_with_writes=True).begin(fd, image_of(1), 77)
    finally:
        os.close(fd)


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    real = os.pwritev

    def torn(fd: int, parts: list[memoryview], at: int, flags: int) -> int:
        return real(fd, [parts[0][:BLOCK_BYTES]], at, flags)

    monkeypatch.setattr("core.log.image_writer.os.pwritev", torn)
    try:
        for flush in (ImageWriter.flush, ImageWriter.flush_synced):
            writer = ImageWriter(syncs_with_writes=True)
            writer.begin(fd, image_of(2 * BLOCK_BYTES), 0)
            writer.stage(bytes(2 * BLOCK_BYTES))
            with pytest.raises(OSError, match="short write: 4096 of 8192 bytes"):
                flush(writer)
    finally:
        os.close(fd)


class Calls:
    """The calls to the disk: writes, writes that sync, and syncs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        fdatasync, pwritev = os.fdatasync, os.pwritev

        def sync(fd: int) -> None:
            self.made.append("sync")
            fdatasync(fd)

        def write(fd: int, parts: list[memoryview], at: int, flags: int) -> int:
            self.made.append("write+sync" if flags & os.RWF_DSYNC else "write")
            return pwritev(fd, parts, at, flags)

        patch.setattr("core.log.image_writer.os.fdatasync", sync)
        patch.setattr("core.log.image_writer.os.pwritev", write)


@pytest.mark.parametrize(
    ("syncs_with_writes", "size", "expected"),
    [
        (True, 100, ["write+sync"]),
        (True, WRITE_BYTES_MAX - BLOCK_BYTES, ["write+sync"]),
        (True, WRITE_BYTES_MAX + 1, ["write", "write", "sync"]),
        (True, 0, ["sync"]),
        (False, 100, ["write", "sync"]),
    ],
)
def test_one_call_syncs_what_one_write_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syncs_with_writes: bool, size: int, expected: list[str]
) -> None:
    """A sync with a write covers that write alone: bytes written in pieces are synced by a separate call."""
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        writer = ImageWriter(syncs_with_writes=syncs_with_writes)
        writer.begin(fd, image_of(4 * WRITE_BYTES_MAX), 0)
        calls = Calls(monkeypatch)
        for _ in range(2):
            writer.stage(bytes(size))
            writer.flush_synced()
        assert calls.made == [*expected, *expected]
        writer.stage(b"unsynced")
        writer.flush()
        writer.stage(b"more")
        writer.flush_synced()
        assert calls.made[-3:] == ["write", "write", "sync"]
    finally:
        os.close(fd)


def test_one_write_goes_across_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is cut where slabs end, writes are not."""
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        image = image_of(2 * SLAB_BYTES_MAX, 64 << 20)
        writer = ImageWriter(syncs_with_writes=True)
        writer.begin(fd, image, 0)
        writer.stage(bytes(SLAB_BYTES_MAX - 5000))
        writer.flush_synced()
        calls = Calls(monkeypatch)
        writer.stage(b"x" * 20_000)
        writer.flush_synced()
        assert calls.made == ["write+sync"]
        assert (tmp_path / "file").read_bytes()[SLAB_BYTES_MAX - 5000 :].rstrip(b"\0") == b"x" * 20_000
    finally:
        os.close(fd)
