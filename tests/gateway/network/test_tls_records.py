"""Records of TLS by their heads: what is whole, and what may be costly."""

from __future__ import annotations

import struct

import pytest

from gateway.network.tls_records import HANDSHAKE, RECORD_BYTES_MAX, are_sealed, whole_records

CHANGE_OF_CIPHERS, ALERT, SEALED = 0x14, 0x15, 0x17


def record(kind: int, size: int = 40) -> bytes:
    return struct.pack(">BHH", kind, 0x0303, size) + bytes(size)


@pytest.mark.parametrize(
    ("kinds", "sealed"),
    [
        ([CHANGE_OF_CIPHERS, SEALED], True),  # a client's last message (RFC 8446, appendix D.4)
        ([SEALED], True),
        ([ALERT], True),
        ([HANDSHAKE], False),
        ([CHANGE_OF_CIPHERS, HANDSHAKE], False),  # a second ClientHello, or a resumed session of TLS 1.2
        ([SEALED, SEALED, HANDSHAKE], False),
    ],
)
def test_sealed(kinds: list[int], sealed: bool) -> None:
    """One record in the clear, wherever it stands, may ask for a signature."""
    assert are_sealed(memoryview(b"".join(map(record, kinds)))) == sealed


@pytest.mark.parametrize(
    ("sizes", "rest", "most", "whole"),
    [
        ([], 0, 1_000, 0),
        ([], 4, 1_000, 0),  # not even a head
        ([100], 0, 1_000, 105),
        ([100, 100], 3, 1_000, 210),
        ([100, 100], 0, 150, 105),  # no more than fit
        ([400], 0, 150, 405),  # but one always
        ([0, 0], 0, 1_000, 10),
    ],
)
def test_whole(sizes: list[int], rest: int, most: int, whole: int) -> None:
    wire = b"before" + b"".join(record(SEALED, size) for size in sizes) + record(SEALED, 9_000)[:rest]
    assert whole_records(memoryview(wire), 6, most) == whole


def test_no_record_is_so_large() -> None:
    """What no TLS makes is handed on as it came."""
    wire = record(SEALED, RECORD_BYTES_MAX)[:300]
    assert whole_records(memoryview(wire), 0, 100) == 300


def test_no_version_of_tls() -> None:
    """The same of text in the clear, in which the place of the length says little."""
    wire = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert whole_records(memoryview(wire), 0, 100) == len(wire)
    assert whole_records(memoryview(wire), 0, 10) == len(wire)
    assert whole_records(memoryview(wire[:4]), 0, 100) == 0
