"""What a producer hears when the coordinator refuses: the code depends on the version of its request."""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.refusals import Asked, Refusal, code_of

FENCED_SINCE: Final = 2
"""Of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn; before, clients know INVALID_PRODUCER_EPOCH only."""


def transaction_code(error: Refusal | StoreError, version: int, fenced_since: int = FENCED_SINCE) -> ErrorCode:
    """Kafka's error for a request of this version."""
    if isinstance(error, StoreError):
        return code_of(error, Asked.COORDINATOR)
    if error.code is ErrorCode.producer_fenced and version < fenced_since:
        return ErrorCode.invalid_producer_epoch
    return error.code
