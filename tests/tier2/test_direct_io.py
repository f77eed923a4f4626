"""Files past the page cache: the given bytes lie there, in whole blocks, whatever their sizes."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tier2.direct_io import BLOCK_BYTES, STAGING_BYTES, BlockWriter, can_sync_with_writes, open_direct, read_direct
from tier2.memory import aligned

SIZES = st.one_of(
    st.integers(0, 3 * BLOCK_BYTES),
    st.sampled_from([STAGING_BYTES - 1, STAGING_BYTES, STAGING_BYTES + 1, 2 * STAGING_BYTES + 77]),
)


def _part(number: int, size: int) -> bytes:
    return (b"%08d" % number * (size // 8 + 1))[:size]


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(st.lists(SIZES, max_size=4), max_size=6), skipped=st.integers(0, 2))
def test_what_was_written_lies_there(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], skipped: int
) -> None:
    """After every write the file holds all parts so far one behind the other, and zeros to the end of the block."""
    path = tmp_path_factory.mktemp("direct") / "file"
    fd = open_direct(path, os.O_RDWR | os.O_CREAT)
    try:
        blocks, expected = BlockWriter(), b""
        blocks.begin(fd, skipped * BLOCK_BYTES)
        for number, sizes in enumerate(groups):
            parts = [_part(number, size) for size in sizes]
            blocks.write(parts)
            expected += b"".join(parts)
            found = path.read_bytes()[skipped * BLOCK_BYTES :]
            assert found[: len(expected)] == expected
            assert not any(found[len(expected) :])
            assert len(found) - len(expected) < BLOCK_BYTES
    finally:
        os.close(fd)


def test_a_block_begins_a_file_or_nothing_does(tmp_path: Path) -> None:
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(ValueError, match="no block begins at 77"):
            BlockWriter().begin(fd, 77)
    finally:
        os.close(fd)


def test_a_file_system_is_known_before_its_writes_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write with RWF_DSYNC is trusted on file systems that keep it, and where the kernel takes it."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert can_sync_with_writes(tmp_path) == (kind.strip() in ("ext2/ext3", "xfs", "tmpfs"))
    assert not can_sync_with_writes(Path("/proc"))

    monkeypatch.setattr("tier2.direct_io.SYNCING_WRITES", {"ext4", "xfs", "tmpfs", "overlay"})
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("tier2.direct_io.os.pwritev", refuse)
    assert not can_sync_with_writes(tmp_path)


def test_a_short_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    real = os.pwrite
    monkeypatch.setattr("tier2.direct_io.os.pwrite", lambda fd, data, at: real(fd, data[:BLOCK_BYTES], at))
    try:
        blocks = BlockWriter()
        blocks.begin(fd, 0)
        with pytest.raises(OSError, match="short write: 4096 of 8192 bytes"):
            blocks.write([bytes(2 * BLOCK_BYTES)])
    finally:
        os.close(fd)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(0, 5 * BLOCK_BYTES))
def test_any_stretch_is_read_as_it_lies_there(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    """Also where the file ends first, and behind its end."""
    content = os.urandom(size)
    path = tmp_path_factory.mktemp("direct") / "file"
    path.write_bytes(content)
    position, length = data.draw(st.integers(0, size + 10_000)), data.draw(st.integers(0, size + 10_000))
    fd = open_direct(path, os.O_RDONLY)
    try:
        assert bytes(read_direct(fd, length, position)) == content[position : position + length]
    finally:
        os.close(fd)


def test_without_direct_io_the_page_cache_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems refuse it, after they have made the file."""
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            os.close(real(path, flags & ~os.O_DIRECT, mode))
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, mode)

    monkeypatch.setattr("tier2.direct_io.os.open", refuse)
    fd = open_direct(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        blocks = BlockWriter()
        blocks.begin(fd, 0)
        blocks.write([b"kept"])
        assert bytes(read_direct(fd, 4, 0)) == b"kept"
    finally:
        os.close(fd)


def test_aligned_memory() -> None:
    memory = [aligned(size) for size in (0, 1, 4096, 1 << 20)]
    assert [len(one) for one in memory] == [0, 1, 4096, 1 << 20]
    assert all(not one.readonly for one in memory)
