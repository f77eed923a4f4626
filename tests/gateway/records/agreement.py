"""Batches of records made at random, damaged where their fields are, and held against both who walk them.

One seed replays one batch. `python -m tests.gateway.records.agreement --seconds 600` goes on with new seeds.
"""

from __future__ import annotations

import argparse
import random
import time
from array import array
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Final

from gateway.records import key_table, record_check
from gateway.records.record_batch import HEADER_BYTES, SMALLEST_RECORD_BYTES
from gateway.records.record_check import Timely
from gateway.records.records import INT64_MAX, INT64_MIN, RECORDS_MAX, write_varint
from gateway.wire.errors import InvalidBatch

COUNTS: Final = (1, 1, 1, 2, 3, 8, 9, 40, 300)
SIZES: Final = (0, 0, 1, 5, 63, 64, 130, 9_000)
NUMBERS: Final = (
    -(2**62),
    -(2**34),
    -(2**31),
    -65,
    -64,
    -3,
    -2,
    -1,
    0,
    1,
    2,
    63,
    64,
    2**13,
    2**20,
    2**31,
    2**34,
    2**63,
)
"""Values of a damaged number: the ends of its encodings, and beyond them."""
SECRET: Final = bytes(range(16))


def at_once(units: int) -> None:
    """Nobody waits for this one."""


class Batch:
    """Records of a batch as fields that can be damaged one by one."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = chance.choice(COUNTS)
        self.claimed = self.count
        keyless = chance.random() < 0.3
        self.records: list[list[int | bytes]] = [self._record(place, keyless) for place in range(self.count)]
        self.lengths: list[int | None] = [None] * self.count
        self.tail = b""

    def _record(self, place: int, keyless: bool) -> list[int | bytes]:
        chance = self.chance
        key = None if keyless or chance.random() < 0.1 else chance.randbytes(chance.choice(SIZES[:-1]))
        value = None if chance.random() < 0.2 else bytes(chance.choice(SIZES))
        fields: list[int | bytes] = [b"\0", chance.choice((0, place, -place, 10**6 * place)), place]
        for data in (key, value):
            fields += [-1] if data is None else [len(data), data]
        headers = chance.choice((0, 0, 0, 1, 2, 20))
        fields.append(headers)
        for _ in range(headers):
            fields += [1, b"h", *chance.choice(((-1,), (0,), (3, b"abc")))]
        return fields

    def damage(self) -> None:
        """Change a field, a length, the count or the end."""
        chance = self.chance
        at = chance.randrange(self.count)
        fields = self.records[at]
        match chance.randrange(9):
            case 0:
                self.lengths[at] = chance.choice(NUMBERS)
            case 1:
                self.claimed = min(self.claimed + chance.choice((-1, 1, 1_000, 10**5)), RECORDS_MAX)
            case 2:
                self.tail = chance.randbytes(chance.choice((1, 7, 30)))
            case 3:
                del fields[chance.randrange(len(fields))]
            case 4:
                fields.insert(chance.randrange(len(fields)), chance.randbytes(chance.choice((1, 2, 11))))
            case 5:
                fields[chance.randrange(len(fields))] = b"\xff" * chance.randrange(1, 10) + chance.choice(
                    (b"\x01", b"\x7f")
                )
            case 6:
                self.records[at], self.records[-1] = self.records[-1], self.records[at]
            case _:
                fields[chance.randrange(len(fields))] = chance.choice(NUMBERS)

    def encoded(self) -> bytes:
        out = bytearray()
        for fields, length in zip(self.records, self.lengths, strict=True):
            body = bytearray()
            for one in fields:
                if isinstance(one, int):
                    write_varint(body, one)
                else:
                    body += one
            write_varint(out, len(body) if length is None else length)
            out += body
        return bytes(out) + self.tail


def content_of(seed: int) -> tuple[bytes, int]:
    """The bytes and the claimed count of one batch."""
    chance = random.Random(seed)
    content = Batch(chance)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        content.damage()
    encoded = content.encoded()
    if chance.random() < 0.3:
        encoded = encoded[: chance.randrange(len(encoded) + 1)]
    if encoded and chance.random() < 0.3:
        place = chance.randrange(len(encoded))
        encoded = encoded[:place] + bytes((chance.randrange(256),)) + encoded[place + 1 :]
    return encoded, content.claimed


def alone(content: bytes) -> memoryview:
    """The bytes without the zero that Python puts behind them, so that a tool sees a read past their end."""
    return memoryview(array("B", content) * 1)


def outcome(work: Callable[..., Any], *arguments: Any) -> Any:
    """The outcome of the call: a value, or the error's code and text."""
    try:
        found = work(*arguments)
    except InvalidBatch as refused:
        return refused.error_code, refused.reason
    return bytes(found) if isinstance(found, bytearray) else found


