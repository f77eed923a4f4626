"""What a start asks of long-term storage before the log in it is taken over.

Keeps: a store that does not obey conditions owns no log, and a new data directory joins the cluster whose log is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Final

from gateway.data_directory import DataDirectory
from gateway.exits import CannotGoOn
from gateway.long_term.identity import read_identity
from tier2.conditional_puts import winners_of_race
from tier2.storage import Storage, StorageError

ROUNDS: Final = 10
RACERS: Final = 4
PREFIX: Final = "self-test/"


class UnfitForLog(CannotGoOn):
    """The store does not keep what the log relies on."""


async def check_conditions(storage: Storage, place: str) -> None:
    """Race for some keys. Raises UnfitForLog unless exactly one racer wins each of them."""
    for number in range(ROUNDS):
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
                f"log.store = object: {place} ignores If-None-Match: in round {number + 1}, {winners} of "
                f"{RACERS + 1} puts of one key succeeded, so two gateways could own the log. "
                "Use a store that obeys it on PutObject, or log.store = disk"
            )


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
