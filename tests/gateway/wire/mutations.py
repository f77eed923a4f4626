"""Hostile variants of valid requests: every count and length at its extremes, and random damage."""

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from kio.index import load_request_schema

from gateway.wire import primitives
from gateway.wire.codec import Codec, request_codec
from tests.gateway.wire.kio_values import instance, plain

EXTREMES_I16 = [struct.pack(">h", n) for n in (-(2**15), -2, -1, 0, 1, 2**15 - 1)]
EXTREMES_I32 = [struct.pack(">i", n) for n in (-(2**31), -2, -1, 0, 1, 100_000, 2**31 - 1)]
EXTREMES_VARINT = [
    b"\0",
    b"\1",
    b"\2",
    b"\x7f",
    b"\xff\x7f",
    b"\xa0\x8d\x06",  # 100,000
    b"\xff\xff\xff\xff\x07",  # 2**31 - 1
    b"\x80\x80\x80\x80\x08",  # 2**31
    b"\xff\xff\xff\xff\x0f",  # 2**32 - 1
    b"\xff" * 10 + b"\x01",
]
DAMAGE = [b"\0", b"\x7f", b"\x80", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x07"]

#: Readers whose first bytes are a count or a length, and the extremes of those.
COUNTED = {
    "read_count": EXTREMES_I32,
    "read_string": EXTREMES_I16,
    "read_bytes": EXTREMES_I32,
    "read_records": EXTREMES_I32,
    "read_compact_count": EXTREMES_VARINT,
    "read_compact_string": EXTREMES_VARINT,
    "read_compact_bytes": EXTREMES_VARINT,
    "read_compact_records": EXTREMES_VARINT,
    "read_tag_count": EXTREMES_VARINT,
    "skip_tags": EXTREMES_VARINT,
}


def valid_request(key: int, version: int, rng: random.Random) -> bytes:
    """The body of a request with random values, its arrays filled where chance wills."""
    values = plain(instance(load_request_schema(key, version), rng))
    return bytes(request_codec(key, version).encode(values))


def counts_and_lengths(key: int, version: int, body: bytes) -> list[tuple[int, list[bytes]]]:
    """The place of each count or length in a valid request, with the extremes to put there."""
    codec, noted = _noting_codec(key, version)
    noted.clear()
    codec.decode(body)
    found = list(noted)
    if request_codec(key, version).flexible:
        found.append((len(body) - 1, EXTREMES_VARINT))
    return found


def extremes(key: int, version: int, rng: random.Random) -> Iterator[bytes]:
    """Valid requests with one count or length replaced."""
    body = valid_request(key, version, rng)
    for position, replacements in counts_and_lengths(key, version, body):
        width = len(replacements[0]) if replacements is not EXTREMES_VARINT else 1
        for replacement in replacements:
            yield body[:position] + replacement + body[position + width :]


def damaged(key: int, version: int, rng: random.Random) -> bytes:
    """A valid request that was cut, overwritten, or followed by garbage."""
    body = valid_request(key, version, rng)
    if not body:
        return rng.choice(DAMAGE)
    position = rng.randrange(len(body))
    match rng.randrange(4):
        case 0:
            return body[:position]
        case 1:
            return body + rng.choice(DAMAGE)
        case 2:
            return body[:position] + rng.randbytes(rng.randrange(1, 9)) + body[position:]
        case _:
            damage = rng.choice(DAMAGE)
            return body[:position] + damage + body[position + len(damage) :]


@cache
def _noting_codec(key: int, version: int) -> tuple[Codec, list[tuple[int, list[bytes]]]]:
    """A codec whose decoder notes in the list where it reads counts and lengths: to generate one takes long."""
    noted: list[tuple[int, list[bytes]]] = []
    with _noting(noted):
        codec = Codec(key, version, is_request=True)
        assert codec._decoder
    return codec, noted


@contextmanager
def _noting(found: list[tuple[int, list[bytes]]]) -> Iterator[None]:
    """While it lasts, newly generated decoders note where they read counts and lengths."""
    originals = {name: getattr(primitives, name) for name in COUNTED}

    def noting(name: str) -> Any:
        def read(b: memoryview, p: int, *rest: Any) -> Any:
            found.append((p, COUNTED[name]))
            return originals[name](b, p, *rest)

        return read

    try:
        for name in COUNTED:
            setattr(primitives, name, noting(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(primitives, name, original)
