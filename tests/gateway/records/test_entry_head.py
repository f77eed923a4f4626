"""The store's reading of a stored batch, against the whole header."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.records.record_batch import HEADER, HEADER_BYTES, MARKER_TIMESTAMP, entry_head, read_header

I64 = st.integers(-(2**63), 2**63 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
FIELDS = st.tuples(
    *(I64, I32, I32, st.integers(-128, 127), st.integers(0, 2**32 - 1), st.integers(-(2**15), 2**15 - 1)),
    *(I32, I64, I64, I64, st.integers(-(2**15), 2**15 - 1), I32, I32),
)


@given(FIELDS, st.integers(0, 100))
def test_agrees_with_the_header(fields: tuple[int, ...], position: int) -> None:
    """The same numbers, wherever the batch lies; a control batch is older than all records."""
    data = bytes(position) + HEADER.pack(*fields)
    header = read_header(data, position)

    assert entry_head(memoryview(data), position) == (
        header.base_offset,
        header.last_offset_delta + 1,
        MARKER_TIMESTAMP if header.is_control else header.max_timestamp,
        header.size,
    )


def test_cut_off() -> None:
    """A batch that ends before its timestamps raises what readers of chunks expect."""
    for size in range(43):
        with pytest.raises(struct.error):
            entry_head(memoryview(bytes(HEADER_BYTES))[:size], 0)
