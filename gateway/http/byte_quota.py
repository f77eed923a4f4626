"""Quotas of bytes for records over HTTP: `producer_byte_rate` and `consumer_byte_rate` of the request's user.

Kafka answers a client over its quota, and then reads nothing from it for a while. A request over HTTP has no connection
of its own that could be muted: it is refused with 429 until the pause is over (RFC 6585).

Keeps: a request that began within the quota is carried out whole, and its bytes count with those that the user moves by
Kafka's protocol.
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
        self._quota = quota
        self._user = access.user

    def require(self) -> None:
        """Raises Problem as long as the user must pause."""
        pause_ms = self._quotas.count(self._quota, self._user, None, 0) if self._quotas.is_on else 0
        if pause_ms:
            pause_s = -(-pause_ms // 1000)
            why = f"{self._user[:300]!r} has used up its quota {self._quota}: come again in {pause_s} s"
            raise Problem(TOO_FAST, "Too fast", why, {"Retry-After": str(pause_s)})

    def count(self, size: int) -> None:
        """These bytes were moved."""
        if self._quotas.is_on:
            self._quotas.count(self._quota, self._user, None, size)
