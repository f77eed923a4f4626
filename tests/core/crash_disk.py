"""A disk that remembers what was synced: every state that a power cut may leave can be built from it.

It stands between the store and `os` for the files of one directory, lets every call through, and notes it. Before each
noted call it takes a picture: per file what a sync has covered and what was written since, per name what a sync of the
directory has covered and what was changed since. `build` makes a directory of a picture as POSIX allows it: any of the
changes since the last sync may be there or not, a write may be torn at a sector. A write with RWF_DSYNC is a change
until it returns; then its bytes are safe, and no others.

It models no more than the store uses: files written by position or in sequence, renames and deletions in one directory.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

SECTOR: Final = 512


@dataclass
class Inode:
    """A file: bytes that are safe, and changes since: (position, bytes), or (size, None) for a truncation."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.synced = _applied(self.synced, self.pending)
        self.pending = []

    def sync_last(self) -> None:
        """Make the last write safe, and nothing else: older bytes in its place can come no more."""
        position, data = self.pending.pop()
        assert data is not None
        assert all(part is not None for _, part in self.pending), "sizes are synced before a write is"
        self.synced = _applied(self.synced, [(position, data)])
        self.pending = [part for change in self.pending for part in _outside(change, position, position + len(data))]


Change = tuple[str, Inode | None]  # a name, and what it stands for now


@dataclass(frozen=True)
class Picture:
    """The disk before one call."""

    call: str
    files: tuple[tuple[Inode, bytes, tuple[tuple[int, bytes | None], ...]], ...]
    names: dict[str, Inode]
    changes: tuple[tuple[Change, ...], ...]
    context: Any


