"""Quotas of bytes for records over HTTP: `producer_byte_rate` and `consumer_byte_rate` of the request's user.

Kafka answers a client over its quota, and then reads nothing from it for a while. A request over HTTP has no connection
of its own that could be muted: it is refused with 429 until the pause is over (RFC 6585).

Keeps: a pause is as long as `Retry-After` said first. A request that began within the quota is carried out whole, and
its bytes count with those that the user moves by Kafka's protocol.
"""

from __future__ import annotations

from typing import Final

from gateway.http.access import Access
from gateway.http.problems import Problem
from gateway.quotas.quotas import Quotas

TOO_FAST: Final = 429


class ByteQuota:
    """One quota, for one request. It has no client id, as in Kafka a client that sends none."""

    def __init__(self, quotas: Quotas, quota: str, access: Access) -> None:
        self._quotas = quotas
        self._who = quota, access.user

    def require(self) -> None:
        """Raises Problem as long as the user must pause."""
        if not self._quotas.is_on:
            return
        left_s = self._quotas.told.left_s(self._who)
        if left_s is None:  # nobody told it yet: it may have moved bytes by Kafka's protocol
            left_s = self._count(0)
        if left_s:
            quota, user = self._who
            why = f"{user[:300]!r} has used up its quota {quota}: come again in {left_s} s"
            raise Problem(TOO_FAST, "Too fast", why, {"Retry-After": str(left_s)})

    def count(self, size: int) -> None:
        """These bytes were moved."""
        if self._quotas.is_on:
            self._count(size)

    def _count(self, size: int) -> int:
        """Returns the seconds of the pause that this brings."""
        quota, user = self._who
        pause_ms = self._quotas.count(quota, user, None, size)
        return self._quotas.told.begin(self._who, pause_ms) if pause_ms else 0
