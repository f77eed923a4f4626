"""What another node's answers mean."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from gateway.transactions.remote import cause

NONE, UNKNOWN, NOT_ATTEMPTED = ErrorCode.none, ErrorCode.unknown_topic_or_partition, ErrorCode.operation_not_attempted


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], NONE),
        ([NONE, NONE], NONE),
        ([NOT_ATTEMPTED, UNKNOWN, NOT_ATTEMPTED], UNKNOWN),
        ([NONE, ErrorCode.invalid_txn_state, UNKNOWN], ErrorCode.invalid_txn_state),
        ([NOT_ATTEMPTED], NOT_ATTEMPTED),
    ],
)
def test_the_cause(codes: list[ErrorCode], expected: ErrorCode) -> None:
    """A producer hears what kept its partitions out, and not that they were left out because of one another: that it
    takes for the end of everything."""
    assert cause(codes) is expected
