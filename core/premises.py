"""What a store has on this machine: its containers' directories, locks that keep others out, and the clock's file.

**Invariant**: a container is one process's: it, or the directory of all, is locked from before its recovery until after
its close.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from core.clock import Clock
from core.config import StoreConfig
from core.errors import Corrupt
from core.hosted import container_directory, log_directory
from core.locks import Locks
from core.log.replay import open_log_files

TIME_FILE: Final = "time"
"""The file in the store's directory with the clock's state, see `core.trusted_time`."""


class Premises:
    """The files of one process: it opens the containers `hosts` at its start, and others may have the rest."""

    def __init__(self, directory: Path, config: StoreConfig, hosts: Collection[int], *, is_shared: bool) -> None:
        self._directory = directory
        self._config = config
        self._hosts = tuple(hosts)
        self._has_part = is_shared and bool(hosts)
        self._locks = Locks()

    def __repr__(self) -> str:
        return f"<Premises {self._directory}>"

    def place_of(self, container_id: int) -> Path:
        """The directory that holds a container's."""
        return self._config.place(self._directory, container_id)

    def time_file(self) -> Path:
        """The clock's file; a process that has a part of the containers has one of its own."""
        return self._directory / (f"{TIME_FILE}-{self._hosts[0]}" if self._has_part else TIME_FILE)

    async def lock(self, clock: Clock) -> None:
        """Own the directory, or each container that this process opens. Raises AlreadyLocked."""
        if not self._has_part:
            self._locks.take(self._directory)
            return
        for container_id in self._hosts:
            await self._locks.take_when_free(container_directory(self.place_of(container_id), container_id), clock)

    def free(self) -> None:
        """Let others in."""
        self._locks.free()

    def newest_file_ms(self) -> int | None:
        """The time when the newest log file was begun, so a time that is past. Blocks."""
        begun: list[int] = []
        for container_id in self._hosts:
            with contextlib.suppress(Corrupt, OSError):  # recovery says what is wrong with it
                logs = log_directory(self.place_of(container_id), container_id)
                begun += (file.created_ms for file in open_log_files(logs))
        return max(begun, default=None)
