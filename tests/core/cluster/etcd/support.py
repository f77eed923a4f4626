"""What the tests of etcd's client share: a client that is closed, a prefix of one's own, looking with a deadline."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from core.cluster.etcd.client import EtcdClient, EtcdSettings

_numbers = itertools.count(1)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 90))


def new_prefix() -> bytes:
    return b"penstock/test-%d/" % next(_numbers)


@asynccontextmanager
async def connected(settings: EtcdSettings) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(settings)
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], object], within_s: float = 30) -> None:
    """Poll, with a deadline."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  another task's state is looked at
            await asyncio.sleep(0.005)
