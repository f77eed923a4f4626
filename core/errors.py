"""Every error that the store raises, each with what its caller must do about it."""

from __future__ import annotations

import enum
from pathlib import Path


class ErrorKind(enum.Enum):
    """The caller's duty, not the cause. Kafka's codes and exit codes follow from it where nothing else counts."""

    RETRY = enum.auto()  # nothing was lost; the same call may be sent again
    INVALID = enum.auto()  # the call itself is wrong; sending it again changes nothing
    FENCED = enum.auto()  # another owner has the container; drop it, never retry
    CORRUPT = enum.auto()  # stored bytes fail their checks; stop serving the range
    CONFIG = enum.auto()  # the store was opened without something that it needs; the operator must act
    FAILED = enum.auto()  # storage failed under us; the process must end, a restart recovers


class StoreError(Exception):
    """Base of the store's errors; `kind` says what to do."""

    kind: ErrorKind = ErrorKind.INVALID


class StreamExists(StoreError):
    """A stream of that name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stream {name!r} exists already")
        self.name = name


class NameCollides(StoreError):
    """The name differs from that of another stream by `.` and `_` alone."""

    def __init__(self, name: str, other: str) -> None:
        super().__init__(f"stream {name!r} collides with stream {other!r}, which exists: name it otherwise")
        self.name, self.other = name, other


class UnknownStream(StoreError):
    """No such stream, or it has been deleted."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stream {name!r} does not exist")
        self.name = name


class Stale(StoreError):
    """Another process has changed the stream, or this kind of settings, meanwhile. Look at what is there now, and
    decide again."""

    kind = ErrorKind.RETRY

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} was changed by another process meanwhile")
        self.name = name


class StreamSealed(StoreError, ValueError):
    """The stream takes no more entries, and never will. It cannot be scaled either."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stream {name!r} is sealed: it can be read, and takes no more entries")
        self.name = name


class OutOfRange(StoreError):
    """A sequence number outside the range that a slot holds."""

    def __init__(self, offset: int, start: int, end: int) -> None:
        super().__init__(f"offset {offset} lies outside of [{start}, {end}]")
        self.offset, self.start, self.end = offset, start, end


class StaleWriterEpoch(StoreError):
    """The writer's epoch is behind one that this slot has already seen."""

    def __init__(self, writer_id: int, epoch: int, current: int) -> None:
        super().__init__(f"writer {writer_id} came with epoch {epoch}, the slot knows {current}")
        self.writer_id, self.epoch, self.current = writer_id, epoch, current


class SequenceGap(StoreError):
    """A writer's sequence does not follow the last one appended."""

    def __init__(self, writer_id: int, expected: int, got: int) -> None:
        super().__init__(f"writer {writer_id} came with sequence {got}, expected {expected}")
        self.writer_id, self.expected, self.got = writer_id, expected, got


class TooManyWriters(StoreError):
    """The writer is new to this slot, and all slots together already know as many writers as they may."""

    kind = ErrorKind.RETRY

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} writers are known, as many as there may be: a new one has to wait")
        self.limit = limit


class StorageFull(StoreError):
    """No room for the next log file; reads go on, writes may be tried again."""

    kind = ErrorKind.RETRY


class StorageFailure(StoreError):
    """A write or sync failed: the log is poisoned and acknowledges nothing further."""

    kind = ErrorKind.FAILED


class Deposed(StorageFailure):
    """Another owner has the container. What was on its way is in the log that it reads, or is not: it can tell."""

    kind = ErrorKind.FENCED

    def __init__(self, container_id: int, why: str) -> None:
        super().__init__(f"another gateway has taken over container {container_id}: {why}")
        self.container_id = container_id


class StoreClosed(StoreError):
    """The store is stopping or has stopped."""

    kind = ErrorKind.RETRY


class NotHosted(StoreError):
    """The container is not open in this process: it was closed, or another process has it."""

    kind = ErrorKind.FENCED

    def __init__(self, container_id: int) -> None:
        super().__init__(f"container {container_id} is not open here")
        self.container_id = container_id


class SlotMoves(NotHosted):
    """The slot is on its way to another container, or has come there: find it anew, and send the call again."""

    kind = ErrorKind.RETRY

    def __init__(self, stream: str, number: int, container_id: int) -> None:
        super().__init__(container_id)
        self.args = (f"slot {number} of stream {stream!r} leaves container {container_id}",)


class CannotMove(StoreError, ValueError):
    """The slot cannot be moved to that container, and stays where it is."""

    def __init__(self, stream: str, number: int, why: str) -> None:
        super().__init__(f"slot {number} of stream {stream!r} stays where it is: {why}")
        self.why = why


class NotMovedYet(StoreError):
    """The move of a slot did not come to its end, and was taken back: the slot stays where it is. Try it again."""

    kind = ErrorKind.RETRY

    def __init__(self, stream: str, number: int, why: str) -> None:
        super().__init__(f"slot {number} of stream {stream!r} has not moved, and may be moved later: {why}")


class CoordinatorAway(StoreError):
    """The coordinator of the cluster does not answer just now. What was asked may have happened, or may still."""

    kind = ErrorKind.RETRY


class CoordinatorRefuses(StoreError):
    """The coordinator of the cluster answers, and will not do what was asked: rights, certificates, bounds."""

    kind = ErrorKind.CONFIG


class Corrupt(StoreError):
    """Stored bytes fail their checks. Names the file, the position and what to do."""

    kind = ErrorKind.CORRUPT

    def __init__(self, path: Path, position: int, why: str, advice: str) -> None:
        super().__init__(f"{path} at byte {position}: {why}. {advice}")
        self.path, self.position, self.why = path, position, why


class CorruptLog(Corrupt):
    """The durable log holds damage below a position that was acknowledged as synced."""


class TierUnavailable(StoreError):
    """Long-term storage cannot be reached just now; nothing that lies there is lost."""

    kind = ErrorKind.RETRY


class TierMissing(StoreError):
    """The store was opened without the long-term storage that holds a part of it."""

    kind = ErrorKind.CONFIG

    def __init__(self) -> None:
        super().__init__("a part of this store lies in long-term storage, and none is configured: name the one it had")


class MissingChunk(StoreError):
    """An object that the store refers to is gone from long-term storage."""

    kind = ErrorKind.CORRUPT

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"object {key!r} is gone from long-term storage, with {what}. Put it back from a backup")
        self.key = key


class CorruptChunk(StoreError):
    """An object in long-term storage differs from the one that was put."""

    kind = ErrorKind.CORRUPT

    def __init__(self, key: str, position: int, why: str) -> None:
        super().__init__(f"object {key!r} at byte {position}: {why}. Put the object back from a backup")
        self.key, self.position, self.why = key, position, why


class CorruptState(StoreError):
    """The applied state (RocksDB) contradicts the log."""

    kind = ErrorKind.CORRUPT


class AlreadyLocked(StoreError):
    """Another process owns the data directory."""

    kind = ErrorKind.FENCED

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__(f"{path} is in use by {owner}; stop that process or use another directory")
        self.path, self.owner = path, owner
