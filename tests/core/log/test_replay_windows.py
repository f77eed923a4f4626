"""The log is read back a window at a time: the result does not depend on windows, and a bad sector is named."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Final

import pytest

from core.errors import CorruptLog
from core.log import replay
from core.log.format import FILE_HEADER_SIZE, KIND_UPDATE, STEP_GOES_ON, encode_frame
from core.log.replay import SECTOR_BYTES, open_log_files, scan
from tests.core.log.test_replay import FILE_ID, write_log

LOGS: Final = 60
FRAMES: Final = 12
BODY_BYTES: Final = 3_000

Outcome = tuple[list[int], int, int] | tuple[str, int]


def outcome(directory: Path) -> Outcome:
    """LSNs, end and size of the newest file; or what is wrong where."""
    file = open_log_files(directory)[-1]
    try:
        found = [(frame.lsn, bytes(frame.body)) for frame in scan(file, newest=True)]
    except CorruptLog as error:
        return error.why, error.position
    assert all(body == body_of(lsn) for lsn, body in found)
    return [lsn for lsn, _ in found], file.end_lsn, file.size


def body_of(lsn: int) -> bytes:
    return b"body %d " % lsn * (lsn * 7 % 23)


def some_log(directory: Path, dice: random.Random) -> None:
    """Steps and single frames, of which some say what was synced; perhaps a hole and a tail that is torn."""
    parts = []
    for lsn in range(1, 1 + dice.randrange(2, 40)):
        follows = STEP_GOES_ON if dice.random() < 0.3 else 0
        claim = dice.choice((0, lsn - 1))
        parts.append(encode_frame(lsn, claim, FILE_ID, KIND_UPDATE, body_of(lsn), follows))
    whole = bytearray(b"".join(parts))
    if dice.random() < 0.7:
        at = dice.randrange(len(whole))
        size = dice.choice((1, 8, 300))
        whole[at : at + size] = bytes(len(whole[at : at + size]))
    write_log(directory, [bytes(whole)], room=dice.randbytes(dice.randrange(200)))


@pytest.mark.parametrize("window", [1, 33, 500])
def test_windows_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Frames, steps, damage and torn tails are found alike, wherever a window ends."""
    dice = random.Random(1)
    kinds = set()
    for _ in range(LOGS):
        some_log(tmp_path, dice)
        expected = outcome(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(replay, "WINDOW_BYTES", window)
            assert expected == outcome(tmp_path)
        kinds.add(len(expected))
    assert kinds == {2, 3}, "some of them were damaged, others not"


def sectors_that_fail(patch: pytest.MonkeyPatch, *bad: int, error: int = errno.EIO) -> None:
    """Let reads of these sectors fail, as a disk's do."""
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if any(at < (sector + 1) * SECTOR_BYTES and sector * SECTOR_BYTES < at + size for sector in bad):
            raise OSError(error, os.strerror(error))
        return real(fd, size, at)

    patch.setattr("core.log.replay.os.pread", pread)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENODATA])
def test_sector_in_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """The frames before it are read; file, position and the LSN that is looked for there are named."""
    parts = [encode_frame(lsn, 0, FILE_ID, KIND_UPDATE, bytes(BODY_BYTES)) for lsn in range(1, 1 + FRAMES)]
    path = write_log(tmp_path, parts, room=bytes(5 * SECTOR_BYTES))
    (file,) = open_log_files(tmp_path)
    for sector in range(1, path.stat().st_size // SECTOR_BYTES):
        with monkeypatch.context() as patch:
            sectors_that_fail(patch, sector, error=error)
            read: list[int] = []
            with pytest.raises(CorruptLog) as caught:
                read += (frame.lsn for frame in scan(file, newest=True))
        whole = min(FRAMES, (sector * SECTOR_BYTES - FILE_HEADER_SIZE) // len(parts[0]))
        assert (caught.value.path, caught.value.position) == (path, sector * SECTOR_BYTES)
        assert f"LSN {whole + 1} " in caught.value.why


def test_sector_that_nobody_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete file ends where the next one begins: the room behind its end is not read."""
    parts = [encode_frame(lsn, 0, FILE_ID, KIND_UPDATE, bytes(BODY_BYTES)) for lsn in range(1, 1 + FRAMES)]
    path = write_log(tmp_path, parts, room=bytes(5 * SECTOR_BYTES))
    write_log(tmp_path, [encode_frame(1 + FRAMES, 0, FILE_ID, KIND_UPDATE, b"x")], 1 + FRAMES)
    older, _ = open_log_files(tmp_path)
    sectors_that_fail(monkeypatch, path.stat().st_size // SECTOR_BYTES - 1)
    assert [frame.lsn for frame in scan(older, newest=False)] == list(range(1, 1 + FRAMES))


def test_other_errors_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the disk's is not reported as damage."""
    write_log(tmp_path, [encode_frame(1, 0, FILE_ID, KIND_UPDATE, b"x")])
    (file,) = open_log_files(tmp_path)
    sectors_that_fail(monkeypatch, 1, error=errno.ENOMEM)
    with pytest.raises(OSError, match="memory"):
        list(scan(file, newest=True))
