"""The rows of delegation tokens: their bytes, for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.security.delegation_rows import (
    DelegationToken,
    left_over,
    read_table,
    removal_of,
    renewal_of,
    rows_of,
)
from gateway.security.principal import Principal

PEOPLE = st.builds(Principal, st.just("User"), st.text(st.characters(codec="utf-8"), max_size=20))
TIMES = st.integers(0, 2**62)
TOKENS = st.builds(
    DelegationToken,
    st.text("abc_-", min_size=1, max_size=5),
    PEOPLE,
    PEOPLE,
    st.lists(PEOPLE, max_size=4).map(tuple),
    TIMES,
    TIMES,
    TIMES,
)
TOKEN = DelegationToken("id", Principal("User", "é"), Principal("User", "b"), (Principal("User", "c"),), 1, 2, 3)
MADE = bytes.fromhex(
    "01 0000000000000001 0000000000000003 0003 0004 55736572 0002 c3a9  0004 55736572 0001 62  0004 55736572 0001 63"
)
ROWS = {b"\x01id": MADE, b"\x02id": bytes.fromhex("0000000000000002")}


def applied(*changes: dict[bytes, bytes | None]) -> dict[bytes, bytes]:
    """A table after changes."""
    table: dict[bytes, bytes] = {}
    for change in changes:
        for key, value in change.items():
            table.pop(key, None)
            if value is not None:
                table[key] = value
    return table


def test_golden() -> None:
    """Version 1, byte for byte."""
    assert rows_of(TOKEN) == ROWS
    assert list(read_table(ROWS)) == [TOKEN]


@given(st.lists(TOKENS, max_size=5, unique_by=lambda token: token.id))
def test_round_trip(tokens: list[DelegationToken]) -> None:
    """Tokens are read back as they were written."""
    assert list(read_table(applied(*map(rows_of, tokens)))) == tokens


def test_a_renewal_that_crosses_a_removal() -> None:
    """It does not bring the token back, and its row is found as left over."""
    table = applied(rows_of(TOKEN), removal_of("id"), renewal_of("id", 9))
    assert list(read_table(table)) == []
    assert left_over(table) == ["id"]
    assert left_over(ROWS) == []


@pytest.mark.parametrize("row", [b"", b"\x02" + MADE[1:], MADE[:-1], MADE + b"x", MADE[:18] + b"\x04" + MADE[19:]])
def test_unknown_rows(row: bytes) -> None:
    """A row that this release did not write is refused."""
    with pytest.raises(ValueError, match="a stored delegation token"):
        list(read_table({b"\x01other": row}))