def outcomes(
    checking: ModuleType, compacting: ModuleType, content: bytes | memoryview, count: int, chance: random.Random
) -> Sequence[Any]:
    """All that a walker says about a batch."""
    low, high = sorted(chance.choice(NUMBERS[:-1]) for _ in range(2))
    least, shift = chance.choice(NUMBERS[:-1]), chance.choice((*NUMBERS[:-1], INT64_MAX, INT64_MIN))
    first, offset_max = chance.choice((0, 1, count // 2)), chance.choice((count - 1, count // 2, INT64_MAX))
    checked = outcome(checking.check_records, content, count, at_once, Timely(low, high, chance.choice(NUMBERS[:-1])))
    found = [
        checked,
        outcome(checking.find_newest, content, count, at_once, first),
        outcome(checking.find_first, content, count, at_once, least, first),
        outcome(compacting.shifted, content, count, shift),
    ]
    if isinstance(checked, record_check.Records):
        found.append(outcome(checking.numbered, content, count, at_once))
    table = compacting.KeyTable(SECRET)
    for base in (0, chance.choice((1, 1_000, 2**62))):
        found += [outcome(table.learn, content, count, offset_max, base), len(table)]
    found += [
        outcome(table.sift, content, count, offset_max, base, tombstones) for base in (0, 1) for tombstones in (0, 1)
    ]
    return found


def claims(walker: ModuleType, content: bytes, count: int) -> tuple[bool, ...]:
    """Whether a batch is as its header claims, for the header that it should have."""
    batch = alone(bytes(HEADER_BYTES) + content)
    try:
        newest = record_check.check_records(content, count, at_once).newest
    except InvalidBatch:
        newest = 0
    return tuple(walker.are_as_claimed(batch, count, newest, with_keys) for with_keys in (False, True))


def check(seed: int, native: ModuleType) -> None:
    """Both agree about the batch of a seed; the quick look of Python's may leave batches to the full one."""
    content, count = content_of(seed)
    python = outcomes(record_check, key_table, content, count, random.Random(seed))
    assert outcomes(native, native, alone(content), count, random.Random(seed)) == python, f"seed {seed}"
    checked = python[0]
    are = isinstance(checked, record_check.Records) and checked.are_numbered
    claimed = are, are and not checked.without_key
    assert claims(native, content, count) == claimed, f"seed {seed}"
    if 0 < count * SMALLEST_RECORD_BYTES <= len(content):  # as for every batch whose header was validated
        quick = claims(record_check, content, count)
        assert all(one <= other for one, other in zip(quick, claimed, strict=True)), f"seed {seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="the first seed; a random one if not given")
    parser.add_argument("--batches", type=int, default=2**62, help="end after this many")
    options = parser.parse_args()
    from gateway.records import native_walk

    seed = first = random.SystemRandom().randrange(2**48) if options.seed is None else options.seed
    end = time.monotonic() + options.seconds
    print(f"seeds from {first} on", flush=True)
    while time.monotonic() < end and seed - first < options.batches:
        check(seed, native_walk)
        seed += 1
    print(f"{seed - first} batches: both agree")


if __name__ == "__main__":
    main()
