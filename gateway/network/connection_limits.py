"""Bounds on connections: on their number, in all and by address, and on the rate of new ones.

Kafka's keys and words: `max.connections` and `max.connection.creation.rate` (KIP-612), each also of one listener,
`max.connections.per.ip` with its overrides, and the quota `connection_creation_rate` of addresses. Beyond the rate of
all, or of a listener, a connection is not refused: it waits in its listener's queue. Beyond its address' own rate it is
held, unread, until it is due.

Invariant: the counts are those of connections that are open, held, or being made. None is held for longer than
`HELD_S_MAX`, so an address holds no more than its rate brings in that time; further ones are closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

RATE_WINDOW_S: Final = 10
"""Kafka counts over eleven windows of a second, of which the newest is not complete: after a quiet time, ten seconds'
worth may come at once."""
ROUNDING: Final = 1e-6
"""Fraction of a connection that counts as none: sums of fractions are not exact."""
INT_MAX: Final = 2**31 - 1
INNER_CONNECTIONS_MAX: Final = 256
"""Connections of other nodes, each of which has one."""
INNER_OF_AN_ADDRESS_MAX: Final = 32
"""Those of one address: whoever has no certificate is let go after a while, and must not take all until then."""
HELD_S_MAX: Final = 10.0
"""Longest time that a connection is held for its address' rate; clients give up connecting after some time, too."""
ADDRESSES_MAX: Final = 20_000
"""Addresses whose rates are remembered: beyond that those that did nothing for a window go, then all."""


class ConnectionCounts:
    """Connections at a time. `most_of` gives an address' own bound, by its text, `most_at` a listener's, by name."""

    def __init__(
        self, most: int, most_per_ip: int, most_of: Mapping[str, int], most_at: Mapping[str, int] | None = None
    ) -> None:
        self.most = most
        self.most_per_ip = most_per_ip
        self._most_of = most_of
        self._most_at = most_at or {}
        self._per_ip: dict[str, int] = {}
        self._at = dict.fromkeys(self._most_at, 0)
        self.count = 0

    @property
    def busiest(self) -> int:
        """Connections of the address with the most."""
        return max(self._per_ip.values(), default=0)

    def refusal(self, host: str, listener: str = "") -> tuple[str, str] | None:
        """Why a connection of this address cannot be taken now: the key of the bound, and the words."""
        if self.count >= self.most:
            return "max.connections", f"max.connections={self.most} is reached"
        if listener in self._at and self._at[listener] >= self._most_at[listener]:
            key = f"listener.name.{listener.lower()}.max.connections"
            return key, f"{key}={self._most_at[listener]} is reached"
        most = self._most_of.get(host, self.most_per_ip)
        if self._per_ip.get(host, 0) >= most:
            key = "max.connections.per.ip" + (".overrides" if host in self._most_of else "")
            return key, f"{key}={most} is reached"
        return None

    def add(self, host: str, listener: str = "") -> None:
        self.count += 1
        if listener in self._at:
            self._at[listener] += 1
        self._per_ip[host] = self._per_ip.get(host, 0) + 1

    def remove(self, host: str, listener: str = "") -> None:
        self.count -= 1
        if listener in self._at:
            self._at[listener] -= 1
        left = self._per_ip[host] - 1
        if left:
            self._per_ip[host] = left
        else:
            del self._per_ip[host]


def counts_of_nodes(this_machine: str) -> ConnectionCounts:
    """The counts of other nodes' connections, whom no number of clients keeps out; `this_machine`: the address of those
    that come by socket files."""
    return ConnectionCounts(INNER_CONNECTIONS_MAX, INNER_OF_AN_ADDRESS_MAX, {this_machine: INNER_CONNECTIONS_MAX})


class CreationRate:
    """Connections a second: a bucket that fills at the rate."""

    def __init__(self, most_s: int, now_s: Callable[[], float]) -> None:
        self.most_s = most_s
        self._now_s = now_s
        self._room = float(most_s * RATE_WINDOW_S)
        self._at_s = now_s()

    def wait_s(self) -> float:
        """Seconds that the next connection must wait; at 0 it may come, and `count` counts it."""
        if self.most_s >= INT_MAX:
            return 0.0
        now_s = self._now_s()
        self._room = min(self.most_s * RATE_WINDOW_S, self._room + (now_s - self._at_s) * self.most_s)
        self._at_s = now_s
        if self._room >= 1.0 - ROUNDING:
            return 0.0
        return (1.0 - self._room) / self.most_s if self.most_s else 1.0

    def count(self) -> None:
        self._room -= 1.0

    @property
    def is_idle(self) -> bool:
        """Is nothing left that counts?"""
        return self._now_s() - self._at_s > RATE_WINDOW_S + HELD_S_MAX


class AddressRates:
    """Connections a second by address. `rate_of` gives an address' rate, None where it has none."""

    def __init__(self, rate_of: Callable[[str], int | None], now_s: Callable[[], float]) -> None:
        self._rate_of = rate_of
        self._now_s = now_s
        self._rates: dict[str, CreationRate] = {}

    def hold_s(self, host: str) -> float | None:
        """Count a connection; returns how long it is to be held. None: it is not counted, and to be closed."""
        most_s = self._rate_of(host)
        if most_s is None:
            return 0.0
        rate = self._rates.get(host)
        if rate is None or rate.most_s != most_s:
            self._make_room()
            rate = self._rates[host] = CreationRate(most_s, self._now_s)
        wait_s = rate.wait_s()
        if wait_s > HELD_S_MAX:
            return None
        rate.count()
        return wait_s

    def _make_room(self) -> None:
        if len(self._rates) >= ADDRESSES_MAX:
            self._rates = {host: rate for host, rate in self._rates.items() if not rate.is_idle}
        if len(self._rates) >= ADDRESSES_MAX:
            self._rates.clear()
