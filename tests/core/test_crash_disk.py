"""The disk of the crash tests itself: the writes that it loses, and those that it keeps."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.core.crash_disk import CrashDisk, build

TRIES = 60


def states(disk: CrashDisk, place: Path) -> set[bytes]:
    """The possible contents of the one file after a power cut at this moment."""
    disk._take_picture("now")
    found = set()
    for number in range(TRIES):
        target = place / f"state-{len(disk.pictures)}-{number}"
        build(disk.pictures[-1], target, random.Random(number))
        found.add((target / "file").read_bytes())
    return found


def test_a_write_lasts_with_its_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write without RWF_DSYNC may be lost, a write with it stays and saves no other write."""
    live = tmp_path / "live"
    live.mkdir()
    disk = CrashDisk(live, lambda: None)
    with monkeypatch.context() as patch:
        disk.install(patch)
        fd = os.open(str(live / "file"), os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, b"......", 0)
        os.fsync(fd)
        directory = os.open(str(live), os.O_RDONLY)
        os.fsync(directory)

        os.pwritev(fd, [b"a"], 0)
        os.pwritev(fd, [b"b", b"b"], 2, os.RWF_DSYNC)
        assert states(disk, tmp_path) == {b"..bb..", b"a.bb.."}
        os.pwritev(fd, [b"cc"], 3)
        os.pwritev(fd, [b"d"], 3, os.RWF_DSYNC)
        assert states(disk, tmp_path) == {b"%c.bd%c." % (first, last) for first in b".a" for last in b".c"}
        os.fdatasync(fd)
        assert states(disk, tmp_path) == {b"a.bdc."}
        os.close(fd)
        os.close(directory)


def test_a_write_may_be_torn_until_its_sync_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a write with RWF_DSYNC has returned, any of its sectors may be there."""
    live = tmp_path / "live"
    live.mkdir()
    disk = CrashDisk(live, lambda: None)
    with monkeypatch.context() as patch:
        disk.install(patch)
        fd = os.open(str(live / "file"), os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, bytes(1024), 0)
        os.fsync(fd)
        directory = os.open(str(live), os.O_RDONLY)
        os.fsync(directory)
        os.pwritev(fd, [b"x" * 1024], 0, os.RWF_DSYNC)
        os.close(fd)
        os.close(directory)

    during = [picture for picture in disk.pictures if picture.call == "sync of pwritev"]
    assert len(during) == 1
    found = set()
    for number in range(TRIES):
        target = tmp_path / f"torn-{number}"
        build(during[0], target, random.Random(number))
        found.add((target / "file").read_bytes()[::512])
    assert found == {b"\0\0", b"x\0", b"\0x", b"xx"}
