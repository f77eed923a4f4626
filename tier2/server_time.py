"""The time of an S3 server, by which requests are signed: a clock may jump, and S3 refuses what was signed
fifteen minutes before or after its own time.

**Invariant**: this machine's clock is believed until a request was refused whose answer names another time.
"""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime, timedelta
from typing import Final

BELIEVED: Final = timedelta(minutes=5)
"""A difference up to this is none: S3 refuses three times as much, and an answer's date is late by its way here."""


class ServerTime:
    """See the module. May be used from several threads."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def of(self, here: datetime) -> datetime:
        """The server's time when this machine's clock shows that."""
        return here + self._ahead

    def differs(self, told: str | None, here: datetime) -> bool:
        """Whether a refusal's date (RFC 9110, `Date`) is another time than requests were signed with; from now on they
        are signed with that one. `here`: this machine's clock at that moment."""
        try:
            there = email.utils.parsedate_to_datetime(told or "")
        except ValueError:
            return False
        if there.tzinfo is None:
            there = there.replace(tzinfo=UTC)
        if abs(there - self.of(here)) <= BELIEVED:
            return False
        self._ahead = there - here
        return True
