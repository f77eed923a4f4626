"""Kafka's code for each error of the store: row by row, and nothing is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from kio.schema.errors import ErrorCode

import core.errors
from core.errors import (
    AlreadyLocked,
    CannotMove,
    CoordinatorAway,
    CoordinatorRefuses,
    Corrupt,
    CorruptChunk,
    CorruptLog,
    CorruptState,
    Deposed,
    ErrorKind,
    MissingChunk,
    NameCollides,
    NotHosted,
    NotMovedYet,
    OutOfRange,
    SequenceGap,
    SlotMoves,
    Stale,
    StaleWriterEpoch,
    StorageFailure,
    StorageFull,
    StoreClosed,
    StoreError,
    StreamExists,
    StreamSealed,
    TierMissing,
    TierUnavailable,
    TooManyWriters,
    UnknownStream,
)
from gateway.refusals import CODES, Asked, code_of, refusal_of
from gateway.wire import error_codes

ERRORS: Final[tuple[StoreError, ...]] = (
    StreamExists("t"),
    NameCollides("a_b", "a.b"),
    UnknownStream("t"),
    Stale("t"),
    StreamSealed("t"),
    OutOfRange(5, 0, 3),
    StaleWriterEpoch(1, 0, 1),
    SequenceGap(1, 2, 4),
    StorageFull("the log is full"),
    TooManyWriters(5),
    StorageFailure("the disk is gone"),
    Deposed(3, "its epoch is 8"),
    CoordinatorAway("it does not answer"),
    StoreClosed("stopping"),
    NotHosted(3),
    SlotMoves("a", 1, 3),
    CannotMove("a", 1, "it is sealed"),
    NotMovedYet("a", 1, "there is no room"),
    Corrupt(Path("a.log"), 0, "torn", "Restore it"),
    CorruptLog(Path("a.log"), 0, "torn", "Restore it"),
    TierUnavailable("away"),
    TierMissing(),
    MissingChunk("key", "offsets 0 to 9"),
    CorruptChunk("key", 0, "torn"),
    CorruptState("it contradicts the log"),
    AlreadyLocked(Path("data"), "process 1"),
    CoordinatorRefuses("no rights"),
)

STORAGE: Final = ErrorCode.kafka_storage_error
AWAY: Final = ErrorCode.coordinator_not_available
LOST: Final = ErrorCode.not_coordinator
LEADER: Final = ErrorCode.not_leader_or_follower
OTHER: Final = ErrorCode.unknown_server_error
UNKNOWN: Final = ErrorCode.unknown_topic_or_partition

TABLE: Final[dict[type[StoreError], tuple[ErrorCode, ErrorCode, ErrorCode, ErrorCode, ErrorCode, ErrorCode]]] = {
    # error: of an append, a read, a partition, a topic, a coordinator, anything
    StreamExists: (STORAGE, STORAGE, STORAGE, ErrorCode.topic_already_exists, LOST, OTHER),
    NameCollides: (STORAGE, STORAGE, STORAGE, ErrorCode.invalid_topic_exception, LOST, OTHER),
    UnknownStream: (STORAGE, STORAGE, UNKNOWN, UNKNOWN, LOST, OTHER),
    Stale: (STORAGE, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    StreamSealed: (ErrorCode.policy_violation, STORAGE, STORAGE, ErrorCode.policy_violation, LOST, OTHER),
    OutOfRange: (STORAGE, STORAGE, ErrorCode.offset_out_of_range, STORAGE, LOST, OTHER),
    StaleWriterEpoch: (ErrorCode.invalid_producer_epoch, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    SequenceGap: (ErrorCode.out_of_order_sequence_number, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    TooManyWriters: (ErrorCode.not_enough_replicas, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    StorageFull: (ErrorCode.not_enough_replicas, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    StorageFailure: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, STORAGE),
    Deposed: (LEADER, STORAGE, LEADER, STORAGE, LOST, STORAGE),
    CoordinatorAway: (STORAGE, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    NotHosted: (LEADER, LEADER, LEADER, STORAGE, LOST, OTHER),
    SlotMoves: (LEADER, LEADER, LEADER, STORAGE, AWAY, OTHER),
    CannotMove: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    NotMovedYet: (STORAGE, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    StoreClosed: (STORAGE, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    Corrupt: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    CorruptLog: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    TierUnavailable: (STORAGE, STORAGE, STORAGE, STORAGE, AWAY, OTHER),
    TierMissing: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    MissingChunk: (STORAGE, ErrorCode.corrupt_message, STORAGE, STORAGE, LOST, OTHER),
    CorruptChunk: (STORAGE, ErrorCode.corrupt_message, STORAGE, STORAGE, LOST, OTHER),
    CorruptState: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    AlreadyLocked: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
    CoordinatorRefuses: (STORAGE, STORAGE, STORAGE, STORAGE, LOST, OTHER),
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_row(error: StoreError) -> None:
    assert tuple(code_of(error, asked) for asked in Asked) == TABLE[type(error)]


def test_every_error_has_a_row() -> None:
    every = {kind for kind in vars(core.errors).values() if isinstance(kind, type) and issubclass(kind, StoreError)}
    assert every - {StoreError} == set(TABLE) == {type(error) for error in ERRORS}


def test_every_rule_is_needed() -> None:
    """Each row of each column decides about some error: nothing is hidden behind a row before it."""
    for asked, rows in CODES.items():
        decided = set()
        for error in ERRORS:
            fits = (n for n, (meant, _) in enumerate(rows) if _fits(error, meant))
            decided.add(next(fits, None))
        assert set(range(len(rows))) <= decided, asked


def _fits(error: StoreError, meant: type[StoreError] | ErrorKind) -> bool:
    return error.kind is meant if isinstance(meant, ErrorKind) else isinstance(error, meant)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (StreamExists("t"), "Topic 't' already exists."),
        (NameCollides("a_b", "a.b"), "Topic 'a_b' collides with existing topic: a.b"),
        (UnknownStream("t"), "stream 't' does not exist"),
        (StreamSealed("t"), "stream 't' is sealed: it can be read, and takes no more entries"),
    ],
)
def test_words_of_a_topic(error: StoreError, message: str) -> None:
    refusal = refusal_of(error)
    assert (refusal.code, refusal.message) == (TABLE[type(error)][3], message)


def test_numbers_are_kafkas() -> None:
    numbers = {name: value for name, value in vars(error_codes).items() if name.isupper()}
    assert len(numbers) > 10
    assert numbers == {name: ErrorCode[name.lower()].value for name in numbers}
