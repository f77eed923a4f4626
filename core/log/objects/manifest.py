"""A checkpoint in the object store: the applied state's files, and the place from which the log goes on behind them.

The manifest is JSON, put last; it names the files, each with size and CRC-32C. The keys of a
container's manifests sort by the place where the log begins: the last one is the newest.

**Invariants**

- Objects of the log are removed only below the start of a manifest that is stored. So the newest manifest's log is
  whole, and an older one's may be cut at any time: whoever meets a missing object begins anew with the newest.
- Files lie below their owner's epoch, and a manifest names files of its own epoch only. So an owner that was deposed
  can remove no file that a later one counts on.
- Nor the other way round: a deposed owner may store a manifest late, which is then the newest, and cut the log by it.
  Its log ended where a later epoch began. So its manifest cannot be newer than one whose log begins in a later epoch,
  and only behind such a one are its files removed by others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from core.errors import StorageFailure
from core.log.objects.protocol import GENESIS, Place
from tier2.storage import Storage

FORMAT: Final = 1
MANIFEST_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class StateFile:
    """A file of the applied state, by its path below the container's directory."""

    path: str
    key: str
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds. The log begins at `start`; the state reflects it up to `lsn`."""

    start: Place
    epoch: int
    lsn: int
    files: tuple[StateFile, ...]

    def encode(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"


def manifests_prefix(container: int) -> str:
    """What the keys of all manifests of a container begin with."""
    return f"state/{container}/manifests/"


def manifest_key(container: int, manifest: Manifest) -> str:
    """The key of a manifest."""
    start = manifest.start
    return f"{manifests_prefix(container)}{start.lsn:020d}-{start.epoch:020d}-{manifest.epoch:020d}-{manifest.lsn:020d}"


def files_prefix(container: int) -> str:
    """What the keys of all state files of a container begin with; the epoch comes next, in 20 digits."""
    return f"state/{container}/files/"


def decode_manifest(key: str, data: bytes) -> Manifest:
    """Raises StorageFailure for one that is damaged, or of a later release."""
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}, this release reads {FORMAT}")
        files = tuple(StateFile(str(f["path"]), str(f["key"]), int(f["size"]), int(f["crc"])) for f in fields["files"])
        start = Place(int(fields["start"]["epoch"]), int(fields["start"]["lsn"]))
        return Manifest(start, int(fields["epoch"]), int(fields["lsn"]), files)
    except (ValueError, KeyError, TypeError) as error:
        raise StorageFailure(
            f"the checkpoint {key} cannot be read: {error}. Nothing was changed; "
            "restore the object from a copy of the bucket"
        ) from error


async def newest_manifest(storage: Storage, container: int) -> Manifest | None:
    """The newest checkpoint; None if there is none. Raises StorageFailure, StorageError (removed meanwhile)."""
    newest = None
    async for info in storage.list(manifests_prefix(container)):
        newest = info
    if newest is None:
        return None
    size = min(newest.size, MANIFEST_BYTES_MAX)
    return decode_manifest(newest.key, await storage.get_range(newest.key, 0, size))


async def newest_start(storage: Storage, container: int) -> Place:
    """The place where the newest checkpoint lets the log begin."""
    manifest = await newest_manifest(storage, container)
    return GENESIS if manifest is None else manifest.start
