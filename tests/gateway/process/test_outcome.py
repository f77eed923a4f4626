"""The exit code and the last words of each error, and the errors that are defects: nothing is left out."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

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
from gateway.config.layers import ConfigError
from gateway.data_directory import BadIdentity, InterruptedRecovery, NewerFormat, NotEmpty, UnusableDirectory
from gateway.exits import CannotGoOn, ExitCode
from gateway.groups.persistence import UnreadableRecord
from gateway.logs import JsonFormatter, TextFormatter, ToolFormatter
from gateway.long_term.identity import DamagedIdentity, IdentityRefused, OwnerAlive
from gateway.long_term.log_objects import LogIsThere, UnfitForLog
from gateway.long_term.opening import LongTermUnusable
from gateway.long_term.ownership import Owner
from gateway.network.binding import CannotListen
from gateway.process.outcome import outcome
from tier2.storage import Corrupt as CorruptObject
from tier2.storage import Denied, NoRoom, ObjectNotFound, Unavailable

CONFIGURATION, TAKEN, CORRUPT, STORAGE = (
    ExitCode.CONFIGURATION,
    ExitCode.TAKEN,
    ExitCode.CORRUPT,
    ExitCode.STORAGE,
)
HERE: Final = Path("data")
OWNER: Final = Owner("token", 1_700_000_000_000, "there", 7)

ENDS: Final[tuple[tuple[Exception, ExitCode], ...]] = (
    (ConfigError(["no such key"]), CONFIGURATION),
    (NewerFormat(HERE, 9, "9.0"), CONFIGURATION),
    (UnusableDirectory(HERE, OSError(errno.ENOTDIR, "is a file")), CONFIGURATION),
    (InterruptedRecovery(HERE), CONFIGURATION),
    (NotEmpty(HERE, ["a"]), CONFIGURATION),
    (BadIdentity(HERE, "is torn"), CORRUPT),
    (LongTermUnusable("no such bucket"), CONFIGURATION),
    (UnfitForLog("it ignores conditions"), CONFIGURATION),
    (LogIsThere("s3://bucket"), CONFIGURATION),
    (IdentityRefused("of another store"), CONFIGURATION),
    (OwnerAlive("the bucket", OWNER, "Stop it"), TAKEN),
    (DamagedIdentity("the bucket", "is torn"), CORRUPT),
    (CannotListen(":9092", OSError(errno.EADDRINUSE, "in use")), TAKEN),
    (CannotListen(":9092", OSError(errno.EADDRNOTAVAIL, "not ours")), CONFIGURATION),
    (TierMissing(), CONFIGURATION),
    (CoordinatorRefuses("no rights"), CONFIGURATION),
    (AlreadyLocked(HERE, "process 1"), TAKEN),
    (Corrupt(HERE, 0, "torn", "Restore it"), CORRUPT),
    (CorruptLog(HERE, 0, "torn", "Restore it"), CORRUPT),
    (CorruptState("it contradicts the log"), CORRUPT),
    (CorruptChunk("key", 0, "torn"), CORRUPT),
    (MissingChunk("key", "offsets 0 to 9"), CORRUPT),
    (UnreadableRecord("version 9"), CORRUPT),
    (StorageFailure("the disk is gone"), STORAGE),
    (Deposed(3, "its epoch is 8"), TAKEN),
    (CoordinatorAway("it does not answer"), STORAGE),
    (StorageFull("no room"), STORAGE),
    (TierUnavailable("away"), STORAGE),
    (Denied("no rights"), CONFIGURATION),
    (Unavailable("away"), STORAGE),
    (NoRoom("a quota"), STORAGE),
    (ObjectNotFound("key"), STORAGE),
    (CorruptObject("key", 0, "torn"), STORAGE),
    (OSError(errno.EIO, "broken"), STORAGE),
    (OSError(errno.EROFS, "read only"), CONFIGURATION),
    (PermissionError(errno.EACCES, "not ours"), CONFIGURATION),
    (OSError(errno.EMFILE, "no descriptors"), CONFIGURATION),
)

DEFECTS: Final[tuple[Exception, ...]] = (
    ValueError("what nobody foresaw"),
    StreamExists("t"),
    NameCollides("a_b", "a.b"),
    UnknownStream("t"),
    Stale("t"),
    StreamSealed("t"),
    OutOfRange(5, 0, 3),
    StaleWriterEpoch(1, 0, 1),
    SequenceGap(1, 2, 4),
    TooManyWriters(5),
    NotHosted(3),
    SlotMoves("a", 1, 3),
    CannotMove("a", 1, "it is sealed"),
    NotMovedYet("a", 1, "there is no room"),
    StoreClosed("stopping"),
)


def raising(error: Exception) -> Callable[[], ExitCode]:
    def work() -> ExitCode:
        raise error

    return work


def ended_with(error: Exception) -> ExitCode:
    return outcome(raising(error))


def families(base: type[Exception], modules: tuple[str, ...]) -> set[type[Exception]]:
    found = {kind for kind in base.__subclasses__() if kind.__module__.startswith(modules)}
    return found.union(*(families(kind, modules) for kind in found))


@pytest.mark.parametrize(("error", "code"), ENDS, ids=lambda value: type(value).__name__)
def test_an_error_ends_the_process_with_its_code_and_one_line(
    error: Exception, code: ExitCode, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says what happened, as all commands say it, without a traceback."""
    assert ended_with(error) is code
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert line.exc_info is None
    assert (error.strerror if isinstance(error, OSError) else str(error)) in line.getMessage()
    assert TextFormatter().format(line) == ToolFormatter().format(line) == f"penstock: {line.getMessage()}"


def test_where_logs_are_json_the_last_word_is_one_too(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever collects the lines finds the reason among them, under the same keys as all others."""
    ended_with(StorageFailure("the disk is gone"))
    told = json.loads(JsonFormatter().format(caplog.records[0]))

    assert (told["level"], told["message"]) == ("error", "the disk is gone")
    assert told.keys() == {"time", "level", "logger", "message"}


def test_each_problem_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    """Several mistakes of a configuration are told as they are before a start: a line each."""
    ended_with(ConfigError(["one key", "another key"]))

    assert [line.getMessage() for line in caplog.records] == ["one key", "another key"]


def test_a_part_of_a_command_that_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that will be started again has no last word: its line is one of the log's."""
    assert outcome(raising(StorageFailure("the disk is gone")), is_last=False) is STORAGE
    (line,) = caplog.records

    assert line.getMessage() == "cannot go on: the disk is gone"
    assert not TextFormatter().format(line).startswith("penstock:")


@pytest.mark.parametrize("error", DEFECTS, ids=lambda value: type(value).__name__)
def test_a_wrong_call_is_a_defect_and_leaves_a_traceback(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """An error that only a wrong call can raise is no error of the configuration."""
    assert ended_with(error) is ExitCode.UNEXPECTED
    (line,) = caplog.records
    assert line.exc_info


def test_every_error_that_may_end_the_process_is_above() -> None:
    """An error that is added to the store or to the gateway is given an exit code knowingly."""
    listed = {type(error) for error, _ in ENDS} | {type(error) for error in DEFECTS}
    assert families(StoreError, ("core.errors",)) <= listed
    # Commands of their own have errors of theirs, which extend one of these.
    of_the_gateway = families(CannotGoOn, ("gateway.config", "gateway.data_directory", "gateway.long_term"))
    assert of_the_gateway <= listed
