"""What a start asks of long-term storage before the log in it is taken over.

Keeps: a store that does not obey conditions owns no log, and a new data directory joins the cluster whose log is there,
with as many containers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Final

from core.log.objects.format import log_key
from core.log.objects.protocol import GENESIS
from core.store import HOME_CONTAINER
from gateway.data_directory import DataDirectory
from gateway.exits import CannotGoOn
from gateway.long_term.identity import read_identity
from tier2.conditional_puts import winners_of_race
from tier2.storage import AlreadyExists, Storage, StorageError

ROUNDS: Final = 50
RACERS: Final = 4
ROUNDS_AT_ONCE: Final = 10
PREFIX: Final = "self-test/"
CONTAINERS_KEY: Final = "log/containers"
"""JSON: ``format`` 1, ``containers`` the number of containers whose logs lie there, put once by the first start."""
FORMAT: Final = 1
CONTAINERS_BYTES_MAX: Final = 1024


class UnfitForLog(CannotGoOn):
    """The store does not keep what the log relies on."""


class LogIsThere(CannotGoOn):
    """Chunks and snapshots are not all that there is."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"{place} holds the log itself, so its chunks alone would leave records out. Nothing needs recovery: run "
            "`penstock serve` with log.store = object, the same flags and an empty data directory, which then has all "
            "that was acknowledged"
        )


async def check_conditions(storage: Storage, place: str) -> None:
    """Race for some keys, several at a time. Raises UnfitForLog unless exactly one racer wins each of them."""
    for _ in range(0, ROUNDS, ROUNDS_AT_ONCE):
        races = (_race(storage, place) for _ in range(ROUNDS_AT_ONCE))
        for error in await asyncio.gather(*races, return_exceptions=True):  # each has removed its key
            if error is not None:
                raise error


async def _race(storage: Storage, place: str) -> None:
    key = f"{PREFIX}{secrets.token_hex(8)}"
    try:
        winners = await winners_of_race(storage, key, RACERS)
    except StorageError as error:
        raise UnfitForLog(f"log.store = object: {place} cannot be tried: {error}") from error
    finally:
        with contextlib.suppress(StorageError):
            await storage.delete(key)
    if winners != 1:
        raise UnfitForLog(
            f"log.store = object: {place} ignores If-None-Match: {winners} of {RACERS + 1} puts of one key succeeded, "
            "so two gateways could own the log. Use a store that obeys it on PutObject, or log.store = disk"
        )


async def check_containers(storage: Storage, place: str, containers: int) -> None:
    """Remember how many containers have their logs there. Raises UnfitForLog for another number than the first."""
    document = json.dumps({"format": FORMAT, "containers": containers}).encode()
    try:
        await storage.put_new(CONTAINERS_KEY, document)
    except AlreadyExists:
        found = await _containers(storage, place)
        if found != containers:
            raise UnfitForLog(
                f"log.store = object: {place} has the logs of {found} containers, and this data directory is for "
                f"{containers}: set containers = {found}, which is fixed by the first start, and begin with an empty "
                "data directory"
            ) from None
    except StorageError as error:
        raise UnfitForLog(f"log.store = object: {place} cannot be used: {error}") from error


async def _containers(storage: Storage, place: str) -> int:
    try:
        stat = await storage.stat(CONTAINERS_KEY)
        size = 0 if stat is None else min(stat.size, CONTAINERS_BYTES_MAX)
        fields = json.loads(await storage.get_range(CONTAINERS_KEY, 0, size)) if size else {}
        if fields["format"] != FORMAT:
            raise ValueError(f"format {fields['format']!r}, this release reads {FORMAT}")
        return int(fields["containers"])
    except (StorageError, ValueError, KeyError, TypeError) as error:
        raise UnfitForLog(
            f"log.store = object: {CONTAINERS_KEY} in {place} cannot be read: {error!r}. Restore it from a copy of the "
            "bucket"
        ) from error


async def refuse_where_log_is(storage: Storage, place: str) -> None:
    """Raises LogIsThere, StorageError. The first fence of a log is never removed."""
    if await storage.stat(log_key(HOME_CONTAINER, GENESIS)) is not None:
        raise LogIsThere(place)


async def of_cluster(data: DataDirectory, storage: Storage, place: str, release: str) -> DataDirectory:
    """The data directory, as a part of the cluster whose log is there, if it is new. Raises IdentityRefused."""
    if not data.fresh:
        return data
    try:
        found = await read_identity(storage, place)
    except StorageError as error:
        raise UnfitForLog(f"log.store = object: the identity of {place} cannot be read: {error}") from error
    if found is None or found.cluster_id == data.cluster_id:
        return data
    return await asyncio.to_thread(data.of_cluster, found.cluster_id, release)
