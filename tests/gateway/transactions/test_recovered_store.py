"""A store recovered from long-term storage has none of its predecessor's transactions."""

from __future__ import annotations

from gateway.long_term.recovery import KafkaTables
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE


def test_no_transaction_can_be_ended() -> None:
    """What was written in an open one is gone, so a producer that lives on must not be told that it has committed."""
    tables = {
        TRANSACTIONS_TABLE: {b"orders": b"row"},
        PENDING_OFFSETS_TABLE: {b"key": b"offset"},
        "streams": {b"s": b"t"},
    }

    assert {"streams", "offsets", "producerids"} == set(KafkaTables()(tables, {}))
