"""Admission of producers that are new to a partition, while there is little room for more.

Any client can make up producer ids, and a partition remembers each until it was silent for long
(`core.container.forgetting`). So once half of `producer.states.max` is used, one address brings no more than an eighth
of it in the time after which silent producers make room; the other half is for others. Producers that their partitions
know are not checked.

Keeps: the memory of this module is bounded, however many addresses there are.
"""

from __future__ import annotations

from typing import Final

from core.clock import Clock
from core.container.forgetting import SILENT_MS_MIN
from core.errors import TooManyWriters
from core.streams.known_writers import KnownWriters

FREE_SHARE: Final = 2
"""Part of `producer.states.max` that is free to all addresses: a half."""
ADDRESS_SHARE: Final = 8
"""Part of it that one address may bring after that: an eighth."""
ADDRESSES_MAX: Final = 10_000
"""Addresses that are counted each by itself; further ones share one count."""
OTHERS: Final = ""


class NewProducers:
    """See the module."""

    def __init__(self, known: KnownWriters, clock: Clock) -> None:
        self._known = known
        self._clock = clock
        self._brought: dict[str, int] = {}
        self._begun_s = clock.monotonic_s()

    def __repr__(self) -> str:
        return f"<NewProducers of {len(self._brought)} addresses, {self._known!r}>"

    def admit(self, host: str) -> None:
        """Admit a producer that is new to a partition, from this address. Raises TooManyWriters."""
        now_s = self._clock.monotonic_s()
        if now_s - self._begun_s >= SILENT_MS_MIN / 1000:
            self._brought.clear()
            self._begun_s = now_s
        brought, known = self._brought, self._known
        if host not in brought and len(brought) >= ADDRESSES_MAX:
            host = OTHERS
        count = brought.get(host, 0)
        if count >= known.limit // ADDRESS_SHARE and known.count >= known.limit // FREE_SHARE:
            known.refused += 1
            raise TooManyWriters(known.limit)
        brought[host] = count + 1