class CrashDisk:
    """Notes what happens to the files of `directory`."""

    def __init__(self, directory: Path, context: Callable[[], Any]) -> None:
        self.directory = str(directory)
        self.pictures: list[Picture] = []
        self._context = context
        self._lock = threading.RLock()
        self._inodes: list[Inode] = []
        self._names: dict[str, Inode] = {}  # safe
        self._live: dict[str, Inode] = {}
        self._changes: list[tuple[Change, ...]] = []  # since; each happens as a whole
        self._fds: dict[int, tuple[Inode | None, list[int]]] = {}  # None: the directory; with the position

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(os, "open", self._wrap(os.open, self._opened))
        for name in ("close", "write", "pwrite", "pwritev", "ftruncate", "truncate", "posix_fallocate"):
            patch.setattr(os, name, self._wrap(getattr(os, name), getattr(self, f"_{name}")))
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._wrap(getattr(os, name), self._sync))
        patch.setattr(os, "rename", self._wrap(os.rename, self._rename))
        patch.setattr(os, "unlink", self._wrap(os.unlink, self._unlink))

    def _wrap(self, real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if kwargs or not self._concerns(args[0]):
                    return real(*args, **kwargs)
                if real.__name__ not in ("open", "close"):
                    self._take_picture(real.__name__)
                result = real(*args)
                note(result, *args)
                return result

        return call

    def _concerns(self, what: object) -> bool:
        if isinstance(what, int):
            return what in self._fds
        path = os.fspath(what)  # type: ignore[call-overload]
        return bool(path == self.directory or os.path.dirname(path) == self.directory)

    def _take_picture(self, call: str) -> None:
        files = tuple((inode, inode.synced, tuple(inode.pending)) for inode in self._inodes)
        self.pictures.append(Picture(call, files, dict(self._names), tuple(self._changes), self._context()))

    def _open_file(self, path: str) -> Inode:
        name = os.path.basename(path)
        if name not in self._live:
            self._live[name] = Inode()
            self._inodes.append(self._live[name])
            self._changes.append(((name, self._live[name]),))
        return self._live[name]

    # What each call changes

    def _opened(self, fd: int, path: Any, flags: int, *_: int) -> None:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self._fds[fd] = Inode(), [0]  # gone with its descriptor, whatever happens
            return
        if os.fspath(path) == self.directory:
            self._fds[fd] = None, [0]
            return
        inode = self._open_file(os.fspath(path))
        if flags & os.O_TRUNC:
            inode.pending.append((0, None))
        self._fds[fd] = inode, [0]

    def _close(self, _: None, fd: int) -> None:
        del self._fds[fd]

    def _write(self, written: int, fd: int, data: Any) -> None:
        inode, position = self._fds[fd]
        assert inode is not None
        inode.pending.append((position[0], bytes(data)[:written]))
        position[0] += written

    def _pwrite(self, written: int, fd: int, data: Any, at: int) -> None:
        inode, _ = self._fds[fd]
        assert inode is not None
        inode.pending.append((at, bytes(data)[:written]))

    def _pwritev(self, written: int, fd: int, parts: Any, at: int, flags: int = 0) -> None:
        self._pwrite(written, fd, b"".join(parts), at)
        if flags & os.RWF_DSYNC:
            self._take_picture("sync of pwritev")  # written, and not synced yet
            inode, _ = self._fds[fd]
            assert inode is not None
            inode.sync_last()

    def _ftruncate(self, _: None, fd: int, size: int) -> None:
        inode, _position = self._fds[fd]
        assert inode is not None
        inode.pending.append((size, None))

    def _truncate(self, _: None, path: Any, size: int) -> None:
        self._open_file(os.fspath(path)).pending.append((size, None))

    def _posix_fallocate(self, _: None, fd: int, start: int, size: int) -> None:
        inode, _position = self._fds[fd]
        assert inode is not None
        if len(_applied(inode.synced, inode.pending)) < start + size:
            inode.pending.append((start + size, None))

    def _sync(self, _: None, fd: int) -> None:
        inode, _position = self._fds[fd]
        if inode is not None:
            inode.sync()
            return
        for change in self._changes:
            _change(self._names, change)
        self._changes = []

    def _rename(self, _: None, source: Any, target: Any) -> None:
        old, new = os.path.basename(source), os.path.basename(target)
        inode = self._live.pop(old)
        self._live[new] = inode
        self._changes.append(((old, None), (new, inode)))

    def _unlink(self, _: None, path: Any) -> None:
        name = os.path.basename(path)
        del self._live[name]
        self._changes.append(((name, None),))


def build(picture: Picture, target: Path, random_: random.Random) -> None:
    """Make one state of the directory that a power cut at this moment may leave."""
    names = dict(picture.names)
    chance = random_.choice((0.0, 0.5, 1.0))
    for change in picture.changes:
        if random_.random() < chance:
            _change(names, change)
    contents = {id(inode): (synced, pending) for inode, synced, pending in picture.files}
    target.mkdir(parents=True)
    for name, inode in names.items():
        synced, pending = contents[id(inode)]
        chance = random_.choice((0.0, 0.3, 0.7, 1.0))
        kept = [part for change in pending for part in _sectors(change) if random_.random() < chance]
        (target / name).write_bytes(_applied(synced, kept))


def _outside(change: tuple[int, bytes | None], start: int, end: int) -> list[tuple[int, bytes | None]]:
    """The parts of an older write that a newer one leaves, before and behind [start, end)."""
    position, data = change
    assert data is not None
    before, behind = data[: max(0, start - position)], data[max(0, end - position) :]
    parts = [(position, before), (position + len(data) - len(behind), behind)]
    return [(at, part) for at, part in parts if part]


def _sectors(change: tuple[int, bytes | None]) -> list[tuple[int, bytes | None]]:
    position, data = change
    if data is None:
        return [change]
    first = SECTOR - position % SECTOR
    cuts = [0, *range(first, len(data), SECTOR), len(data)]
    return [(position + a, data[a:b]) for a, b in pairwise(cuts) if a < b]


def _change(names: dict[str, Inode], change: tuple[Change, ...]) -> None:
    for name, inode in change:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _applied(base: bytes, changes: Any) -> bytes:
    data = bytearray(base)
    for position, part in changes:
        if part is None:
            data[position:] = bytes(max(0, position - len(data)))
        else:
            if position > len(data):
                data += bytes(position - len(data))
            data[position : position + len(part)] = part
    return bytes(data)
