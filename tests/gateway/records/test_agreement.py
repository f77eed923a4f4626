"""The native extension says what Python says, of any bytes: results, and errors to their text."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.records import key_table, record_check
from gateway.records.walking import PYTHON_VARIABLE
from tests.gateway.records.agreement import at_once, check, outcome
from tests.gateway.records.conftest import native_or_skip

pytestmark = pytest.mark.slow

CORPUS: Final = 4_000
PARTS: Final = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_damaged_batches(part: int) -> None:
    """Batches with damaged fields, always the same ones."""
    native = native_or_skip()
    for seed in range(part, CORPUS, PARTS):
        check(seed, native)


@settings(max_examples=500, deadline=None)
@given(content=st.binary(max_size=60), count=st.integers(-2, 9))
def test_any_bytes(content: bytes, count: int) -> None:
    """Bytes that never were records."""
    native = native_or_skip()
    for name in ("check_records", "find_newest"):
        arguments = (content, count, at_once) if name == "check_records" else (content, count, at_once, 0)
        assert outcome(getattr(native, name), *arguments) == outcome(getattr(record_check, name), *arguments)
    assert outcome(native.shifted, content, count, 5) == outcome(key_table.shifted, content, count, 5)


def test_a_large_batch() -> None:
    """The interpreter lock is given up for it; the answers are the same."""
    native = native_or_skip()
    content = b"".join(b"\x0c\0" + bytes((2 * n,)) + b"\0\x01\x01\0" for n in range(60)) * 300
    for name in ("check_records", "numbered"):
        python, found = (getattr(one, name)(content, 18_000, at_once) for one in (record_check, native))
        assert found == python


def test_keys_are_known_by_siphash() -> None:
    """The first and the last of the test vectors that its authors give for 128 bits."""
    hashed = native_or_skip()._native.hashed
    secret = bytes(range(16))

    assert hashed(secret, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert hashed(secret, bytes(range(63))).hex() == "5150d1772f50834a503e069a973fbd7c"


def test_python_where_it_is_asked_for() -> None:
    """The environment variable chooses Python although the extension is there; `auto` then means `header`."""
    code = """
from gateway.records.walking import IS_NATIVE, validates_fully
print(IS_NATIVE, *map(validates_fully, ("auto", "full", "header")))"""
    native = native_is_there()
    for value, printed in (("1", "False False True False"), ("", f"{native} {native} True False")):
        environment = {**os.environ, PYTHON_VARIABLE: value}
        told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == printed


def native_is_there() -> bool:
    try:
        native_or_skip()
    except pytest.skip.Exception:
        return False
    return True
