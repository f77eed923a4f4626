"""The stored form of transactions: written values come back, released forms stay readable, damage is refused."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from gateway.groups.persistence import OffsetKey, UnreadableRecord, encode_offset_key
from gateway.transactions.persistence import (
    decode_pending_key,
    decode_transaction,
    encode_pending_key,
    encode_transaction,
)
from gateway.transactions.places import Place
from gateway.transactions.transaction import NOBODY, Identity, Transaction, TransactionState

pytestmark = pytest.mark.slow

U32, I32 = st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
IDENTITIES = st.builds(Identity, I64, st.integers(-(2**15), 2**15 - 1))
TEXT = st.text(max_size=20)


@st.composite
def transactions(draw: st.DrawFn) -> Transaction:
    who = draw(IDENTITIES)
    return Transaction(
        transactional_id=draw(TEXT),
        producer_id=who.producer_id,
        epoch=who.epoch,
        last=draw(IDENTITIES),
        next=draw(IDENTITIES),
        remembers=draw(st.booleans()),
        timeout_ms=draw(I32),
        state=draw(st.sampled_from(TransactionState)),
        partitions=draw(st.frozensets(st.builds(Place, U32, U32), max_size=4)),
        groups=draw(st.frozensets(TEXT, max_size=3)),
        started_ms=draw(I64),
        changed_ms=draw(I64),
    )


#: As the first release with transactions writes them. Never change these bytes: data directories hold them.
GOLDEN = Transaction(
    transactional_id="t",
    producer_id=1_000,
    epoch=3,
    last=Identity(1_000, 2),
    next=Identity(1_000, 4),
    remembers=True,
    timeout_ms=60_000,
    state=TransactionState.PREPARE_COMMIT,
    partitions=frozenset({Place(7, 1), Place(7, 0)}),
    groups=frozenset({"g", "eé"}),
    started_ms=1_700_000_000_000,
    changed_ms=1_700_000_000_001,
)
GOLDEN_BYTES = bytes.fromhex(
    "010201"
    "e803000000000000"
    "0300"
    "e803000000000000"
    "0200"
    "e803000000000000"
    "0400"
    "60ea0000"
    "0068e5cf8b010000"
    "0168e5cf8b010000"
    "02000000"
    "0700000000000000"
    "0700000001000000"
    "02000000"
    "030065c3a9"
    "010067"
)
GOLDEN_EMPTY = Transaction(transactional_id="t", producer_id=5, epoch=0, timeout_ms=1, changed_ms=2)
GOLDEN_EMPTY_BYTES = bytes.fromhex(
    "010000"
    "0500000000000000"
    "0000"
    "ffffffffffffffff"
    "ffff"
    "ffffffffffffffff"
    "ffff"
    "01000000"
    "ffffffffffffffff"
    "0200000000000000"
    "00000000"
    "00000000"
)
GOLDEN_KEY = bytes.fromhex("00000000000003e801006701007400000003")


@pytest.mark.parametrize(("known", "stored"), [(GOLDEN, GOLDEN_BYTES), (GOLDEN_EMPTY, GOLDEN_EMPTY_BYTES)])
def test_golden(known: Transaction, stored: bytes) -> None:
    """A transaction as the first release stored it is read and written as then."""
    assert encode_transaction(known) == stored
    assert decode_transaction(b"t", stored) == known


def test_golden_pending_offset() -> None:
    """The key of a pending offset sorts by producer and goes on as the key of a committed one."""
    key = OffsetKey("g", "t", 3)

    assert encode_pending_key(1_000, key) == GOLDEN_KEY
    assert decode_pending_key(GOLDEN_KEY) == (1_000, key)
    assert GOLDEN_KEY[8:] == encode_offset_key(key)


def test_nobody() -> None:
    """Numbers that say "none" are part of the layout."""
    assert NOBODY == (-1, -1)
    assert [state.value for state in TransactionState] == list(range(6))


@given(transactions())
@settings(max_examples=200, deadline=None)
def test_transactions_come_back(known: Transaction) -> None:
    """Every transaction that can be written is read back as it was, and is written the same way always."""
    stored = encode_transaction(known)

    assert decode_transaction(known.transactional_id.encode(), stored) == known
    assert encode_transaction(decode_transaction(known.transactional_id.encode(), stored)) == stored


@given(st.integers(0, 2**63 - 1), st.builds(OffsetKey, TEXT, TEXT, st.integers(0, 2**31 - 1)))
@settings(max_examples=100, deadline=None)
def test_pending_keys_come_back(producer_id: int, key: OffsetKey) -> None:
    """Every key is read back as it was."""
    assert decode_pending_key(encode_pending_key(producer_id, key)) == (producer_id, key)


@given(transactions(), st.data())
@settings(max_examples=200, deadline=None)
def test_cut_off(known: Transaction, data: st.DataObject) -> None:
    """A value that ends early, or goes on, is refused."""
    stored = encode_transaction(known)
    size = data.draw(st.integers(0, len(stored) - 1))

    for damaged in (stored[:size], stored + b"\0"):
        with pytest.raises(UnreadableRecord):
            decode_transaction(b"t", damaged)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 0),  # a version before the first
        (0, 2),  # a newer version
        (1, 6),  # a state that there is none
        (54, 255),  # more partitions than bytes
        (73, 255),  # more groups than bytes
        (77, 255),  # a group longer than the value
        (80, 255),  # a group that is no UTF-8
    ],
)
def test_damage(position: int, value: int) -> None:
    """Contradictory values are refused, never guessed at."""
    damaged = bytearray(GOLDEN_BYTES)
    assert damaged[position] != value
    damaged[position] = value

    with pytest.raises(UnreadableRecord):
        decode_transaction(b"t", bytes(damaged))


@pytest.mark.parametrize(
    "stored", [GOLDEN_KEY[:7], GOLDEN_KEY[:-1], GOLDEN_KEY + b"\0", b"", GOLDEN_KEY[:8] + b"\xff" * 9]
)
def test_damaged_pending_keys(stored: bytes) -> None:
    """Neither are keys."""
    with pytest.raises(UnreadableRecord):
        decode_pending_key(stored)


def test_damaged_id() -> None:
    """A transactional id is UTF-8."""
    with pytest.raises(UnreadableRecord):
        decode_transaction(b"\xff", GOLDEN_BYTES)
