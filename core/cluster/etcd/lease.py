"""A lease that is kept alive, and the moment until which it is certainly there.

Time goes by a clock that also runs while the machine sleeps. etcd counts from when a renewal reaches it, this module
from when it was sent, and it stops `MARGIN_S` early: so nobody hears of the lease's end while `is_fresh` holds here.

**Invariant**: once a lease was not fresh, it is lost, and never fresh again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, Self

from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.clock import boot_s
from core.errors import CoordinatorAway, StoreError

logger = logging.getLogger(__name__)

MARGIN_S: Final = 1.0
GRANTS_MAX: Final = 3


class Lease:
    """See the module. Make it with `grant`; `revoke` it, or let it end with `close`."""

    def __init__(
        self, client: EtcdClient, lease_id: int, ttl_s: float, sent_s: float, now_s: Callable[[], float]
    ) -> None:
        self.id = lease_id
        self.ttl_s = ttl_s
        self.lost = asyncio.Event()
        """Set once the lease may have ended."""
        self._client = client
        self._now_s = now_s
        self._fresh_until_s = sent_s + ttl_s - MARGIN_S
        self._task = asyncio.create_task(self._keep(), name="etcd lease")

    def __repr__(self) -> str:
        return f"<Lease {self.id:x} fresh for {self._fresh_until_s - self._now_s():.1f} s>"

    @classmethod
    async def grant(cls, client: EtcdClient, ttl_s: int, now_s: Callable[[], float] = boot_s) -> Self:
        """Begin a lease. Raises CoordinatorAway, CoordinatorRefuses."""
        for _ in range(GRANTS_MAX):
            lease_id, sent_s = random.getrandbits(62) + 1, now_s()
            granted_s = await client.grant(lease_id, ttl_s)
            if now_s() < sent_s + granted_s - MARGIN_S:
                return cls(client, lease_id, granted_s, sent_s, now_s)
            await client.revoke(lease_id)  # the answer took so long that it may have ended
        raise CoordinatorAway(f"etcd takes longer to grant a lease than the {ttl_s} s that it lives")

    def is_fresh(self) -> bool:
        """Whether the lease is certainly there."""
        if self._now_s() >= self._fresh_until_s:
            self.lost.set()
        return not self.lost.is_set()

    async def close(self) -> None:
        """Renew it no more."""
        self.lost.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def revoke(self) -> None:
        """End it now, with all keys under it. Raises CoordinatorAway; then it ends by itself."""
        await self.close()
        await self._client.revoke(self.id)

    async def _keep(self) -> None:
        """Renew it for as long as it is fresh, four times in its life."""
        pause_s = self.ttl_s / 4
        while self.is_fresh():
            await asyncio.sleep(min(pause_s, max(0.0, self._fresh_until_s - self._now_s())))
            if not self.is_fresh():
                return
            sent_s = self._now_s()
            try:
                # Short attempts: if one member is silent, there is time to ask the others.
                within_s = max(0.05, self._fresh_until_s - sent_s)
                left_s = await self._client.renew(self.id, within_s, attempt_s=self.ttl_s / 6)
            except StoreError as error:
                logger.warning("the lease in etcd cannot be renewed", extra={"reason": str(error)})
                continue
            except Exception:  # it would end, and nobody would know why
                logger.exception("a defect: the lease in etcd was not renewed, and is tried again. Please report it")
                continue
            if not left_s:
                logger.warning("etcd has ended this node's lease")
                self.lost.set()
            elif self.is_fresh():
                self._fresh_until_s = max(self._fresh_until_s, sent_s + left_s - MARGIN_S)
