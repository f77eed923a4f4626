"""Records of TLS that bring no data, and how many of them a client may send. Pure.

A change of keys costs a client nothing and a server 20 us of its loop, forty times as much as a record of a request;
then there are empty records, alerts that only warn, and requests for another handshake. OpenSSL reads on behind all of
them, some without a bound of its own. Clients have little use for them: Java changes keys after 128 GiB, OpenSSL and Go
never by themselves. Other servers take as many as this one: BoringSSL and rustls 32 in a row, GnuTLS eight changes of
keys a second.

Invariant: of a connection there are at most `IDLE_RECORDS_MAX` at once, and `IDLE_RECORDS_PER_S` a second after them.
"""

from __future__ import annotations

from typing import Final

IDLE_RECORDS_MAX: Final = 32
IDLE_RECORDS_PER_S: Final = 8


class IdleRecords:
    """Of one connection."""

    __slots__ = ("_left", "_since_s")

    def __init__(self) -> None:
        self._left = float(IDLE_RECORDS_MAX)
        self._since_s = 0.0

    def __repr__(self) -> str:
        return f"<IdleRecords {self._left:.0f} more of {IDLE_RECORDS_MAX}>"

    def allow(self, count: int, now_s: float) -> bool:
        """May that many more have come, at this monotonic time? After the first refusal nothing is allowed for long."""
        grown = (now_s - self._since_s) * IDLE_RECORDS_PER_S
        self._left = min(float(IDLE_RECORDS_MAX), self._left + grown) - count
        self._since_s = now_s
        return self._left >= 0


TOO_MANY: Final = "it sends TLS records without data, more than a client needs"
"""Why a connection ends."""
