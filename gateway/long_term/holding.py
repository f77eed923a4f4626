"""Long-term storage as one process holds it: reached and examined at a start, owned from the first change to the end.

Keeps: nothing is put or deleted before the prefix is known to be this store's, and nothing of another owner's is
touched after it has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from core.tiering.context import LongTermStorage
from gateway import __version__
from gateway.cluster.seat import Seat, check_cluster, take_seat
from gateway.config.loading import Config
from gateway.data_directory import DRILL_DIRECTORY, REPAIRED_FILE, DataDirectory, is_drill
from gateway.groups.consumer.format import CONSUMER_TABLE
from gateway.groups.persistence import GROUPS_TABLE, OFFSETS_TABLE
from gateway.groups.share.format import GROUPS_TABLE as SHARE_GROUPS_TABLE
from gateway.groups.share.format import PARTITIONS_TABLE as SHARE_PARTITIONS_TABLE
from gateway.groups.streams.format import STREAMS_TABLE
from gateway.long_term.identity import Admission
from gateway.long_term.log_objects import check_conditions, check_containers, of_cluster
from gateway.long_term.opening import is_private, open_storage, place_of, storage_of_log, worker_setup
from gateway.long_term.ownership import BEAT_S, Owner
from gateway.records.record_batch import entry_head
from gateway.security import scram_users
from tier2.retrying import RetryingStorage
from tier2.storage import Storage, StorageError

logger = logging.getLogger(__name__)

BEAT_S_MIN: Final = 1.0
"""Shortest pause between two looks whether this gateway still owns its prefix. A look comes before deleted objects are
removed, if possible."""
RELEASE_S: Final = 2.0
"""Longest wait of a stop to release its prefix in long-term storage; if it fails, the next start of a copy must check
whether this gateway lives."""


class Holding:
    """See the module. `data` and `seat` are those of the cluster once it is open, where the log lies in objects."""

    def __init__(
        self, config: Config, data: DataDirectory, *, seat: Seat | None, take_over: bool, has_others: bool
    ) -> None:
        """`has_others`: other workers use the same prefix."""
        self._config = config
        self._take_over = take_over
        self._has_others = has_others
        self.data = data
        self.seat = seat
        self.storage: RetryingStorage | None = None
        self.context: LongTermStorage | None = None
        self._log_puts: Storage | None = None
        self._admission: Admission | None = None
        self.remarks: list[str] = []  # about the bucket

    def __repr__(self) -> str:
        return f"<Holding of {place_of(self._config)}>"

    @property
    def concerns(self) -> list[str]:
        """Facts that an operator should know."""
        found = list(self.remarks)
        if self._admission is not None and not self._admission.has_taken:
            found.append(f"{self._admission.place} has no room: its data is served, nothing more is moved there")
        return found

    async def open(self) -> None:
        """Reach the storage, and check its owner. Raises an error if it cannot be used."""
        config = self._config
        self.storage = await open_storage(config, remark=self._remarked)
        if self.storage is None:
            return
        if config.log_store == "object":
            await self._join_log(self.storage)
        admission = self._admission_to(self.storage)
        if admission.drill:
            logger.warning(
                "this is a drill: it reads long-term storage, and puts new chunks below the data directory",
                extra={"reads": admission.place, "writes": str(self.data.path / DRILL_DIRECTORY)},
            )
        await admission.look()
        if config.log_store == "object":
            await check_containers(self.storage, place_of(config), self.data.layout.containers)
        self._admission = admission
        self.context = LongTermStorage(
            storage=self.storage,
            log_puts=self._log_puts,
            cluster_id=self.data.cluster_id,
            head_of=entry_head,
            admit=admission.admit,
            had_another_life=(self.data.path / REPAIRED_FILE).exists(),
            rewriting=worker_setup(config),
            promised=frozenset(
                {GROUPS_TABLE, CONSUMER_TABLE, STREAMS_TABLE, OFFSETS_TABLE, SHARE_GROUPS_TABLE, SHARE_PARTITIONS_TABLE}
            ),
            private=frozenset({scram_users.TABLE}),
        )

    async def _join_log(self, storage: RetryingStorage) -> None:
        """The log lies there: the directory is a place for copies, of whatever store the storage has."""
        config = self._config
        if config.cluster_fence != "verify":
            await check_conditions(storage, place_of(config))
        self.data = await of_cluster(self.data, storage, place_of(config), __version__)
        if config.cluster:
            self.seat = await take_seat(config, self.data.cluster_id)
            if self.data.fresh:
                self.data = await asyncio.to_thread(self.data.of_cluster, self.seat.cluster_id, __version__)
            check_cluster(self.seat, self.data.cluster_id, str(self.data.path))
        self._log_puts = storage_of_log(config, self.data.layout.containers)

    def _admission_to(self, storage: RetryingStorage) -> Admission:
        config = self._config
        return Admission(
            storage,
            place_of(config),
            self.data.path,
            self.data.cluster_id,
            self.data.fresh,
            beat_s=max(min(BEAT_S, config.file_delete_delay_ms / 2000), BEAT_S_MIN),
            take_over=self._take_over,
            drill=is_drill(self.data.path),
            beside=self.seat is not None or self._has_others,
            private=is_private(config),
            holds_log=config.log_store == "object",
        )

    def _remarked(self, remark: str) -> None:
        logger.warning("long-term storage: %s", remark)
        self.remarks.append(remark)

    async def until_taken_over(self) -> Owner:
        """Returns when another copy of the data directory owns long-term storage: this process must end then, before
        it deletes objects that the copy refers to."""
        if self._admission is None or self._admission.drill or self._admission.beside:
            never: asyncio.Future[Owner] = asyncio.get_running_loop().create_future()
            return await never
        return await self._admission.until_replaced()

    async def close(self) -> None:
        """Release the prefix, so that the next owner need not check whether this gateway lives, and let go."""
        if self.storage is not None:
            await self._release()
            await self.storage.close()
        if self._log_puts is not None:
            await self._log_puts.close()

    async def _release(self) -> None:
        if self._admission is None:
            return
        with contextlib.suppress(TimeoutError, StorageError):
            async with asyncio.timeout(RELEASE_S):
                await self._admission.release()
