"""The end of a command that cannot be done.

Keeps: every error of a tool is one line on standard error that begins with `penstock:`, and has an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from gateway.exits import ExitCode


class Refused(Exception):
    """The command cannot be done; the message is all that its user sees."""

    def __init__(self, why: str, code: ExitCode = ExitCode.UNEXPECTED) -> None:
        super().__init__(why)
        self.code = code


def run(command: Callable[[], ExitCode | None]) -> ExitCode:
    """The command's exit code; clean if it says none."""
    try:
        code = command()
        sys.stdout.flush()
    except Refused as refused:
        print(f"penstock: {refused}", file=sys.stderr)
        return refused.code
    except BrokenPipeError:  # the reader of the output has closed it: what Python still holds has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.CLEAN
    return ExitCode.CLEAN if code is None else code
