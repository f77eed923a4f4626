"""The configuration keys of the log: its syncs, files, caches and checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from gateway.config.fields import INT_MAX, LONG_MAX
from gateway.config.units import DAY_MS, GIB, HOUR_MS, MIB, SECOND_MS


class LogKeys(BaseModel):
    """Part of `Config`."""

    log_store: Literal["disk", "object"] = Field(
        "disk",
        description="disk: the log lies in files of this machine. object: it lies in long-term storage; a write is "
        "acknowledged once it is stored there, and the data directory may vanish. Fixed when a data directory is made.",
    )
    log_object_linger_ms: int = Field(
        -1,
        ge=-1,
        le=10_000,
        description="With log.store=object: least time between the beginnings of two puts of a container, which bounds "
        "their number and so their price. -1: 1 ms while the store answers within 10 ms, else a quarter of "
        "its answer's time, 50 ms at most.",
    )
    log_object_inflight: int = Field(
        4,
        ge=1,
        le=64,
        description="With log.store=object: puts of a container that are on their way at a time.",
    )
    log_object_timeout_ms: int = Field(
        10 * SECOND_MS,
        ge=100,
        le=HOUR_MS,
        description="With log.store=object: longest time of one try to put a part of the log. The same put is then "
        "sent again, until its outcome is known. Allow for 4 MiB at the speed of your store.",
    )
    log_sync_mode: Literal["group", "interval"] = Field(
        "group",
        description="group: a write is synced to disk before it is acknowledged. interval: it is "
        "acknowledged once the operating system has it, and synced every log.sync.interval.ms.",
    )
    log_sync_interval_ms: int = Field(
        50, ge=1, le=HOUR_MS, description="Time between syncs with log.sync.mode=interval."
    )
    log_file_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=2 * GIB,
        description="A log file of this size is closed and the next begun.",
    )
    log_file_entries_max: int = Field(
        500_000,
        ge=1_000,
        le=INT_MAX,
        description="Batches in a log file, after which the next is begun: bounds the index of the "
        "open file, 24 bytes a batch.",
    )
    log_cache_bytes: int = Field(
        -1,
        ge=-1,
        le=LONG_MAX,
        description="Memory for the newest records, from which consumers are served while they are there; taken as "
        "records come. -1: a quarter of the memory that this process may use, at least 64 MiB.",
    )
    log_index_cache_bytes: int = Field(
        32 * MIB, ge=MIB, le=LONG_MAX, description="Memory for the indexes of closed log files."
    )
    log_read_cache_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Memory for records that lagging consumers read from log files, at least 8 MiB.",
    )
    log_reader_threads: int = Field(8, ge=1, le=256, description="Threads that read records from log files.")
    checkpoint_interval_ms: int = Field(
        10_000,
        ge=100,
        le=DAY_MS,
        description="Longest time between checkpoints while there is something to save.",
    )
    checkpoint_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Log written since the last checkpoint that starts the next.",
    )
    rocksdb_cache_bytes: int = Field(8 * MIB, ge=MIB, le=LONG_MAX, description="RocksDB's block cache.")
    rocksdb_write_buffer_bytes: int = Field(8 * MIB, ge=MIB, le=GIB, description="RocksDB's write buffer.")

    @field_validator("log_cache_bytes")
    @classmethod
    def _is_cache(cls, value: int) -> int:
        if -1 < value < MIB:
            raise ValueError(f"allowed: {MIB} and more, or -1")
        return value
