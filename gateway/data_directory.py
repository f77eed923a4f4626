"""The data directory: its owner, its cluster and its format.

Keeps: one process at a time owns a directory; its cluster id never changes; a directory of a newer format
than this release's is refused, never guessed at. `penstock.json` is replaced as a whole or not at all.
Only the process's user may enter a directory that Penstock made.

    {"cluster_id": "<22 characters>", "format": 1, "needs_release": "0.1.0", "written_by": "0.1.0"}

`format` is the layout of everything below the directory, `needs_release` the first release that reads it. A store with
several containers or directories (`gateway.disks`) also has the fields `containers` and `directories`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from core.config import StoreConfig
from core.errors import AlreadyLocked
from gateway.config.model import Config
from gateway.config.places import (
    CACHE_DIRECTORY,
    RECOVERING_DIRECTORY,
    REGISTRY_FILE,
    STORE_DIRECTORY,
    TIER2_DIRECTORY,
)
from gateway.disks import FORMAT as SEVERAL_FORMAT
from gateway.disks import Layout, Wanted, check_wanted, layout_of, open_disks, refuse_as_first, write_disks
from gateway.durable_files import make_directory, sync_directory, write_atomically
from gateway.exits import CannotGoOn, ExitCode

IDENTITY_FILE: Final = "penstock.json"
LOCK_FILE: Final = "penstock.lock"
SERVING_FILE: Final = "serving.json"
"""Addresses that the directory's owner serves, for commands that ask it. Means nothing unless the lock is held."""
OWNER_FILE: Final = "tier2.owner"
"""See `gateway.long_term.ownership`."""
DRILL_DIRECTORY: Final = "tier2-drill"
"""A drill's place for chunks that would go to long-term storage; only a drill's data directory has it."""
REPAIRED_FILE: Final = "tier2.repaired"
"""Left by `penstock tier2 init` for the next start: another copy may have put objects into long-term storage."""

SCRAM_USERS_FILE: Final = "scram-users"
"""Users that `penstock users` added or deleted while no gateway ran; the next start takes them over."""

OWN_NAMES: Final = (
    IDENTITY_FILE,
    LOCK_FILE,
    SERVING_FILE,
    OWNER_FILE,
    SCRAM_USERS_FILE,
    REGISTRY_FILE,
    STORE_DIRECTORY,
    RECOVERING_DIRECTORY,
    TIER2_DIRECTORY,
    CACHE_DIRECTORY,
)
"""Names in a data directory that only Penstock uses."""

FORMAT: Final = 3
"""The layout that this release writes: 2 has transactions, 3 kept files and damaged ranges; `SEVERAL_FORMAT` is 3 with
several containers. Formats are never reused; all older ones are read."""
NEEDS_RELEASE: Final = "0.1.0"
"""The first release that reads FORMAT."""

IDENTITY_BYTES_MAX: Final = 64 * 1024
CLUSTER_ID_CHARS: Final = 22
PRIVATE_UMASK: Final = 0o077

logger = logging.getLogger(__name__)


class NewerFormat(CannotGoOn):
    """A later release has written this directory."""

    def __init__(self, directory: Path, written: int, release: str) -> None:
        super().__init__(
            f"{directory} has data format {written}, this release reads up to {SEVERAL_FORMAT}: use Penstock "
            f"{release} or later"
        )


class BadIdentity(CannotGoOn):
    """penstock.json is not as Penstock wrote it."""

    exit_code = ExitCode.CORRUPT

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}. The data beside it is not touched; put the file back from a backup")


class UnusableDirectory(CannotGoOn):
    """The directory cannot be made or entered."""

    def __init__(self, directory: Path, error: OSError) -> None:
        where = f" ({error.filename})" if error.filename and Path(error.filename) != directory else ""
        why = f"{error.strerror}{where}. Correct --data-dir or data.dir"
        super().__init__(f"data.dir {directory} cannot be used: {why}")


