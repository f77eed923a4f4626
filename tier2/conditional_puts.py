"""Finds out whether a store obeys the condition of `put_new`: several put one key at once, and one more comes later.

Invariant: of all that were told "stored", exactly one was right; anything else is a store that must own nothing.
"""

from __future__ import annotations

import asyncio

from tier2.storage import AlreadyExists, Storage


async def winners_of_race(storage: Storage, key: str, racers: int = 2) -> int:
    """How many of the puts of this key succeeded, a late one counted; 1 for a store to be trusted.

    Leaves the object. Raises StorageError when a put was not answered.
    """
    ended = await asyncio.gather(
        *(storage.put_new(key, b"racer %d" % number) for number in range(racers)), return_exceptions=True
    )
    ended += await asyncio.gather(storage.put_new(key, b"late"), return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException) and not isinstance(one, AlreadyExists):
            raise one
    return sum(not isinstance(one, BaseException) for one in ended)
