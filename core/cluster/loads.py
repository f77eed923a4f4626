"""How busy containers are, in numbers that nodes can compare: bytes, and the part of an event loop that they take.

What a node measures is smoothed over a minute and rounded, so that an idle cluster tells nothing new. A node's row is
JSON without spaces, format 1:

    ``v`` (1), ``containers``: ``{"<id>": [bytes in /s, bytes out /s, thousandths of an event loop, bytes of the log]}``

**Invariants**

- Weights are positive, also that of a container which nobody has measured: so an idle cluster is spread by count.
- All nodes that see the same rows know the same weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

FORMAT: Final = 1
WINDOW_S: Final = 60.0
"""The time over which loads are averaged."""
CALL_BYTES: Final = 64 * 1024
"""An append or a read takes the event loop as long as this many bytes do."""
NODE_BYTES_S: Final = 200_000_000
"""Bytes in and out that count as much as a whole event loop."""
BASE_WEIGHT: Final = 0.01
"""What a container costs a node that does nothing with it, as a part of what the node can do."""
DIGITS: Final = 2


@dataclass(frozen=True, slots=True)
class Load:
    """One container's load."""

    bytes_in_s: float = 0.0
    bytes_out_s: float = 0.0
    loop: float = 0.0  # the part of its node's event loop, 0 to 1
    log_bytes: int = 0

    @property
    def weight(self) -> float:
        """The part of what one node can do."""
        return BASE_WEIGHT + self.loop + (self.bytes_in_s + self.bytes_out_s) / NODE_BYTES_S


IDLE: Final = Load()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a container has done since it was opened."""

    bytes_in: int
    bytes_out: int
    calls: int  # appends and reads
    log_bytes: int


class Meter:
    """The loads of one node's containers, from what they have done. Times are seconds that never go back."""

    def __init__(self) -> None:
        self._totals: Mapping[int, Totals] = {}
        self._at_s = 0.0
        self._loop_s = 0.0
        self._averages: dict[int, tuple[float, float, float]] = {}
        self._ages: dict[int, float] = {}  # s over which an average was taken

    def __repr__(self) -> str:
        return f"<Meter of {sorted(self._totals)}>"

    def measure(self, totals: Mapping[int, Totals], loop_s: float, now_s: float) -> Mapping[int, Load]:
        """The loads now. `loop_s`: the time that the event loop has worked since the process began.

        A container that was not there at the last call counts from the next one on.
        """
        passed = now_s - self._at_s
        known = {one: self._totals[one] for one in totals if one in self._totals}
        if self._totals and passed > 0:
            self._average({one: _since(totals[one], before) for one, before in known.items()}, loop_s, passed)
        self._averages = {one: average for one, average in self._averages.items() if one in totals}
        self._ages = {one: age for one, age in self._ages.items() if one in totals}
        self._totals, self._at_s, self._loop_s = dict(totals), now_s, loop_s
        return {one: self._load(one, total.log_bytes) for one, total in totals.items()}

    def _average(self, done: Mapping[int, Totals], loop_s: float, passed: float) -> None:
        share = max(0.0, loop_s - self._loop_s) / passed
        costs = {one: did.bytes_in + did.bytes_out + CALL_BYTES * did.calls for one, did in done.items()}
        whole = sum(costs.values()) or 1
        weight = 1 - math.exp(-passed / WINDOW_S)
        for one, did in done.items():
            new = did.bytes_in / passed, did.bytes_out / passed, share * costs[one] / whole
            before = self._averages.get(one, (0.0, 0.0, 0.0))
            self._averages[one] = tuple(old + (now - old) * weight for old, now in zip(before, new, strict=True))  # type: ignore[assignment]
            self._ages[one] = self._ages.get(one, 0.0) + passed

    def _load(self, container: int, log_bytes: int) -> Load:
        """Corrected for the short time since the container was first measured."""
        age = self._ages.get(container, 0.0)
        if not age:
            return Load(log_bytes=log_bytes)
        correction = 1 / (1 - math.exp(-age / WINDOW_S))
        bytes_in, bytes_out, loop = (one * correction for one in self._averages[container])
        return Load(bytes_in, bytes_out, min(1.0, loop), log_bytes)


def _since(now: Totals, before: Totals) -> Totals:
    """What was done in between; all of it, if the container was opened anew."""
    done = (now.bytes_in - before.bytes_in, now.bytes_out - before.bytes_out, now.calls - before.calls)
    return now if min(done) < 0 else Totals(*done, now.log_bytes)


def weights_of(told: Collection[Mapping[int, Load]]) -> dict[int, float]:
    """The weight of each container that some row names."""
    return {container: load.weight for row in told for container, load in row.items()}


# Rows


def encode(loads: Mapping[int, Load]) -> bytes:
    """A node's row."""
    containers = {str(one): _numbers(load) for one, load in sorted(loads.items())}
    return json.dumps({"v": FORMAT, "containers": containers}, separators=(",", ":")).encode()


def decode(row: bytes) -> dict[int, Load]:
    """Raises ValueError for one that is not of this format."""
    try:
        fields: Any = json.loads(row)
        if fields["v"] != FORMAT:
            raise ValueError(f"format {fields['v']!r}, this release reads {FORMAT}")
        found: dict[int, Load] = {}
        for container, (bytes_in, bytes_out, thousandths, log_bytes) in fields["containers"].items():
            numbers = float(bytes_in), float(bytes_out), float(thousandths) / 1000
            if not all(math.isfinite(one) and one >= 0 for one in numbers):
                raise ValueError(f"container {container!r:.20} has no load")
            found[int(container)] = Load(*numbers, int(log_bytes))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no row of loads: {error!r:.99}") from error
    return found


def _numbers(load: Load) -> list[int]:
    return [
        _rounded(load.bytes_in_s),
        _rounded(load.bytes_out_s),
        _rounded(1000 * load.loop),
        _rounded(load.log_bytes),
    ]


def _rounded(value: float) -> int:
    """To two digits."""
    whole = round(value)
    return round(whole, DIGITS - len(str(abs(whole))))
