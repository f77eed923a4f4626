"""Going through what a request lists without keeping the event loop to itself.

Keeps: a handler that judges its items one by one lets others run after ITEMS_PER_TURN of them; at 5 µs an item that is
a few milliseconds. What it changes must not depend on all items being judged at one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

_T = TypeVar("_T")

ITEMS_PER_TURN: Final = 500


async def in_turns(items: Iterable[_T]) -> AsyncIterator[_T]:
    """The items, with a pause for others after each ITEMS_PER_TURN of them."""
    for count, item in enumerate(items, 1):
        yield item
        if not count % ITEMS_PER_TURN:
            await asyncio.sleep(0)
