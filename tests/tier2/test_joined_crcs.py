"""The CRC of many blocks from that of each."""

from __future__ import annotations

from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from tier2.joined_crcs import joined


@given(st.binary(max_size=600), st.integers(1, 64))
def test_as_if_it_were_computed_of_all(data: bytes, block_bytes: int) -> None:
    """CRCs join to the right one, whatever the number of blocks, and wherever the last one ends."""
    crcs = [crc32c(data[at : at + block_bytes]) for at in range(0, len(data), block_bytes)]
    assert joined(crcs, block_bytes, len(data)) == crc32c(data)


@given(st.binary(min_size=1, max_size=600), st.integers(1, 64), st.data())
def test_a_block_that_differs_is_noticed(data: bytes, block_bytes: int, chosen: st.DataObject) -> None:
    """One wrong bit in any block's CRC is one in the whole's."""
    crcs = [crc32c(data[at : at + block_bytes]) for at in range(0, len(data), block_bytes)]
    crcs[chosen.draw(st.integers(0, len(crcs) - 1))] ^= 1 << chosen.draw(st.integers(0, 31))
    assert joined(crcs, block_bytes, len(data)) != crc32c(data)
