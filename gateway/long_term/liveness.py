"""Tells from a process's mark whether the process still runs, as far as this machine can see.

A mark names the boot of the kernel, the namespace of the process id, and the start of the process: the kernel reuses
pids, and containers count from 1.

Keeps: a process is called dead only if its pid would be visible while it lived.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE: Final = Path("/proc/self/ns/pid")
START_FIELD: Final = 22
"""The number, from 1, of the field in /proc/PID/stat that holds the start, in clock ticks after the boot."""
STATE_FIELD: Final = 3
PID_MAX: Final = 1 << 22
DEAD_STATES: Final = ("Z", "X", "x")


def own_mark() -> str:
    """The mark of this process; empty if the system does not provide it."""
    fields = _fields(os.getpid())
    with contextlib.suppress(OSError, ValueError):
        if fields is not None:
            return f"{_scope()} {_started(fields)}"
    return ""


def is_of_this_boot(mark: str) -> bool:
    """Was the mark left since the boot of this machine, or of the one around this container?"""
    with contextlib.suppress(OSError):
        return mark.partition(" ")[0] == BOOT_ID.read_text().strip()
    return False


def runs(mark: str, pid: int) -> bool | None:
    """Does that process run? None if it belongs to another machine or another container."""
    scope, _, started = mark.rpartition(" ")
    try:
        if not scope or scope != _scope() or not 0 < pid <= PID_MAX:
            return None
    except OSError:
        return None
    fields = _fields(pid)
    if fields is None:
        return _may_be_there(pid)
    return _started(fields) == started and fields[STATE_FIELD - 1] not in DEAD_STATES


def _may_be_there(pid: int) -> bool:
    """Check a process that /proc does not show: /proc may hide processes of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def directory_mark(directory: Path) -> str:
    """A mark that distinguishes a directory from a copy of it."""
    status = directory.stat()
    return f"{status.st_dev:x}:{status.st_ino:x}"


def _scope() -> str:
    return f"{BOOT_ID.read_text().strip()} {PID_NAMESPACE.stat().st_ino}"


def _fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat; the second, the program's name, may hold any character."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    return [before.partition(" ")[0], "", *after.split()]


def _started(fields: list[str]) -> str:
    return fields[START_FIELD - 1]
