"""Shortages of this process or the machine, for a moment: of descriptors, memory, or time in a call.

Invariant: a shortage is never taken for a broken disk. It says nothing about stored bytes, and ends by itself or when
an operator raises a limit: work that can be repeated is repeated.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, TypeVar

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EINTR, errno.EAGAIN})
"""Numbers of OSErrors that are about the process or the machine."""
FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})
"""Numbers of OSErrors that are about this process's rights. (EROFS is not: disks that fail become read-only.)"""

PATIENCE_S: Final = 10.0
"""Time in which a call may be repeated while clients wait for the log; their own time-outs begin at 30 s."""
PAUSE_S: Final = 0.02

T = TypeVar("T")


def is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _number(error) in SHORTAGES


def is_forbidden(error: BaseException) -> bool:
    return _number(error) in FORBIDDEN


def _number(error: BaseException) -> int | None:
    """The operating system's number; those of OpenSSL and of the resolver of names mean something else."""
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return None
    return error.errno if isinstance(error, OSError) else None


def patiently(call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Call again while there is a shortage. Only for calls that have done nothing when they raise."""
    end = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except (OSError, MemoryError) as error:
            if not is_shortage(error) or time.monotonic() >= end:
                raise
        time.sleep(PAUSE_S)
