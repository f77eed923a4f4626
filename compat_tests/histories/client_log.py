"""What librdkafka says about its idempotent producer: errors of Produce, sequences, and epochs.

A producer that raises its own epoch sends all again that was not acknowledged. What was stored is then stored twice,
and no server can tell (librdkafka's issue 4953). A producer raises it for an answer that it takes for a gap in its
sequences, for an error that it takes for final, and for a message that was not delivered in time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

LINES_MAX: Final = 5_000
TOLD: Final = ("encountered error", "DRAIN", "ERRSEQ", "DUPSEQ", "UNKPID", "ERRPID", "IDEMPSTATE", "GETPID", "FATAL")
"""Words of lines that are kept: an error, and what comes of it."""
RAISES: Final = "epoch bump"
LEVEL_DEBUG: Final = 7  # of syslog


class ClientLog(logging.Handler):
    """The last `LINES_MAX` lines. librdkafka hands them over in the producer's calls."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: deque[str] = deque(maxlen=LINES_MAX)
        self.raised: deque[str] = deque(maxlen=10)  # why the epoch was raised
        self._logger = logging.Logger("librdkafka", logging.DEBUG)
        self._logger.addHandler(self)

    @property
    def settings(self) -> dict[str, Any]:
        """Of the producer."""
        return {"logger": self._logger, "log_level": LEVEL_DEBUG, "debug": "eos,msg"}

    def emit(self, record: logging.LogRecord) -> None:
        told = record.getMessage()
        if any(word in told for word in TOLD):
            self.lines.append(f"{time.time():.3f} {told}")
        if RAISES in told:
            self.raised.append(told)
