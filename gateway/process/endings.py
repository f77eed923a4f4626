"""What an error says to the one who started the command: lines, and an exit code.

A line says what happened, to what, and what to do. Most errors say all of it themselves; those of the operating system
and of services that are away get what is to be done here.

Rights or resources that this process lacks are a matter of configuration, wherever the lack shows: no bytes are damaged
and no disk is broken.

Keeps: an error that only a defect of ours can raise has no end here: its traceback is what its reader needs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import (
    CoordinatorAway,
    CoordinatorRefuses,
    ErrorKind,
    NotHosted,
    NotMovedYet,
    Stale,
    StoreClosed,
    StoreError,
    TierUnavailable,
    TooManyWriters,
)
from gateway.config.layers import ConfigError
from gateway.exits import CannotGoOn, ExitCode
from gateway.network.binding import CannotListen
from tier2.shortage import is_forbidden, is_shortage
from tier2.storage import Denied, StorageError

_OF_THE_STORE: Final = {
    ErrorKind.RETRY: ExitCode.STORAGE,  # no room, or no storage: later perhaps
    ErrorKind.FENCED: ExitCode.TAKEN,
    ErrorKind.CORRUPT: ExitCode.CORRUPT,
    ErrorKind.CONFIG: ExitCode.CONFIGURATION,
    ErrorKind.FAILED: ExitCode.STORAGE,
}
_OF_THE_SYSTEM: Final = {
    errno.ENOSPC: "Make room there; nothing that was acknowledged is lost",
    errno.EDQUOT: "Raise the quota or make room there; nothing that was acknowledged is lost",
    errno.EIO: "The disk fails: the kernel's log (dmesg) says more",
    errno.EROFS: "It is mounted read-only: mount it for writing, or name another place",
}
"""What to do after an error of the operating system."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a command after an error. `lines`: one a problem, at least one."""

    code: ExitCode
    lines: tuple[str, ...]


def end_of(error: Exception) -> End | None:
    """How the command ends after this error; None if the error is a defect of ours."""
    if isinstance(error, CannotListen):
        return End(ExitCode.TAKEN if error.taken else ExitCode.CONFIGURATION, (str(error),))
    if (lack := _lack(error)) is not None:
        return End(ExitCode.CONFIGURATION, (lack,))
    if (code := _code_of(error)) is None:
        return None
    return End(code, error.problems if isinstance(error, ConfigError) else (_advised(error),))


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


def _advised(error: Exception) -> str:
    """The error's own words, and what to do if they lack that."""
    match error:
        case CoordinatorAway():
            return f"{error}. Bring etcd back, or correct cluster; nothing that was acknowledged is lost"
        case TierUnavailable():
            return f"{error}. Bring long-term storage back and start again; nothing that was acknowledged is lost"
        case Denied():
            return f"long-term storage: {error}. Correct its credentials, or give them the rights"
        case StorageError():
            return f"long-term storage: {error}. Mend it and start again; nothing that was acknowledged is lost"
        case OSError():
            return _sentences(_told(error), _OF_THE_SYSTEM.get(error.errno or 0))
    return str(error)


def _lack(error: BaseException) -> str | None:
    """What the process lacks, rights, descriptors or memory, if that is the cause, and what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (is_forbidden(cause) or cause.errno == errno.EROFS):
            advice = _OF_THE_SYSTEM.get(cause.errno or 0)
            return _sentences(_with_place(error, cause), advice or _owner(cause.filename))
        if is_shortage(cause):
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            lacks = f"This process lacks descriptors (it may have {soft}: ulimit -n) or memory"
            return _sentences(_with_place(error, cause), f"{lacks}; give it more")
        cause = cause.__cause__
    return None


def _with_place(error: BaseException, cause: BaseException) -> str:
    """The cause, in the words of the error if these are about the configuration: only then they are not of damage."""
    told, whole = _told(cause), str(error)
    is_of_configuration = isinstance(error, CannotGoOn | CoordinatorRefuses)
    if error is cause or not is_of_configuration:
        return told
    return whole if all(part in whole for part in told.split(": ")) else f"{whole} ({told})"


def _told(error: BaseException) -> str:
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _sentences(first: str, second: str | None) -> str:
    return first if second is None else f"{first.rstrip('.')}. {second}"


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