class InterruptedRecovery(CannotGoOn):
    """`penstock recover` began here and did not finish."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} holds an interrupted recovery: run `penstock recover` with the same flags again")


class NotEmpty(CannotGoOn):
    """A store cannot be recovered into this directory."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        super().__init__(
            f"{directory} is not empty, it holds {', '.join(sorted(names)[:3])}: `penstock recover` makes a data "
            "directory from nothing. Name another one, or move its contents away"
        )


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """An owned directory; released when the process ends or `release` is called."""

    path: Path
    cluster_id: str
    fresh: bool
    """It has never held a store."""
    layout: Layout
    further: tuple[Path, ...]
    """The other directories of the store."""
    _locks: tuple[int, ...]

    @property
    def stores(self) -> tuple[Path, ...]:
        """The directories of the segment store's containers, which are spread over them in turn."""
        return tuple(path / STORE_DIRECTORY for path in (self.path, *self.further))

    def store_config(self, config: Config) -> StoreConfig:
        """The store's settings, with its containers and where they lie."""
        settings = config.store_config()
        return replace(settings, container_ids=tuple(range(self.layout.containers)), directories=self.stores)

    def of_cluster(self, cluster_id: str, release: str) -> Self:
        """The same directory, which never held a store, as a part of that cluster. Blocks."""
        assert self.fresh, "the cluster id of a store never changes"
        _write_identity(self.path / IDENTITY_FILE, cluster_id, release, self.layout)
        return replace(self, cluster_id=cluster_id)

    @property
    def registry(self) -> Path:
        """The file that workers share; there is one once the directory was served by several."""
        return self.path / REGISTRY_FILE

    @property
    def locks(self) -> tuple[int, ...]:
        """The descriptors that hold the locks: whoever inherits them holds them too."""
        return self._locks

    @property
    def store(self) -> Path:
        """The directory of the segment store's files."""
        return self.path / STORE_DIRECTORY

    @classmethod
    def acquire(cls, path: Path, release: str, wanted: Wanted | None = None) -> Self:
        """Make the directory if need be, own it and the further ones, and read or write its identity.

        Without `wanted` it may have whatever layout it has, if that has one directory.
        """
        wanted = wanted or Wanted()
        path = path.absolute()
        try:
            make_directory(path)
            lock = _lock(path / LOCK_FILE)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise  # the disk's fault, not the configuration's
            raise UnusableDirectory(path, exc) from exc
        try:
            if (path / RECOVERING_DIRECTORY).exists():
                raise InterruptedRecovery(path)
            close_to_others(path)
            (path / SERVING_FILE).unlink(missing_ok=True)
            cluster_id, layout = _identity(path, release, wanted)
            fresh = not (path / STORE_DIRECTORY).exists()
            further, locks = open_disks(cluster_id, layout, wanted, fresh=fresh)
            return cls(path, cluster_id, fresh, layout, further, (lock, *locks))
        except BaseException:
            os.close(lock)
            raise

    def release(self) -> None:
        """Let another process have it."""
        for lock in self._locks:
            os.close(lock)


@dataclass(frozen=True, slots=True)
class RecoveryDirectory:
    """An owned directory that is to become a data directory, all of it or nothing."""

    path: Path
    _lock: int

    @classmethod
    def begin(cls, path: Path, beside: Path | None, further: Sequence[Path] = ()) -> Self:
        """Own a directory without a store, and remove what an earlier try left; `beside` may lie in it.

        `further`: the other directories of the store. One that has a store is refused, unless an earlier try may have
        put it there.
        """
        path = path.absolute()
        try:
            make_directory(path)
            lock = _lock(path / LOCK_FILE)
        except OSError as exc:
            raise UnusableDirectory(path, exc) from exc
        try:
            # An identity without a store is what a refused start leaves.
            ours = {
                LOCK_FILE,
                IDENTITY_FILE,
                SERVING_FILE,
                RECOVERING_DIRECTORY,
                OWNER_FILE,
                DRILL_DIRECTORY,
                "lost+found",
            }
            names = [entry.name for entry in path.iterdir() if entry.name not in ours and entry != beside]
            if names:
                raise NotEmpty(path, names)
            scratch = path / RECOVERING_DIRECTORY
            is_again = scratch.exists()
            for other in further:
                if (other / STORE_DIRECTORY).exists() and not is_again:
                    raise NotEmpty(other, [STORE_DIRECTORY])
            if is_again:
                shutil.rmtree(scratch)
            scratch.mkdir()
            sync_directory(path)
            return cls(path, lock)
        except BaseException:
            os.close(lock)
            raise

    @property
    def store(self) -> Path:
        """The directory in which the store is made."""
        return self.path / RECOVERING_DIRECTORY

    def finish(self, cluster_id: str, release: str, layout: Layout | None = None, further: Sequence[Path] = ()) -> None:
        """Make it a data directory: from the rename on, a start finds it whole.

        Containers that belong into `further` directories are moved there before, and named again by another try.
        """
        layout = layout or Layout()
        for place, other in enumerate(further, 1):
            self._move(other, range(place, layout.containers, layout.directories))
        write_disks(cluster_id, layout, further)
        for directory, _, names in os.walk(self.store):
            for name in names:
                _sync_file(Path(directory) / name)
            sync_directory(Path(directory))
        _write_identity(self.path / IDENTITY_FILE, cluster_id, release, layout)
        self.store.rename(self.path / STORE_DIRECTORY)
        sync_directory(self.path)

    def _move(self, other: Path, containers: Iterable[int]) -> None:
        store = other / STORE_DIRECTORY
        shutil.rmtree(store, ignore_errors=True)
        make_directory(store)
        for container in containers:
            made = self.store / f"container-{container}"
            shutil.copytree(made, store / made.name)
            shutil.rmtree(made)
        for directory, _, names in os.walk(store):
            for name in names:
                _sync_file(Path(directory) / name)
            sync_directory(Path(directory))

    def give_up(self) -> None:
        """Leave the directory as it was before."""
        shutil.rmtree(self.store, ignore_errors=True)

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def is_drill(directory: Path) -> bool:
    """Whether the store there is a drill's, which only reads its long-term storage."""
    return (directory / DRILL_DIRECTORY).is_dir()


