"""The end of a command after an error: one log line and an exit code.

Rights or resources that this process lacks are a matter of configuration, wherever the lack shows: no bytes are damaged
and no disk is broken.

Keeps: the log says why Penstock ended, without a traceback, unless the reason is a defect.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

from core.errors import ErrorKind, NotHosted, NotMovedYet, Stale, StoreClosed, StoreError, TooManyWriters
from gateway.exits import CannotGoOn, ExitCode
from gateway.network.binding import CannotListen
from tier2.shortage import is_forbidden, is_shortage
from tier2.storage import Denied, StorageError

logger = logging.getLogger(__name__)

_OF_THE_STORE: Final = {
    ErrorKind.RETRY: ExitCode.STORAGE,  # no room, or no storage: later perhaps
    ErrorKind.FENCED: ExitCode.TAKEN,
    ErrorKind.CORRUPT: ExitCode.CORRUPT,
    ErrorKind.CONFIG: ExitCode.CONFIGURATION,
    ErrorKind.FAILED: ExitCode.STORAGE,
}


def outcome(work: Callable[[], ExitCode]) -> ExitCode:
    """Run, and turn an error into one log line and an exit code."""
    try:
        return work()
    except CannotListen as exc:
        logger.error("cannot start: %s", exc)
        return ExitCode.TAKEN if exc.taken else ExitCode.CONFIGURATION
    except Exception as exc:
        if (lack := _lack(exc)) is not None:
            logger.error("cannot go on: %s", lack)
            return ExitCode.CONFIGURATION
        if (code := _code_of(exc)) is not None:
            logger.error("cannot go on: %s", exc)
            return code
        logger.exception("unexpected error; this is a defect of Penstock")
        return ExitCode.UNEXPECTED


def _code_of(error: Exception) -> ExitCode | None:
    """The exit code, or None for a defect: a call of the store that was wrong, or came after its end, is our doing."""
    match error:
        case CannotGoOn():
            return error.exit_code
        case StoreClosed() | NotHosted() | NotMovedYet() | Stale() | TooManyWriters():
            return None
        case StoreError():
            return _OF_THE_STORE.get(error.kind)
        case Denied():
            return ExitCode.CONFIGURATION
        case StorageError() | OSError():
            return ExitCode.STORAGE
    return None


def _lack(error: BaseException | None) -> str | None:
    """The process's lack of rights, or of descriptors and memory, if that is the cause."""
    while error is not None:
        if isinstance(error, OSError) and (is_forbidden(error) or error.errno == errno.EROFS):
            return f"{_told(error)}. {_owner(error.filename)}"
        if is_shortage(error):
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            lacks = f"This process lacks descriptors (it may have {soft}: ulimit -n) or memory"
            return f"{_told(error)}. {lacks}; give it more"
        error = error.__cause__
    return None


def _told(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return repr(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _owner(name: object) -> str:
    """The process's user and the file's owner, if it can be seen."""
    ours = f"This process runs as {_user(os.geteuid())}"
    advice = "start it as the owner of its data, or give it the rights to read and write there"
    owner = None
    if isinstance(name, str):
        for path in (Path(name), *Path(name).parents):  # a path that we may not look at lies in one that we may
            with contextlib.suppress(OSError):
                owner = path.stat().st_uid
                break
    if owner is None or owner == os.geteuid():
        return f"{ours}: {advice}"
    return f"{ours}, and this belongs to {_user(owner)}: {advice}"


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
