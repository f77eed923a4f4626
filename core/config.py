"""The store's settings: one frozen object, filled by the process that runs the store."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB

FIRST_FILE_BYTES_MIN = 16 * MIB
"""The least that many containers make of the size of their first log files."""
LOG_FILES_MIN = 4
"""The least files in `log_max_bytes`."""
LOG_FILE_ENTRIES_MIN = 50_000
READ_CACHE_BYTES_MIN = 8 * MIB
"""Less does not hold what a few readers of the log go through."""


class SyncMode(enum.Enum):
    """When an append counts as durable."""

    GROUP = "group"  # synced to disk, many appends in one sync
    INTERVAL = "interval"  # written to the operating system; synced every interval
    NEVER = "never"  # not by these files: they are a copy, which a start makes anew


class LogStore(enum.Enum):
    """Where the log lies."""

    DISK = "disk"  # in files of this machine
    OBJECT = "object"  # in long-term storage; the files are a copy


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Sizes in bytes, times in milliseconds unless the name says otherwise."""

    container_ids: tuple[int, ...] = (0,)
    directories: tuple[Path, ...] = ()  # of the store, one a disk: containers are spread over them in turn
    log_store: LogStore = LogStore.DISK
    log_object_linger_ms: int = -1  # between two puts of log objects at least; -1: by the store's answers
    log_object_inflight: int = 4  # puts of log objects at a time
    sync_mode: SyncMode = SyncMode.GROUP
    sync_interval_ms: int = 50
    log_file_bytes: int = 64 * MIB
    log_first_file_bytes: int = 0  # of a log that no load has hurried yet (`core.log.spares`); 0: as all files
    log_file_entries_max: int = 500_000  # bounds the index of the open file: 24 bytes an entry
    cache_bytes: int = 256 * MIB
    index_cache_bytes: int = 32 * MIB
    log_read_cache_bytes: int = 64 * MIB  # pages of complete log files
    checkpoint_interval_ms: int = 10_000
    checkpoint_log_bytes: int = 256 * MIB
    retention_check_interval_ms: int = 300_000
    writer_expiration_ms: int = 86_400_000
    writers_max: int = 500_000  # known in all slots together; a writer counts once for each slot that knows it
    log_reader_threads: int = 8
    scaler_sample_ms: int = 1_000  # between two samples of the rates
    scaler_time_factor: float = 1.0  # multiplies every window and cool-down of the scaler
    rocksdb_cache_bytes: int = 8 * MIB
    rocksdb_write_buffer_bytes: int = 8 * MIB

    # Tiering; without effect where there is no long-term storage
    chunk_bytes: int = 32 * MIB
    chunk_age_ms: int = 300_000
    log_max_bytes: int = 4 * GIB
    tier2_uploads: int = 4  # at a time
    tier2_verify_delay_ms: int = 30_000  # the storage may lose an object that it has just acknowledged
    tier2_abandoned_ms: int = 3_600_000  # how late an abandoned upload may still arrive
    tier2_snapshot_interval_ms: int = 60_000
    tier2_scrub_interval_ms: int = 604_800_000  # between two passes over all chunks; 0: none
    file_delete_delay_ms: int = 60_000  # objects that nothing refers to any more stay for late readers
    rewrite_interval_ms: int = 15_000  # between two looks for chunks that are worth rewriting
    tier2_cache_bytes: int = 64 * MIB
    tier2_disk_cache_bytes: int = 0
    tier2_read_ahead_bytes: int = 24 * MIB

    @property
    def first_file_bytes(self) -> int:
        """The size of a log file while the next one is filled with zeros before it is needed."""
        return self.log_first_file_bytes or self.log_file_bytes

    def place(self, directory: Path, container_id: int) -> Path:
        """The directory that holds a container of the store in `directory`."""
        places = self.directories or (directory,)
        return places[self.container_ids.index(container_id) % len(places)]

    def share(self) -> StoreConfig:
        """The settings of one container: all have the same share of what is bounded for the store."""
        count = len(self.container_ids)
        if count == 1:
            return self

        log_max_bytes = max(MIB, self.log_max_bytes // count)

        def part(size: int, least: int) -> int:
            return min(size, max(least, size // count))

        # The log is cut by whole files, and has room for more while a chunk is made.
        first = min(part(self.log_file_bytes, FIRST_FILE_BYTES_MIN), max(MIB, log_max_bytes // LOG_FILES_MIN))
        return replace(
            self,
            log_file_bytes=max(first, min(self.log_file_bytes, log_max_bytes // (2 * LOG_FILES_MIN))),
            log_first_file_bytes=first,
            chunk_bytes=min(self.chunk_bytes, log_max_bytes // 2),
            log_file_entries_max=part(self.log_file_entries_max, LOG_FILE_ENTRIES_MIN),
            cache_bytes=part(self.cache_bytes, MIB),
            index_cache_bytes=part(self.index_cache_bytes, MIB),
            log_read_cache_bytes=part(self.log_read_cache_bytes, READ_CACHE_BYTES_MIN),
            checkpoint_log_bytes=part(self.checkpoint_log_bytes, MIB),
            log_reader_threads=part(self.log_reader_threads, 1),
            rocksdb_cache_bytes=part(self.rocksdb_cache_bytes, MIB),
            rocksdb_write_buffer_bytes=part(self.rocksdb_write_buffer_bytes, MIB),
            log_max_bytes=log_max_bytes,
            tier2_uploads=part(self.tier2_uploads, 1),
            tier2_cache_bytes=part(self.tier2_cache_bytes, MIB),
            tier2_disk_cache_bytes=self.tier2_disk_cache_bytes // count,
            tier2_read_ahead_bytes=part(self.tier2_read_ahead_bytes, MIB),
        )
