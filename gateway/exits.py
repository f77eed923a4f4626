"""Exit codes of the process.

Keeps: an error that ends the process and is no defect knows its exit code, so a new one needs no table.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Part of the command's interface: numbers are never given another meaning."""

    CLEAN = 0
    UNEXPECTED = 1  # a defect of Penstock: the log has a traceback
    CONFIGURATION = 2  # a wrong configuration, or rights that this process lacks
    TAKEN = 3  # another process has the data directory, the port or the prefix of long-term storage
    CORRUPT = 4  # stored bytes fail their checks; nothing was changed
    STORAGE = 5  # a write or sync failed, or the disk is full at start


class CannotGoOn(Exception):
    """Base of the gateway's errors that end the process. The message is all that the operator sees of them."""

    exit_code: ClassVar[ExitCode] = ExitCode.CONFIGURATION
