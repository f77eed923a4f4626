"""The native reading of records against the same in Python: `python -m tests.gateway.network.drained [ROUNDS]`.

The method that decrypts is a stand-in here, which writes what it likes, or fails. So nothing but the extension is run,
under sanitizers too (`scripts/check-native`).
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final

from gateway.network.draining import Drain
from gateway.network.tls_records import RECORD_BYTES, RECORD_HEAD_BYTES

ROUNDS: Final = 2_000
Read = Callable[[int, memoryview], int]


class Dry(Exception):
    """What the stand-in raises."""


def in_python(read: Read, room: memoryview, wire: memoryview) -> tuple[int, Exception | None]:
    """As `Drain`."""
    size = at = 0
    while len(room) - size >= RECORD_BYTES and len(wire) - at >= RECORD_HEAD_BYTES:
        record = RECORD_HEAD_BYTES + int.from_bytes(wire[at + 3 : at + 5])
        if record > len(wire) - at:
            break
        try:
            count = read(RECORD_BYTES, room[size:])
        except Dry as error:
            return size, error
        if not count:
            return size, EOFError()
        size += count
        at += record
    return size, None


def stand_in(seed: int) -> Read:
    """Writes pieces of any size into the buffer; now and then it reads nothing, or fails."""
    chance = random.Random(seed)

    def read(most: int, buffer: memoryview) -> int:
        what = chance.random()
        if what < 0.02:
            raise Dry(f"number {chance.randrange(1000)}")
        if what < 0.04:
            return 0
        piece = chance.randbytes(chance.choice((1, 10, 1_000, most)))
        memoryview(buffer)[: len(piece)] = piece
        return len(piece)

    return read


def wire_of(chance: random.Random) -> bytes:
    """Records by their heads, the last one perhaps cut, or no record at all."""

    def pieces() -> Iterator[bytes]:
        for _ in range(chance.randrange(40)):
            size = chance.choice((0, 1, 32, 1_022, 16_400))
            yield struct.pack(">BHH", 0x17, 0x0303, size) + bytes(size)
        yield chance.randbytes(chance.randrange(8))

    wire = b"".join(pieces())
    return wire[: len(wire) - chance.choice((0, 0, 1, 500))]


def agree(drain: Drain, seed: int) -> None:
    """Both do the same with the same, to the byte and the error."""
    chance = random.Random(seed)
    wire, room = wire_of(chance), chance.choice((0, 1, RECORD_BYTES - 1, RECORD_BYTES, 65_536, 300_000))
    outcomes = []
    for each in (drain, in_python):
        filled = bytearray(room)
        size, error = each(stand_in(seed), memoryview(filled), memoryview(wire))
        outcomes.append((size, repr(error), bytes(filled)))
        del error  # whose frames hold the room
        filled += b"nobody holds it any more"
    assert outcomes[0] == outcomes[1], f"seed {seed}"


def outlives(drain: Drain) -> None:
    """A view that outlives the call is of memory that is there, whoever let go of the rest."""
    held: list[memoryview] = []

    def read(most: int, buffer: memoryview) -> int:
        held.append(memoryview(buffer))
        return most

    wire = struct.pack(">BHH", 0x17, 0x0303, 0) * 3
    size, error = drain(read, memoryview(bytearray(2 * RECORD_BYTES)), memoryview(wire))
    assert (size, type(error)) == (2 * RECORD_BYTES, BufferError)
    for view in held:
        view[:] = bytes(len(view))


def main(rounds: int = ROUNDS) -> None:
    from gateway.network._draining import drain

    for seed in range(rounds):
        agree(drain, seed)
    outlives(drain)
    print(f"{rounds} rounds: the same")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
