"""The key space [0, 1) and the cuts that slots and segments make in it. Pure functions.

A stream of N slots orders them by their place in the key space. Kafka clients place a key by `hash(key) mod N`. If N is
2^k, that is by the hash's k lowest bits. So a key's point is its hash with the bits reversed, and slot p owns
`[r/N, (r+1)/N)`, r being the k-bit reversal of p. Doubling N then cuts every slot's range in two: the lower half stays
slot p, the upper becomes slot p + N. For other N the ranges are nominal: slot p stands at `[p/N, (p+1)/N)`.

**Invariant**: the ranges of a stream's slots, and of an epoch's segments, cover the key space without overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, order=True)
class KeyRange:
    """A half-open interval of the key space. Raises ValueError when it is empty or leaves [0, 1]."""

    low: Fraction
    high: Fraction

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"[{self.low}, {self.high}) is no key range")

    def __contains__(self, point: object) -> bool:
        return isinstance(point, Fraction) and self.low <= point < self.high


def is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def reverse_bits(value: int, bits: int) -> int:
    """The `bits` lowest bits of a number in reverse order."""
    return int(format(value, f"0{bits}b")[::-1], 2) if bits else 0


def key_point(key_hash: int) -> Fraction:
    """The point in the key space of a key with this 32-bit hash."""
    return Fraction(reverse_bits(key_hash & 0xFFFF_FFFF, 32), 2**32)


def position_of_slot(slot: int, slots: int) -> int:
    """A slot's place in key order, 0 to slots - 1."""
    return reverse_bits(slot, slots.bit_length() - 1) if is_power_of_two(slots) else slot


def slot_at_position(position: int, slots: int) -> int:
    """The slot at a place in key order."""
    return position_of_slot(position, slots)  # reversing the bits twice changes nothing


def slots_in_key_order(slots: int) -> list[int]:
    """All slots of a stream, ordered by key range."""
    return sorted(range(slots), key=lambda slot: position_of_slot(slot, slots))


def slot_range(slot: int, slots: int) -> KeyRange:
    """The key range of a slot."""
    position = position_of_slot(slot, slots)
    return KeyRange(Fraction(position, slots), Fraction(position + 1, slots))


def run_range(first: int, last: int, slots: int) -> KeyRange:
    """The key range of a run of slots in key order: positions `first` to `last` - 1."""
    return KeyRange(Fraction(first, slots), Fraction(last, slots))


def covers(runs: Sequence[tuple[int, int]], slots: int) -> bool:
    """Whether the runs, in any order, cover all slots once."""
    position = 0
    for first, last in sorted(runs):
        if first != position or last <= first:
            return False
        position = last
    return position == slots
