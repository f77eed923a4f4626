"""Error codes of the coordinator's refusals: they depend on the version of the producer's request."""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.refusals import Asked, Refusal, code_of

FENCED_SINCE: Final = 2
"""Version of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn; before it, clients know INVALID_PRODUCER_EPOCH only."""


def transaction_code(error: Refusal | StoreError, version: int, fenced_since: int = FENCED_SINCE) -> ErrorCode:
    """Kafka's error for a request of this version."""
    if isinstance(error, StoreError):
        return code_of(error, Asked.COORDINATOR)
    if error.code is ErrorCode.producer_fenced and version < fenced_since:
        return ErrorCode.invalid_producer_epoch
    return error.code
