"""Tries long-term storage: put, get, range, list, conditional put, delete.

Keeps: touches only keys below `doctor/` and a random name of its own, and removes them; makes no bucket, and
no directory for storage that is not there. All of it ends within TRY_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Final

from gateway.cli.doctor_facts import StorageFacts
from gateway.config.layers import ConfigError
from gateway.config.model import Config
from gateway.config.tiering import Directory
from gateway.exits import CannotGoOn
from gateway.long_term.opening import check_settings, open_storage, place_of
from gateway.long_term.ownership import read_owner
from tier2.conditional_puts import winners_of_race
from tier2.storage import BucketNotFound, Storage, StorageError

TRY_S: Final = 60.0
PATIENCE_MS: Final = 5_000
"""Longest wait for a store that cannot be reached."""
OBJECT_BYTES: Final = 64 * 1024
SCRATCH: Final = "doctor/"


async def tried(config: Config) -> StorageFacts:
    """The facts of the configured storage."""
    place = place_of(config)
    if config.tier2 == "off":
        return StorageFacts(place, "off")
    if isinstance(config.tier2, Directory) and not config.tier2.below(config.data_dir).exists():
        return StorageFacts(place, "absent")
    hasty = config.model_copy(update={"tier2_start_timeout_ms": min(PATIENCE_MS, config.tier2_start_timeout_ms)})
    try:
        check_settings(hasty)
        # A directory that is there gets what a start would make in it.
        storage = await open_storage(hasty, create=isinstance(config.tier2, Directory))
    except (CannotGoOn, ConfigError, OSError) as error:
        if isinstance(error.__cause__, BucketNotFound):
            return StorageFacts(place, "absent")
        return StorageFacts(place, "unusable", error=str(error)[:1000])
    assert storage is not None
    try:
        async with asyncio.timeout(TRY_S):
            return await Trial(storage, place).run()
    except TimeoutError:
        error_text = f"{place}: the tries took more than {TRY_S:g} s; objects below {SCRATCH} may remain"
        return StorageFacts(place, "unusable", error=error_text)
    finally:
        await storage.close()


class Trial:
    """One try of every operation of a storage."""

    def __init__(self, storage: Storage, place: str) -> None:
        self._storage = storage
        self._place = place
        self._prefix = f"{SCRATCH}{secrets.token_hex(16)}/"
        self._latency_ms: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._owner = ""
        self._winners = 0
        self._left_behind = ""

    async def run(self) -> StorageFacts:
        """Try all of them; what cannot be done is a fact, too."""
        try:
            async with self._timed("owner"):
                found = await read_owner(self._storage)
                self._owner = "" if found is None else f"owned by {found}"
            await self._objects()
            await self._race()
        finally:
            await self._remove()
        return StorageFacts(
            self._place,
            "tried",
            owner=self._owner,
            latency_ms=self._latency_ms,
            failed=self._failed,
            winners=self._winners,
            left_behind=self._left_behind,
        )

    async def _objects(self) -> None:
        key, data = f"{self._prefix}object", secrets.token_bytes(OBJECT_BYTES)
        async with self._timed("put"):
            await self._storage.put(key, data)
        if "put" in self._failed:
            return
        async with self._timed("get"):
            self._same("get", await self._storage.get_range(key, 0, len(data)), data)
        async with self._timed("range"):
            self._same("range", await self._storage.get_range(key, 1000, 5000), data[1000:6000])
        async with self._timed("list"):
            listed = [one.key async for one in self._storage.list(self._prefix)]
            if listed != [key]:
                self._failed["list"] = f"an object that was just put is not listed alone: {len(listed)} objects"

    def _same(self, operation: str, got: bytes, put: bytes) -> None:
        if got != put:
            self._failed[operation] = "the bytes differ from those that were put"

    async def _race(self) -> None:
        """Count how many of two conditional puts of one key succeed; a third one, later, counts as well."""
        key = f"{self._prefix}raced"
        async with self._timed("conditional put"):
            self._winners = await winners_of_race(self._storage, key)

    async def _remove(self) -> None:
        """Remove the scratch objects, and remember one that stays."""
        async with self._timed("delete"):
            for name in ("object", "raced"):
                self._left_behind = self._prefix + name
                await self._storage.delete(self._left_behind)
                if await self._storage.stat(self._left_behind) is not None:
                    self._failed["delete"] = f"{self._left_behind} is still there after it was removed"
                    return
            self._left_behind = ""

    @contextlib.asynccontextmanager
    async def _timed(self, operation: str) -> AsyncIterator[None]:
        began = time.perf_counter()
        try:
            yield
        except StorageError as error:
            self._failed[operation] = str(error)[:500]
        else:
            self._latency_ms[operation] = (time.perf_counter() - began) * 1000
