"""The end of a command after an error: its last words, and an exit code.

Keeps: what refused a start is the last that is said, `penstock: ...` in one line for each problem (in the log's form
where that is JSON), without a traceback, unless the reason is a defect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gateway import logs
from gateway.exits import ExitCode
from gateway.process.endings import end_of

logger = logging.getLogger(__name__)


def outcome(work: Callable[[], ExitCode], *, is_last: bool = True) -> ExitCode:
    """Run, and turn an error into its lines and an exit code. `is_last`: False if the command goes on without us."""
    try:
        return work()
    except Exception as exc:
        if (end := end_of(exc)) is None:
            logger.exception("unexpected error; this is a defect of Penstock")
            return ExitCode.UNEXPECTED
        if is_last:
            say(end.lines)
        else:
            for line in end.lines:
                logger.error("cannot go on: %s", line)
        return end.code


def say(lines: Iterable[str]) -> None:
    """Tell why the command ends."""
    for line in lines:
        logger.error("%s", line, extra=logs.LAST_WORD)
