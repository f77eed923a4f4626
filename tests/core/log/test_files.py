"""Files of the log that go: some wait to be log files again, the blocks of the others are given back in steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.log.files import SPARES_KEPT, give_up, log_path

MIB = 1 << 20


def made(directory: Path, lsn: int, size: int) -> Path:
    path = log_path(directory, lsn)
    path.write_bytes(bytes(size))
    return path


def test_a_file_that_goes_is_given_back_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name goes first and for good; then no sync lets go of more than 4 MiB: the log's come between."""
    for lsn in range(SPARES_KEPT):
        give_up(made(tmp_path, lsn + 1, 10), tmp_path)
    assert len(list(tmp_path.glob("*.spare"))) == SPARES_KEPT

    path = made(tmp_path, 100, 10 * MIB + 5)
    sizes = [os.stat(path).st_size]
    real = os.fsync

    def fsync(fd: int) -> None:
        assert not path.exists()
        sizes.append(os.fstat(fd).st_size)
        real(fd)

    monkeypatch.setattr("tier2.giving_back.os.fsync", fsync)
    give_up(path, tmp_path)

    directory, *steps = sizes[1:]
    assert directory == tmp_path.stat().st_size
    assert steps == [8 * MIB, 4 * MIB, 0]
    assert len(list(tmp_path.iterdir())) == SPARES_KEPT
