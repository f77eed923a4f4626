"""How an object's bytes become the parts of an upload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tier2.parts import COPIED_BELOW, Part, cut

PART = 4 * COPIED_BELOW
SIZES = st.lists(
    st.sampled_from([0, 1, 7, COPIED_BELOW - 1, COPIED_BELOW, PART - 1, PART, PART + 1, 3 * PART]), max_size=8
)


def pieces_of(sizes: list[int]) -> list[bytes]:
    return [bytes([65 + number]) * size for number, size in enumerate(sizes)]


@pytest.mark.slow
@given(SIZES)
def test_parts_are_full_but_for_the_last_and_none_is_empty_unless_all_is(sizes: list[int]) -> None:
    pieces = pieces_of(sizes)
    parts = list(cut(iter(pieces), PART))
    assert b"".join(map(bytes, parts)) == b"".join(pieces)
    assert all(len(part) == PART for part in parts[:-1])
    assert 0 < len(parts[-1]) <= PART or (len(parts) == 1 and not any(sizes))


@given(SIZES)
def test_a_part_is_what_it_hands_out(sizes: list[int]) -> None:
    for part in cut(iter(pieces_of(sizes)), PART):
        assert b"".join(part) == bytes(part)
        assert len(part) == len(bytes(part))
        assert all(part)  # an empty write would end nothing, but costs a call


def test_small_pieces_are_copied_together_and_let_their_buffer_go() -> None:
    buffer = bytearray(PART)
    (part,) = cut(iter([memoryview(buffer)[:10], memoryview(buffer)[20:30]]), PART)
    buffer.clear()  # impossible while there is a view
    assert list(part) == [bytes(20)]


def test_large_pieces_are_not_copied() -> None:
    buffer = bytearray(COPIED_BELOW)
    part = next(cut(iter([b"before", buffer, b"behind"]), PART))
    with pytest.raises(BufferError):
        buffer.clear()
    assert [len(piece) for piece in part] == [6, COPIED_BELOW, 6]


def test_nothing_is_one_empty_part() -> None:
    assert list(cut(iter([]), PART)) == [Part((), 0)]
