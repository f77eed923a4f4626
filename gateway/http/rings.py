"""Samples of many things, a ring for each: what the gateway remembers whether somebody looks or not.

Invariant: there are `keys_max` rings of `samples` numbers at most, eight bytes each.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping
from typing import Final, Generic, TypeVar

UNKNOWN: Final = -1

_K = TypeVar("_K", bound=Hashable)


class Rings(Generic[_K]):
    """A ring of samples for each key. One that has no sample for a whole round is forgotten."""

    def __init__(self, keys_max: int, samples: int) -> None:
        self._rings: dict[_K, array[int]] = {}
        self._last: dict[_K, int] = {}  # the round of a key's last sample
        self._keys_max = keys_max
        self._samples = samples
        self._round = 0

    def __len__(self) -> int:
        return len(self._rings)

    def add(self, values: Mapping[_K, int]) -> None:
        """One round of samples. Of keys beyond the bound, those that are known stay; a new one takes the place of the
        one that has had no sample for longest."""
        self._round += 1
        at = self._round % self._samples
        for key in [key for key, last in self._last.items() if self._round - last >= self._samples]:
            self._forget(key)
        for ring in self._rings.values():
            ring[at] = UNKNOWN
        silent = iter(sorted(self._last.keys() - values.keys(), key=self._last.__getitem__))
        for key, value in values.items():
            ring_of = self._rings.get(key)
            if ring_of is None:
                if len(self._rings) >= self._keys_max:
                    if (gone := next(silent, None)) is None:
                        continue
                    self._forget(gone)
                ring_of = self._rings[key] = array("q", [UNKNOWN]) * self._samples
            ring_of[at] = value
            self._last[key] = self._round

    def _forget(self, key: _K) -> None:
        del self._rings[key], self._last[key]

    def of(self, key: _K) -> list[int | None]:
        """A key's samples, oldest first, from its first known one on."""
        ring = self._rings.get(key)
        if ring is None:
            return []
        at = self._round % self._samples + 1
        values = [None if value == UNKNOWN else value for value in (*ring[at:], *ring[:at])]
        first = next((n for n, value in enumerate(values) if value is not None), len(values))
        return values[first:]
