"""The interface between a log and the writer of its bytes: the log's requests, and the writer's reports.

`DurableLog` decides the place of each frame and tells waiters. A `LogWriter` makes the bytes last: on a disk
(`core.log.writer`), or elsewhere. One writer serves one log. It never looks inside a frame.

**Threads.** All methods of a `LogWriter` are for the event loop's thread. None blocks it; slow work happens elsewhere.
`LogReports` is called on the event loop, never from within a call of the writer.

**Invariants that each writer keeps**

- Bytes are made to last in the order in which they were given, across files too.
- Bytes are reported as synced only if the sync began after the last of them was written, and has succeeded.
- One write, one sync and one report may do for several groups: the report names the end of the last.
- A failure is final and is reported once. Nothing is written or synced after it; a report that was on its way may
  still come, and the log ignores it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from core.errors import StorageFailure
from core.log.format import Buffer, FileHeader
from core.log.log_file import LogFile, LogPosition
from core.log.slabs import FileImage

SYNC_BUCKETS_S: Final[tuple[float, ...]] = (
    *(0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0),
)
"""Upper bounds of the sync time histogram, seconds."""


@dataclass(slots=True)
class SyncStats:
    """Counters for the operator, since the start. The writing thread changes them, any thread may read them."""

    syncs: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SYNC_BUCKETS_S) + 1))

    def observe(self, seconds: float) -> None:
        self.syncs += 1
        self.seconds += seconds
        for index, bound in enumerate(SYNC_BUCKETS_S):
            if seconds <= bound:
                self.buckets[index] += 1
                return
        self.buckets[-1] += 1


class LogReports(Protocol):
    """The log's ear for its writer, on the event loop."""

    def on_filled(self, lsn: int) -> None:
        """All frames up to here are in their files' images, and can be read; nothing is said of how long they last. A
        writer whose next report says more need not say this."""

    def on_written(self, end: LogPosition) -> None:
        """All up to here is written, and counts as durable if the log does not wait for syncs."""

    def on_synced(self, lsn: int) -> None:
        """All frames up to here are synced."""

    def on_written_and_synced(self, end: LogPosition) -> None:
        """One group is written and synced: both of the above."""

    def on_rolled(self, old: LogFile) -> None:
        """This file is complete and synced, and the next one has its name."""

    def on_failed(self, error: StorageFailure) -> None:
        """A write or sync failed: only what was reported can be relied on."""


class NewWriter(Protocol):
    """A factory of one log's writer: it decides where the bytes go."""

    def __call__(self, size: int, reports: LogReports) -> LogWriter:
        """One whose files have room for `size` bytes, and which reports to `reports`. It is not started yet."""


class LogWriter(Protocol):
    """The writer of one log, which makes its bytes last."""

    @property
    def stats(self) -> SyncStats:
        """Counters of writes, and of the time that syncs took; the same object as long as the writer lives."""

    @property
    def next_room(self) -> int | None:
        """The next file's room, bytes, with its header; None while there is no next file."""

    @property
    def is_full(self) -> bool:
        """Whether storage had no room for the next file when last asked. The writer asks again by itself."""

    @property
    def hindrance(self) -> str:
        """The lack that holds up the next file (of descriptors, memory, rights); empty if there is none."""

    async def start(self) -> None:
        """Make the first file ready; then `next_room` is known. Call it once, before all else.

        Raises StorageFailure if storage refuses, OSError if this process lacks something. `close` must follow.
        """

    def can_grow(self, size: int) -> bool:
        """Whether the open file may grow to `size` bytes, beyond the room that it began with."""

    def roll(self, header: FileHeader, image: FileImage, old: LogFile | None) -> int:
        """End the open file `old` behind all that was given until now, and begin the next; returns its room, bytes.

        Only while `next_room` is not None. What is given for the next file goes into `image`. `old` has its final size;
        None for the first file.
        """

    def write(self, buffers: list[Buffer], end: LogPosition) -> None:
        """Write a group, which ends at `end`, behind the earlier ones. The writer owns the list from here on.

        The file's image has slabs for it. The buffers must not change any more. A log bounds what it gives before a
        report by its files' room.
        """

    def sync(self) -> None:
        """Sync all bytes given so far at once, when syncs would otherwise come by the interval only."""

    async def close(self) -> None:
        """Write and sync all bytes given, then end. All reports have been made when this returns."""
