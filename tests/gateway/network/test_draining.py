"""Reading records of TLS natively: as in Python, and safe whatever the method does that it calls."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from gateway.network.draining import Drain
from gateway.network.tls_records import RECORD_BYTES
from gateway.records.walking import PYTHON_VARIABLE
from tests.gateway.network.drained import Dry, agree

pytestmark = pytest.mark.slow

RECORD = b"\x17\x03\x03\x00\x01x"


@pytest.fixture
def drain() -> Drain:
    if os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"{PYTHON_VARIABLE} asks for Python")
    module = pytest.importorskip("gateway.network._draining", reason="there is no compiler here")
    native: Drain = module.drain
    return native


@pytest.mark.parametrize("seed", range(300))
def test_agreement(drain: Drain, seed: int) -> None:
    """The same bytes and the same error as Python's loop, for records of any size and rooms of any size."""
    agree(drain, seed)


def test_what_was_read_before_a_failure_is_kept(drain: Drain) -> None:
    """The error comes with the bytes, not in their place."""
    calls = iter((1, 1, Dry("empty")))

    def read(most: int, buffer: memoryview) -> int:
        call = next(calls)
        if isinstance(call, Exception):
            raise call
        memoryview(buffer)[:1] = b"y"
        return call

    room = bytearray(2 * RECORD_BYTES)
    size, error = drain(read, memoryview(room), memoryview(RECORD * 5))
    assert (size, repr(error), room[:3]) == (2, "Dry('empty')", b"yy\0")


@pytest.mark.parametrize("count", [-1, RECORD_BYTES * 3, 2**70, "one", None])
def test_counts_that_cannot_be(drain: Drain, count: Any) -> None:
    """No more is believed to be there than there was room for."""
    room = bytearray(2 * RECORD_BYTES)
    size, error = drain(lambda most, buffer: count, memoryview(room), memoryview(RECORD))
    assert size == 0
    assert isinstance(error, ValueError | OverflowError | TypeError)


def test_a_buffer_that_is_held(drain: Drain) -> None:
    """Whoever keeps the buffer writes into no memory that is somebody else's by then: the room stays as it is."""
    held: list[memoryview] = []

    def read(most: int, buffer: memoryview) -> int:
        held.append(memoryview(buffer))
        return 1

    room = bytearray(2 * RECORD_BYTES)
    size, error = drain(read, memoryview(room), memoryview(RECORD * 3))
    assert (size, type(error)) == (3, BufferError)
    with pytest.raises(BufferError):
        room += b"more"
    held[-1][:2] = b"ok"
    assert room[2:4] == b"ok"


def test_arguments_that_are_none(drain: Drain) -> None:
    anything: Any = drain
    for arguments in ((), (len, bytearray(9)), (len, b"not to be written", b""), (len, bytearray(9), "text")):
        with pytest.raises((TypeError, BufferError)):
            anything(*arguments)


def test_who_reads(drain: Drain) -> None:
    """The environment asks for Python."""
    code = "from gateway.network.draining import drain; print(drain is None)"
    for value, told in (("", "False"), ("1", "True")):
        environment = {**os.environ, PYTHON_VARIABLE: value}
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == told
