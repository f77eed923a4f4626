"""What went wrong, as one log line and an exit code.

Keeps: whoever starts Penstock sees why it ended, without a traceback, unless that is a defect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from core.errors import AlreadyLocked, Corrupt, CorruptState, StorageFailure, StorageFull, TierMissing
from gateway.binding import CannotListen
from gateway.config_layers import ConfigError
from gateway.datadir import BadIdentity, InterruptedRecovery, NewerFormat, NotEmpty, UnusableDirectory
from gateway.exits import ExitCode
from gateway.groups.persistence import UnreadableRecord
from gateway.identity import DamagedIdentity, IdentityRefused, OwnerAlive
from gateway.long_term import LongTermUnusable
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

_EXIT_CODES: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (ConfigError, ExitCode.CONFIGURATION),
    (NewerFormat, ExitCode.CONFIGURATION),
    (UnusableDirectory, ExitCode.CONFIGURATION),
    (InterruptedRecovery, ExitCode.CONFIGURATION),
    (NotEmpty, ExitCode.CONFIGURATION),
    (LongTermUnusable, ExitCode.CONFIGURATION),
    (OwnerAlive, ExitCode.TAKEN),
    (IdentityRefused, ExitCode.CONFIGURATION),
    (TierMissing, ExitCode.CONFIGURATION),
    (AlreadyLocked, ExitCode.TAKEN),
    (BadIdentity, ExitCode.CORRUPT),
    (DamagedIdentity, ExitCode.CORRUPT),
    (Corrupt, ExitCode.CORRUPT),
    (CorruptState, ExitCode.CORRUPT),
    (UnreadableRecord, ExitCode.CORRUPT),
    (StorageFailure, ExitCode.STORAGE),
    (StorageFull, ExitCode.STORAGE),
    (StorageError, ExitCode.STORAGE),
    (OSError, ExitCode.STORAGE),
)


def outcome(work: Callable[[], ExitCode]) -> ExitCode:
    """Run, and turn what went wrong into one log line and an exit code."""
    try:
        return work()
    except CannotListen as exc:
        logger.error("cannot start: %s", exc)
        return ExitCode.TAKEN if exc.taken else ExitCode.CONFIGURATION
    except Exception as exc:
        for kind, code in _EXIT_CODES:
            if isinstance(exc, kind):
                logger.error("cannot go on: %s", exc)
                return code
        logger.exception("unexpected error; this is a defect of Penstock")
        return ExitCode.UNEXPECTED
