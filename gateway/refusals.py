"""The refusal of a request, and the table from the store's errors to Kafka's codes.

A refusal is one exception, `Refusal`: the check that knows the reason chooses the code, handlers pass it on. An error
of the store knows nothing of Kafka; `CODES` gives its code for each kind of request. The columns differ, because
clients react differently to the same code.

Invariant: no other module maps an error of the store to a code.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from kio.schema.errors import ErrorCode

from core.errors import (
    CorruptChunk,
    Deposed,
    ErrorKind,
    MissingChunk,
    NameCollides,
    NotHosted,
    OutOfRange,
    SequenceGap,
    StaleWriterEpoch,
    StorageFailure,
    StorageFull,
    StoreError,
    StreamExists,
    StreamSealed,
    TooManyWriters,
    UnknownStream,
)


class Refusal(Exception):
    """A request, or one item of it, is refused: Kafka's code, and a message for responses that have a field for it."""

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


class Asked(enum.Enum):
    """The kind of request to the store: a column of the table."""

    APPEND = enum.auto()  # Produce
    READ = enum.auto()  # Fetch
    PARTITION = enum.auto()  # an administrative request about one partition, or about a producer id
    TOPIC = enum.auto()  # an administrative request about a topic or a resource
    COORDINATOR = enum.auto()  # a group's or a transaction's own record
    ANYTHING = enum.auto()  # a handler raised an error that it does not handle


Meant = type[StoreError] | ErrorKind

CODES: Final[Mapping[Asked, Sequence[tuple[Meant, ErrorCode]]]] = {
    Asked.APPEND: (
        (SequenceGap, ErrorCode.out_of_order_sequence_number),
        (StaleWriterEpoch, ErrorCode.invalid_producer_epoch),
        (StreamSealed, ErrorCode.policy_violation),
        (NotHosted, ErrorCode.not_leader_or_follower),
        # The new leader knows whether the batch is there; the retry of an idempotent producer settles it.
        (Deposed, ErrorCode.not_leader_or_follower),
        # Every client tries this again, and it says that nothing was stored: KAFKA_STORAGE_ERROR leaves that open.
        (StorageFull, ErrorCode.not_enough_replicas),
        # Its client sends the same batch again, with the same sequence.
        (TooManyWriters, ErrorCode.not_enough_replicas),
        (StoreError, ErrorCode.kafka_storage_error),
    ),
    Asked.READ: (
        (NotHosted, ErrorCode.not_leader_or_follower),
        # Clients pass this to the application with partition and offset. KAFKA_STORAGE_ERROR they would try for ever.
        (CorruptChunk, ErrorCode.corrupt_message),
        (MissingChunk, ErrorCode.corrupt_message),
        (StoreError, ErrorCode.kafka_storage_error),
    ),
    Asked.PARTITION: (
        (NotHosted, ErrorCode.not_leader_or_follower),
        (Deposed, ErrorCode.not_leader_or_follower),
        (OutOfRange, ErrorCode.offset_out_of_range),
        (UnknownStream, ErrorCode.unknown_topic_or_partition),
        (StoreError, ErrorCode.kafka_storage_error),
    ),
    Asked.TOPIC: (
        (StreamExists, ErrorCode.topic_already_exists),
        (NameCollides, ErrorCode.invalid_topic_exception),
        (UnknownStream, ErrorCode.unknown_topic_or_partition),
        (StreamSealed, ErrorCode.policy_violation),
        (StoreError, ErrorCode.kafka_storage_error),
    ),
    Asked.COORDINATOR: (
        # On both, every client looks for the coordinator again; on the second it also forgets the one it has.
        (ErrorKind.RETRY, ErrorCode.coordinator_not_available),
        (StoreError, ErrorCode.not_coordinator),
    ),
    Asked.ANYTHING: (
        # A write failed: the process ends, and a client finds everything acknowledged after the restart.
        (StorageFailure, ErrorCode.kafka_storage_error),
        (StoreError, ErrorCode.unknown_server_error),
    ),
}
"""By kind of request: kinds of errors with their codes. The first row that fits counts, and the last one fits all.
On KAFKA_STORAGE_ERROR a client asks for the leader and tries again."""


def code_of(error: StoreError, asked: Asked) -> ErrorCode:
    """Kafka's code for an error of the store."""
    return next(code for meant, code in CODES[asked] if _is(error, meant))


def _is(error: StoreError, meant: Meant) -> bool:
    return error.kind is meant if isinstance(meant, ErrorKind) else isinstance(error, meant)


class CatchesUp(Protocol):
    """The store, as it follows other processes."""

    async def catch_up(self) -> None:
        """Take over all that other processes have decided by now. Raises StoreError."""


async def caught_up(store: CatchesUp) -> None:
    """For a change that starts from what is known: nothing that another process has answered before is unknown when
    this returns. Raises Refusal."""
    try:
        await store.catch_up()
    except StoreError as failed:
        raise refusal_of(failed) from failed


def refusal_of(error: StoreError) -> Refusal:
    """The refusal of a change to a topic that the store could not make."""
    code = code_of(error, Asked.TOPIC)
    match error:
        case StreamExists():
            return Refusal(code, f"Topic '{error.name}' already exists.")
        case NameCollides():
            return Refusal(code, f"Topic '{error.name}' collides with existing topic: {error.other}")
        case _:
            return Refusal(code, str(error))
