"""Containers that are to come to this node: what a takeover would read is read ahead, and kept up to date.

**Invariants**

- One reading ahead of a container runs at a time. The takeover gets what was read, or it is forgotten.
- What fails here is only logged: the takeover reads for itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import KeysView
from typing import Final, Protocol

from core.cluster.ownership import WARM_S
from core.errors import StoreError
from core.log.objects.prefetch import Prefetched
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

KEEP_WARM_S: Final = 0.1
"""Between two looks at what the owner of a container has stored that is to come here."""


class Prefetches(Protocol):
    """Reads ahead, see `core.joining`."""

    async def prefetch(self, container_id: int) -> Prefetched:
        """Read ahead of a takeover what can be read. Raises StoreError, StorageError, OSError."""


class Warming:
    """See the module. For the event loop."""

    def __init__(self, joining: Prefetches) -> None:
        self._joining = joining
        self._under_way: dict[int, asyncio.Task[Prefetched | None]] = {}  # by container

    def __repr__(self) -> str:
        return f"<Warming {sorted(self._under_way)}>"

    @property
    def containers(self) -> KeysView[int]:
        """Those that were read ahead, or are."""
        return self._under_way.keys()

    async def warm(self, container: int) -> Prefetched | None:
        """Read ahead; None if that failed."""
        await self.cool(container)
        warming = self._under_way[container] = asyncio.create_task(self._prefetched(container), name="prefetch")
        return await asyncio.shield(warming)

    async def keep(self, container: int, found: Prefetched) -> None:
        """Read what the owner still stores, a last checkpoint above all, until the container is here or was cooled."""
        ends_s = time.monotonic() + WARM_S
        while time.monotonic() < ends_s:
            warming = self._under_way.get(container)
            if warming is None or not warming.done() or warming.result() is not found:
                return
            try:
                await found.fetch(rounds_max=1)
            except (StoreError, StorageError, OSError) as error:
                logger.debug("a container is not kept warm", extra={"container": container, "reason": str(error)})
            await asyncio.sleep(KEEP_WARM_S)

    async def cool(self, container: int) -> None:
        """Forget what was read ahead."""
        found = await self.take(container)
        if found is not None:
            found.forget()

    async def take(self, container: int) -> Prefetched | None:
        """What was read ahead by now, for the caller to forget."""
        warming = self._under_way.pop(container, None)
        if warming is None:
            return None
        if not warming.done():
            warming.cancel()
        (found,) = await asyncio.gather(warming, return_exceptions=True)
        return found if isinstance(found, Prefetched) else None

    async def stop(self) -> None:
        """Forget all."""
        for container in list(self._under_way):
            await self.cool(container)

    async def _prefetched(self, container: int) -> Prefetched | None:
        try:
            found = await self._joining.prefetch(container)
        except (StoreError, StorageError, OSError) as error:
            logger.warning("a container was not read ahead", extra={"container": container, "reason": str(error)})
            return None
        logger.info("container read ahead", extra={"container": container, "found": repr(found)})
        return found
