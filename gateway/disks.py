"""The directories of one store, one a disk, and how many containers it has: fixed when the store is made.

Containers are spread over the directories in turn: container `c` of directories 0 to n - 1 lies in directory `c mod n`.
Directory 0 is `data.dir`, whose penstock.json has both numbers. Each further one has a penstock.json that names the
cluster and its place, and a lock:

    {"cluster_id": "<22 characters>", "directory": 1, "directories": 2, "format": 4, "needs_release": "0.1.0"}

Keeps: a directory that is missing, in another place or of another store is refused by name, before anything is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from core.errors import AlreadyLocked
from gateway.config.model import Config
from gateway.config.places import STORE_DIRECTORY
from gateway.durable_files import make_directory, write_atomically
from gateway.exits import CannotGoOn

DISK_FILE: Final = "penstock.json"
DISK_LOCK: Final = "penstock.lock"
DISK_BYTES_MAX: Final = 64 * 1024
FORMAT: Final = 4
"""The format of a store with several containers, and of its further directories."""
NEEDS_RELEASE: Final = "0.1.0"
"""The first release that reads it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The numbers of containers and of directories of a store."""

    containers: int = 1
    directories: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether earlier releases read such a store."""
        return self == Layout()

    def fields(self) -> dict[str, int]:
        """The fields of the penstock.json of directory 0, beside its other ones."""
        return {} if self.is_plain else {"containers": self.containers, "directories": self.directories}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the configuration asks for. `containers`: None takes those of the store; a new one has one a directory."""

    containers: int | None = None
    further: tuple[Path, ...] = ()  # all of data.dirs but the first
    at_least: int = 1
    """The fewest containers of a new store, if nothing is said of them."""

    def layout(self) -> Layout:
        """The layout of a new store."""
        count = 1 + len(self.further)
        return Layout(self.containers or max(count, self.at_least), count)


def wanted_of(config: Config) -> Wanted:
    """The layout that a configuration asks for."""
    return Wanted(config.containers or None, config.data_dirs[1:], config.workers or processors())


def processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


class OtherLayout(CannotGoOn):
    """The store was made with other numbers."""


class UnusableDisk(CannotGoOn):
    """A further directory is not the one that the store had there."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(f"data.dirs: {directory} {why}. Nothing was changed")


def layout_of(fields: dict[str, Any]) -> Layout:
    """The layout in a penstock.json. Raises ValueError."""
    containers, directories = fields.get("containers", 1), fields.get("directories", 1)
    for name, number in (("containers", containers), ("directories", directories)):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} is {number!r}, no number from 1 on")
    return Layout(containers, directories)


def check_wanted(path: Path, made: Layout, wanted: Wanted) -> None:
    """Raises OtherLayout when the configuration asks for something else than a store has."""
    if wanted.containers not in (None, made.containers):
        raise OtherLayout(
            f"containers = {wanted.containers}, but {path} was made with {made.containers}, which cannot be changed: "
            f"set containers = {made.containers} or leave it out. For another number make a new data directory, and "
            "copy the topics"
        )
    if made.directories != 1 + len(wanted.further):
        raise OtherLayout(
            f"data.dirs names {1 + len(wanted.further)}, but {path} was made with {made.directories}, which cannot be "
            "changed: name all of them, in the order in which they were named then"
        )


def open_disks(cluster_id: str, layout: Layout, wanted: Wanted, *, fresh: bool) -> tuple[tuple[Path, ...], list[int]]:
    """Check and own the further directories; make them for a `fresh` store. Returns them, and their locks."""
    directories = tuple(path.absolute() for path in wanted.further)
    locks: list[int] = []
    try:
        for place, path in enumerate(directories, 1):
            _check(path, cluster_id, place, layout.directories, fresh=fresh)
        for place, path in enumerate(directories, 1):
            locks.append(_own(path))
            if not (path / DISK_FILE).exists():
                _write(path, cluster_id, place, layout.directories)
    except BaseException:
        for lock in locks:
            os.close(lock)
        raise
    return directories, locks


def refuse_as_first(path: Path, fields: dict[str, Any]) -> None:
    """Raises UnusableDisk when a penstock.json is that of a further directory, ValueError when it names none."""
    if (place := fields.get("directory")) is not None:
        if not isinstance(place, int):
            raise ValueError(f"directory is {str(place)[:40]!r}, no number")
        raise UnusableDisk(
            path, f"is directory {place + 1} of a store that has {fields.get('directories')}: name the first one first"
        )


def _check(path: Path, cluster_id: str, place: int, count: int, *, fresh: bool) -> None:
    fields = _read(path)
    if fields is None:
        if not fresh:
            raise UnusableDisk(path, "is not there, or is empty: this store has a directory there. Mount its disk")
        if (path / STORE_DIRECTORY).exists():
            raise UnusableDisk(path, f"holds a store of which {DISK_FILE} is missing: name an empty directory")
        return
    if fields.get("cluster_id") != cluster_id:
        raise UnusableDisk(path, f"belongs to another store, of cluster {str(fields.get('cluster_id'))[:40]}")
    found = fields.get("directory", 0)
    if found != place:
        raise UnusableDisk(
            path, f"is directory {found + 1} of this store, and is named as directory {place + 1}: keep their order"
        )
    if fields.get("directories") != count:
        raise UnusableDisk(path, f"is one of {fields.get('directories')} directories, and {count} are named")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with (path / DISK_FILE).open("rb") as file:
            fields = json.loads(file.read(DISK_BYTES_MAX))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableDisk(path, f"cannot be used: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableDisk(path, f"has a {DISK_FILE} that is not JSON ({error}): put it back from a backup") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("directory", 0), int):
        raise UnusableDisk(path, f"has a {DISK_FILE} that Penstock did not write: put it back from a backup")
    return fields


def _own(path: Path) -> int:
    try:
        make_directory(path)
        lock = os.open(path / DISK_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnusableDisk(path, f"cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            raise AlreadyLocked(path, "another process") from None
        raise
    return lock


def _write(path: Path, cluster_id: str, place: int, count: int) -> None:
    fields = {
        "cluster_id": cluster_id,
        "directory": place,
        "directories": count,
        "format": FORMAT,
        "needs_release": NEEDS_RELEASE,
    }
    write_atomically(path / DISK_FILE, json.dumps(fields, indent=2).encode() + b"\n")


def write_disks(cluster_id: str, layout: Layout, further: Sequence[Path]) -> None:
    """Name the further directories of a store that was made in another way than by a start."""
    for place, path in enumerate(further, 1):
        with contextlib.suppress(FileExistsError):
            make_directory(path)
        _write(path, cluster_id, place, layout.directories)
