"""A store recovered from long-term storage has none of its predecessor's transactions."""

from __future__ import annotations

from gateway.long_term.recovery import KafkaTables
from gateway.transactions.persistence import PENDING_OFFSETS_TABLE, TRANSACTIONS_TABLE


def test_no_transaction_can_be_ended() -> None:
    """The records of an open one are gone, so its producer must not get the answer that it has committed."""
    tables = {
        TRANSACTIONS_TABLE: {b"orders": b"row"},
        PENDING_OFFSETS_TABLE: {b"key": b"offset"},
        "streams": {b"s": b"t"},
    }

    assert {"streams", "offsets", "producerids"} == set(KafkaTables()(tables, {}))
