"""Records of TLS that bring hardly any data, and how many of them a client of the HTTP port may send. Pure.

A record costs the loop some microseconds, whatever it brings, and of a request that comes byte by byte each is one:
10,000 in what is read at once. At Kafka's listeners that is the client's time, and it waits for its turn; here nobody
has turns. So a record is paid for by the bytes that it brings, and those of usual requests pay for all of theirs.

Invariant: of records that are not paid for there are at most `SMALL_RECORDS_MAX` at once, and `SMALL_RECORDS_PER_S` a
second after them, of one connection.
"""

from __future__ import annotations

from typing import Final

PAID_BYTES: Final = 64
"""Bytes that pay for a record: less than a request's head has in any client."""
SMALL_RECORDS_MAX: Final = 1_024
"""A head may come in crumbs, a body in chunks of a few bytes: far more than clients send of these in a request."""
SMALL_RECORDS_PER_S: Final = 128
TOO_SMALL: Final = "it sends TLS records with hardly any data, more than a client needs"
"""Why a connection ends."""


class SmallRecords:
    """Of one connection."""

    __slots__ = ("_left", "_since_s")

    def __init__(self) -> None:
        self._left = float(SMALL_RECORDS_MAX)
        self._since_s = 0.0

    def __repr__(self) -> str:
        return f"<SmallRecords {self._left:.0f} more of {SMALL_RECORDS_MAX}>"

    def allow(self, count: int, size: int, now_s: float) -> bool:
        """May so many more have come, with so many bytes together, at this monotonic time?"""
        most = float(SMALL_RECORDS_MAX)
        grown = (now_s - self._since_s) * SMALL_RECORDS_PER_S
        self._left = min(most, min(most, self._left + grown) + size / PAID_BYTES - count)
        self._since_s = now_s
        return self._left >= 0
