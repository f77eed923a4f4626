"""A request, or one item of it, that is refused: Kafka's error code and the words that say why.

Keeps: whoever refuses chooses the code where the reason is known, so handlers only pass it on.
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from core.errors import StoreError, StreamExists, StreamSealed, UnknownStream


class Refusal(Exception):
    """Carried from the check that failed to the response."""

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message


class InvalidConfig(Refusal):
    """A configuration name or value that Kafka would not take."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.invalid_config, message)


def invalid_request(message: str) -> Refusal:
    """A request that makes no sense, whatever the state of the broker."""
    return Refusal(ErrorCode.invalid_request, message)


def refusal_of(error: StoreError) -> Refusal:
    """What a client is told when the store could not make a change."""
    if isinstance(error, StreamExists):
        return Refusal(ErrorCode.topic_already_exists, f"Topic '{error.name}' already exists.")
    if isinstance(error, UnknownStream):
        return Refusal(ErrorCode.unknown_topic_or_partition, str(error))
    if isinstance(error, StreamSealed):
        return Refusal(ErrorCode.policy_violation, str(error))
    return Refusal(ErrorCode.kafka_storage_error, str(error))