def make_drill(directory: Path) -> None:
    """Make the store there a drill's, before it has its name, so that it never is anything else. Blocks."""
    (directory / DRILL_DIRECTORY).mkdir(exist_ok=True)
    sync_directory(directory)


def read_serving(directory: Path) -> str | None:
    """HTTP address of the process that owns a directory; None without an HTTP server, or while it is not ready."""
    try:
        address = json.loads((directory / SERVING_FILE).read_bytes())["http"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if isinstance(address, str) else None


def keep_to_ourselves() -> int:
    """Make all later files of this process private to its user; returns the former umask."""
    return os.umask(PRIVATE_UMASK)


def close_to_others(path: Path) -> None:
    """Close a data directory to other users, if an earlier release or `mkdir` made it open to them.

    A directory with other things in it is not ours to close, and another user's cannot be closed: a log line then says
    so.
    """
    open_to = path.stat().st_mode & 0o7777
    if not open_to & PRIVATE_UMASK:
        return
    shared = open_to & stat.S_ISVTX or (
        not (path / IDENTITY_FILE).exists() and {entry.name for entry in path.iterdir()} - {LOCK_FILE, "lost+found"}
    )
    why = "it holds other things"
    if not shared:
        try:
            path.chmod(open_to & ~PRIVATE_UMASK)
        except OSError as exc:
            why = exc.strerror or "refused"
        else:
            logger.info("the data directory is closed to other users now", extra={"data_dir": str(path)})
            return
    logger.warning(
        "other users of this machine may enter the data directory: chmod 700 keeps records to its owner",
        extra={"data_dir": str(path), "mode": f"{open_to:04o}", "left_open": why},
    )


def new_cluster_id() -> str:
    """A random UUID as Kafka writes it: URL-safe base64, 22 characters, no leading dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _lock(path: Path) -> int:
    """Take the directory's lock, and write our pid into it for the message of a second process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.closing(os.fdopen(fd)) as file:
            owner = file.read(32).strip()
        named = f"process {owner}" if owner.isdecimal() else "another process"
        raise AlreadyLocked(path.parent, named) from None
    except OSError:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _identity(directory: Path, release: str, wanted: Wanted) -> tuple[str, Layout]:
    """The cluster id and the layout, from the file or new."""
    path = directory / IDENTITY_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(IDENTITY_BYTES_MAX + 1)
    except FileNotFoundError:
        if (directory / STORE_DIRECTORY).exists():
            raise BadIdentity(path, "is missing") from None
        cluster_id, layout = new_cluster_id(), wanted.layout()
        _write_identity(path, cluster_id, release, layout)
        return cluster_id, layout
    except OSError as exc:
        raise UnusableDirectory(directory, exc) from exc
    cluster_id, written, layout = _parsed_identity(path, raw)
    if not (directory / STORE_DIRECTORY).exists() and layout != wanted.layout():  # a start that made no store
        layout = wanted.layout()
        written = 0
    check_wanted(directory, layout, wanted)
    if written < FORMAT:  # before anything is written that an older release would misread
        _write_identity(path, cluster_id, release, layout)
    return cluster_id, layout


def _write_identity(path: Path, cluster_id: str, release: str, layout: Layout) -> None:
    identity = {
        "cluster_id": cluster_id,
        "format": FORMAT if layout.is_plain else SEVERAL_FORMAT,
        "needs_release": NEEDS_RELEASE,
        "written_by": release,
        **layout.fields(),
    }
    write_atomically(path, json.dumps(identity, indent=2).encode() + b"\n")


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _parsed_identity(path: Path, raw: bytes) -> tuple[str, int, Layout]:
    """The cluster id, the format and the layout."""
    try:
        identity = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise BadIdentity(path, f"is not JSON ({exc})") from exc
    if not isinstance(identity, dict):
        raise BadIdentity(path, "is not a JSON object")
    written = identity.get("format")
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise BadIdentity(path, f"format is {written!r}, no number from 1 on")
    if written > SEVERAL_FORMAT:
        raise NewerFormat(path.parent, written, str(identity.get("needs_release", "a newer one")))
    cluster_id = identity.get("cluster_id")
    if not isinstance(cluster_id, str) or len(cluster_id) != CLUSTER_ID_CHARS:
        raise BadIdentity(path, "cluster_id is not a string of 22 characters")
    try:
        refuse_as_first(path.parent, identity)
        return cluster_id, written, layout_of(identity)
    except ValueError as exc:
        raise BadIdentity(path, str(exc)) from exc
