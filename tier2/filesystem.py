"""The embedded driver: objects are files below one directory.

Invariant: a file under its final name is complete and synced. It is written under ``.incoming/``, synced, and only
then renamed (`put`) or linked (`put_new`) into place; the directory that names it, and every directory that was made
for it, are synced before the call returns. No part of a key begins with a dot, so no key reaches ``.incoming`` or
leaves the directory. A file that is shortened has no name any more: its readers find the object deleted, not damaged.
The next open removes a crash's files in ``.incoming``; each file there is locked while it is written, so that a second
process removes none that is being written. A sweep that meets a file between its making and its locking costs the put
another file, and no error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat as file_types
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeVar

from tier2.direct_io import BlockWriter, open_direct
from tier2.giving_back import give_back
from tier2.pool import BlockingPool, Deadline
from tier2.storage import (
    AlreadyExists,
    Buffer,
    Came,
    Corrupt,
    Data,
    Denied,
    Misconfigured,
    NoRoom,
    ObjectInfo,
    ObjectNotFound,
    ObjectStat,
    StorageError,
    Unavailable,
    check_deletes,
    check_key,
    check_range,
    open_data,
)

T = TypeVar("T")

INCOMING: Final = ".incoming"
PAGE_KEYS: Final = 1000
TOKENS_KEPT_MAX: Final = 1024
"""Puts whose token is remembered: far more than are tried again at one time."""
FILES_TRIED_MAX: Final = 10
"""Files that one put makes before it fails, if sweeps lock or remove one after the other just when it is made."""
SYNCED_DIRECTORIES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemSettings:
    """The directory of the objects, the number of calls at once, and the time-out of each."""

    directory: Path
    create: bool = True  # if it is missing
    reads: int = 4
    writes: int = 2
    read_timeout_s: float = 30.0
    write_timeout_s: float = 120.0


class FilesystemStorage:
    """Objects as files; see the module's docstring for the state after a crash."""

    def __init__(self, settings: FilesystemSettings) -> None:
        self._settings = settings
        self._root = settings.directory
        self._reads = BlockingPool("tier2-read", settings.reads)
        self._writes = BlockingPool("tier2-write", settings.writes)
        self._lock = threading.Lock()
        self._synced: set[Path] = set()
        self._tokens: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<FilesystemStorage {self._root}>"

    @classmethod
    async def open(cls, settings: FilesystemSettings) -> Self:
        """Make the directory and sweep a crash's files, if it may be created. Raises Misconfigured."""
        storage = cls(settings)
        try:
            await storage._write("open", storage._prepare)
        except BaseException:
            await storage.close()
            raise
        return storage

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        path = self._path(key)
        return await self._write(f"put of {key!r}", lambda deadline: self._put(path, key, data, token, deadline))

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        path = self._path(key)
        return await self._write(f"put of {key!r}", lambda deadline: self._put_new(path, key, data, token, deadline))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        path = self._path(key)
        return await self._read(f"read of {key!r}", lambda deadline: _read_range(path, key, start, length, deadline))

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        check_range(start, length)
        path, stop = self._path(key), start + length

        def read(deadline: Deadline) -> None:
            for number, at in enumerate(range(start, stop, piece_bytes)):
                came(number, _read_range(path, key, at, min(piece_bytes, stop - at), deadline))

        await self._read(f"read of {key!r}", read)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        found = self._walk(self._root, "", prefix, after)
        while True:
            page = await self._read(f"list of {prefix!r}", lambda _: list(islice(found, PAGE_KEYS)))
            for info in page:
                yield info
            if len(page) < PAGE_KEYS:
                return

    async def delete(self, key: str) -> None:
        path = self._path(key)
        await self._write(f"delete of {key!r}", lambda _: _delete(path))

    async def delete_many(self, keys: Sequence[str]) -> None:
        check_deletes(keys)
        for key in keys:
            await self.delete(key)

    async def stat(self, key: str) -> ObjectStat | None:
        path = self._path(key)
        return await self._read(f"stat of {key!r}", lambda _: self._stat(path, key))

    async def sweep_uploads(self, older_than_s: float) -> int:
        before = time.time() - older_than_s
        return await self._write("sweep of unfinished puts", lambda deadline: self._sweep(before, deadline))

    async def close(self) -> None:
        self._reads.close()
        self._writes.close()

    # --- Threads and errors -------------------------------------------------------------------

    async def _read(self, what: str, call: Callable[[Deadline], T]) -> T:
        return await self._reads.run(what, self._settings.read_timeout_s, _translated(what, call))

    async def _write(self, what: str, call: Callable[[Deadline], T]) -> T:
        return await self._writes.run(what, self._settings.write_timeout_s, _translated(what, call))

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*check_key(key).split("/"))

    # --- Writing ------------------------------------------------------------------------------

    def _prepare(self, deadline: Deadline) -> None:
        incoming = self._root / INCOMING
        if not self._settings.create:
            if not self._root.is_dir():
                raise Misconfigured(f"{self._root} does not exist")
            return  # a reader leaves the directory as it is
        missing = [path for path in (incoming, *incoming.parents) if not path.exists()]
        try:
            incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Misconfigured(f"{self._root} cannot hold objects: {error.strerror}") from error
        for path in missing:
            _sync_directory(path.parent)
        self._sweep(time.time(), deadline)

    def _sweep(self, before: float, deadline: Deadline) -> int:
        """Remove files of abandoned puts that were not written to since `before`."""
        count = 0
        for path in (self._root / INCOMING).iterdir():
            deadline.check()
            count += _remove_if_abandoned(path, before)
        return count

    def _put(self, path: Path, key: str, data: Data, token: str, deadline: Deadline) -> ObjectStat:
        with self._written(data, deadline) as (temporary, status):
            self._make_directory(path.parent)
            os.rename(temporary, path)
            _sync_directory(path.parent)
        return self._remember(key, status, token)

    def _put_new(self, path: Path, key: str, data: Buffer, token: str, deadline: Deadline) -> ObjectStat:
        with self._written(data, deadline) as (temporary, status):
            self._make_directory(path.parent)
            try:
                os.link(temporary, path)
            except FileExistsError as error:
                raise AlreadyExists(key) from error
            _sync_directory(path.parent)
        return self._remember(key, status, token)

    @contextlib.contextmanager
    def _written(self, data: Data, deadline: Deadline) -> Iterator[tuple[Path, os.stat_result]]:
        """`data` in a synced file of ours, which is removed afterwards unless it has been renamed."""
        temporary, fd = self._new_file()
        try:
            _write_all(fd, data, deadline)
            os.fsync(fd)
            yield temporary, os.fstat(fd)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(fd)

    def _new_file(self) -> tuple[Path, int]:
        """A file of ours, locked, and its descriptor. Raises OSError."""
        for _ in range(FILES_TRIED_MAX):
            temporary = self._root / INCOMING / uuid.uuid4().hex
            fd = open_direct(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            with contextlib.ExitStack() as unless_ours:
                unless_ours.callback(os.close, fd)
                unless_ours.callback(temporary.unlink, missing_ok=True)
                with contextlib.suppress(BlockingIOError):  # a sweep looks at it
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_nlink:  # else one has removed it
                        unless_ours.pop_all()
                        return temporary, fd
        raise BlockingIOError(errno.EAGAIN, "sweeps take every new file", str(self._root / INCOMING))

    def _make_directory(self, directory: Path) -> None:
        """Make a directory below the root; all names on the way to it are synced when this returns.

        An existing one is synced, too, when first seen: its maker may have died before its sync.
        """
        with self._lock:
            if len(self._synced) > SYNCED_DIRECTORIES_MAX:
                self._synced.clear()
            path = self._root
            for name in directory.relative_to(self._root).parts:
                path = path / name
                if path not in self._synced:
                    path.mkdir(exist_ok=True)
                    _sync_directory(path.parent)
                    self._synced.add(path)

    # Tokens settle a put whose caller gave up while its thread went on. They mean nothing to another process.

    def _remember(self, key: str, status: os.stat_result, token: str) -> ObjectStat:
        etag = _etag(status)
        with self._lock:
            self._tokens[key] = (etag, token)
            self._tokens.move_to_end(key)
            if len(self._tokens) > TOKENS_KEPT_MAX:
                self._tokens.popitem(last=False)
        return ObjectStat(size=status.st_size, etag=etag, modified_ms=status.st_mtime_ns // 1_000_000, token=token)

    def _stat(self, path: Path, key: str) -> ObjectStat | None:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not file_types.S_ISREG(status.st_mode):
            return None
        etag = _etag(status)
        with self._lock:
            known, token = self._tokens.get(key, ("", ""))
        return ObjectStat(
            size=status.st_size,
            etag=etag,
            modified_ms=status.st_mtime_ns // 1_000_000,
            token=token if known == etag else "",
        )

    # --- Listing ------------------------------------------------------------------------------

    def _walk(self, directory: Path, base: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Files below `directory`, whose keys begin with `base`, in the order of their keys."""
        try:
            with os.scandir(directory) as entries:
                # A directory's keys go on with a slash, and sort by it: "a-b" comes before "a/b".
                names = sorted(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name for e in entries)
        except FileNotFoundError:
            return
        for name in names:
            key = base + name
            if name.startswith("."):
                continue
            if name.endswith("/"):
                above, passed = prefix.startswith(key), key < after and not after.startswith(key)
                if (above or key.startswith(prefix)) and not passed:
                    yield from self._walk(directory / name[:-1], key, prefix, after)
            elif key.startswith(prefix) and key > after:
                with contextlib.suppress(FileNotFoundError):
                    status = (directory / name).stat()
                    yield ObjectInfo(key=key, size=status.st_size, modified_ms=status.st_mtime_ns // 1_000_000)


def _translated(what: str, call: Callable[[Deadline], T]) -> Callable[[Deadline], T]:
    """The same call, raising StorageError only."""

    def translated(deadline: Deadline) -> T:
        try:
            return call(deadline)
        except OSError as error:
            raise _storage_error(what, error) from error

    return translated


def _storage_error(what: str, error: OSError) -> StorageError:
    where = f" ({error.filename})" if error.filename else ""
    message = f"{what}: {error.strerror or error}{where}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(message)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(message)
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return Misconfigured(message)
    return Unavailable(message)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _write_all(fd: int, data: Data, deadline: Deadline) -> None:
    blocks, size = BlockWriter(), 0
    blocks.begin(fd, 0)
    for part in open_data(data):
        deadline.check()
        blocks.stage(part)
        size += len(part)
    blocks.flush()
    os.ftruncate(fd, size)


def _read_range(path: Path, key: str, start: int, length: int, deadline: Deadline) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFound(key) from error
    try:
        status = os.fstat(fd)
        if not file_types.S_ISREG(status.st_mode):
            raise ObjectNotFound(key)
        size = status.st_size
        if start + length > size:
            _check_named(fd, key)
            raise Corrupt(key, size, f"ends here, but bytes up to {start + length} were expected")
        data = os.pread(fd, length, start)
        while len(data) < length:  # one call reads at most 2 GiB
            deadline.check()
            more = os.pread(fd, length - len(data), start + len(data))
            if not more:
                _check_named(fd, key)
                raise Corrupt(key, start + len(data), "was cut while it was read")
            data += more
        return data
    finally:
        os.close(fd)


def _check_named(fd: int, key: str) -> None:
    """Raise ObjectNotFound if the file was deleted since it was opened: then it is short because it is given back."""
    if not os.fstat(fd).st_nlink:
        raise ObjectNotFound(key)


def _delete(path: Path) -> None:
    """Sync the directory in any case: an earlier call may have removed the file and not yet synced."""
    with contextlib.ExitStack() as afterwards:
        with contextlib.suppress(OSError):  # without a descriptor, its blocks are given back at once
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            afterwards.callback(os.close, fd)
            afterwards.callback(_give_back, fd)
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            path.unlink()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _sync_directory(path.parent)


def _give_back(fd: int) -> None:
    with contextlib.suppress(OSError):  # the file is deleted already, which is all that was promised
        give_back(fd)


def _remove_if_abandoned(path: Path, before: float) -> bool:
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_mtime > before:
                return False  # and not locked: its writer is about to do that
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_mtime <= before:
                path.unlink()
                return True
        finally:
            os.close(fd)
    return False


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
