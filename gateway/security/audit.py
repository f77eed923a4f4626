"""The audit log: who came in, was denied or allowed what, and changed rights, quotas, credentials, configs or the
segments of a stream; a JSON object a line.

It is a channel of its own, on stderr or in a file, beside the gateway's log lines: a flood of denials must not use up
the lines that tell of the gateway itself, nor be cut to ten of a kind. Events are those of Kafka's
`kafka.authorizer.logger`: a denial is told at INFO, a permission at DEBUG; what only filters a list, or asks which
operations are authorized, is not told.

Keeps: an event is one line, whatever names are in it; names are clipped; no secret is among the facts. At most
`LINES_PER_S` lines are written in a second, and the next line after a pause has the count of those left out
(`suppressed`). Failed authentications, which any stranger can cause, get a part of them only. Nobody waits for the
disk: a thread writes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gateway.config.audit import STDERR, AuditKeys
from gateway.config.layers import ConfigError
from gateway.logs import StderrHandler
from gateway.security.principal import Principal

LINES_PER_S: Final = 1_000
AUTHENTICATION_FAILED: Final = "authentication failed"
FAILURES_PER_S: Final = 100
"""Lines a second of failed authentications: guesses must not use up the lines of what is done with rights."""
CHARS_MAX: Final = 250
"""Characters of a name or an address in a line."""
PRIVATE: Final = 0o600


def clipped(text: str) -> str:
    return text if len(text) <= CHARS_MAX else f"{text[:CHARS_MAX]}..."


class Audit:
    """Where events go. `tells_allowed`: permissions are told, too."""

    def __init__(
        self, handler: logging.Handler | None, *, tells_allowed: bool, wall: Callable[[], float] = time.time
    ) -> None:
        self.tells_allowed = tells_allowed and handler is not None
        self._handler = handler
        self._wall = wall
        self._second = 0
        self._lines = 0
        self._failures = 0  # of these lines, those of failed authentications
        self.suppressed = 0
        self._untold = 0

    def __repr__(self) -> str:
        return f"<Audit {'on' if self._handler else 'off'}, {self.suppressed} lines left out>"

    def tell(self, event: str, principal: Principal, host: str, **facts: Any) -> None:
        """Write one event; facts that are text are clipped."""
        if self._handler is None:
            return
        now_s = self._wall()
        if int(now_s) != self._second:
            self._second, self._lines, self._failures = int(now_s), 0, 0
        is_failure = event == AUTHENTICATION_FAILED
        if self._lines >= LINES_PER_S or (is_failure and self._failures >= FAILURES_PER_S):
            self.suppressed += 1
            self._untold += 1
            return
        self._lines += 1
        self._failures += is_failure
        line: dict[str, Any] = {
            "time": _stamp(now_s),
            "event": event,
            "principal": clipped(str(principal)),
            "host": clipped(host),
        }
        line |= {name: clipped(fact) if isinstance(fact, str) else fact for name, fact in facts.items()}
        if self._untold:
            line["suppressed"], self._untold = self._untold, 0
        text = json.dumps(line, ensure_ascii=True, default=str)
        self._handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, text, None, None))

    def close(self) -> None:
        """Write what is queued."""
        if self._handler is not None:
            self._handler.flush()


def open_audit(config: AuditKeys) -> Audit:
    """The audit log that a configuration asks for. Raises ConfigError if its file cannot be written."""
    if not config.audit_log:
        return Audit(None, tells_allowed=False)
    if config.audit_log == STDERR:
        descriptor = sys.stderr.fileno()
    else:
        path = Path(config.audit_log)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            why = f"cannot be written: {error.strerror}; name a file in a directory that is there"
            raise ConfigError([f"audit.log = {path}: {why}"]) from error
    return Audit(StderrHandler(descriptor, _dropped), tells_allowed=config.audit_log_level == "debug")


def _dropped(count: int) -> str:
    return json.dumps({"time": _stamp(time.time()), "event": "lines dropped", "count": count})


def _stamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"
