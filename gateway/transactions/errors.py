"""How the coordinator's refusals are told to producers."""

from __future__ import annotations

from typing import Final

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.groups.journal import error_of
from gateway.transactions.transaction import Refused

FENCED_SINCE: Final = 2
"""Of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn; before, clients know INVALID_PRODUCER_EPOCH only."""


def code_of(error: Refused | StoreError, version: int, fenced_since: int = FENCED_SINCE) -> ErrorCode:
    """Kafka's error for a request of this version."""
    if isinstance(error, StoreError):
        return error_of(error)
    if error.code is ErrorCode.producer_fenced and version < fenced_since:
        return ErrorCode.invalid_producer_epoch
    return error.code
