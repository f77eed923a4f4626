"""The configuration keys of producer ids and transactions: their times to live."""

from __future__ import annotations

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX
from gateway.config.units import DAY_MS


class TransactionKeys(BaseModel):
    """Part of `Config`."""

    producer_id_expiration_ms: int = Field(
        DAY_MS,
        ge=1,
        le=INT_MAX,
        description="A producer id that wrote nothing for this long is forgotten.",
    )
    transaction_max_timeout_ms: int = Field(
        900_000, ge=1, le=INT_MAX, description="Longest time-out that a transactional producer may ask for."
    )
    transaction_state_log_num_partitions: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Partitions of __transaction_state, as which tools read transactional ids.",
    )
    transactional_id_expiration_ms: int = Field(
        7 * DAY_MS,
        ge=1,
        le=INT_MAX,
        description="A transactional id that nobody used for this long is forgotten.",
    )
    transaction_abort_timed_out_transaction_cleanup_interval_ms: int = Field(
        10_000,
        ge=1,
        le=INT_MAX,
        description="Time between two searches for transactions that took longer than their time-out.",
    )
    transaction_remove_expired_transaction_cleanup_interval_ms: int = Field(
        3_600_000, ge=1, le=INT_MAX, description="Time between two searches for transactional ids to forget."
    )
