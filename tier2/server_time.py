"""The time of an S3 server, by which requests are signed: a clock may jump, and S3 refuses what was signed
fifteen minutes before or after its own time.

**Invariant**: this machine's clock is believed until a request was refused whose answer names another time.
"""

from __future__ import annotations

import email.utils
import threading
from datetime import UTC, datetime, timedelta
from typing import Final

BELIEVED: Final = timedelta(minutes=5)
"""A difference up to this is none: S3 refuses three times as much, and an answer's date is late by its way here."""
AHEAD_MAX: Final = timedelta(days=36_500)
"""No clock is off by more: a date that says so is none, and would leave no room for times to come."""


class ServerTime:
    """See the module. May be used from several threads."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._signed = threading.local()  # `ahead`: that of this thread's last request

    def of(self, here: datetime) -> datetime:
        """The server's time when this machine's clock shows that; this thread signs a request with it."""
        self._signed.ahead = self._ahead
        return here + self._ahead

    def differs(self, told: str | None, here: datetime) -> bool:
        """Whether a refusal's date (RFC 9110, `Date`) is another time than this thread's last request was signed with;
        from now on requests are signed with that one. `here`: this machine's clock at that moment.

        Of several requests that were on their way each is told so, although the first refusal has corrected the time.
        """
        signed: timedelta = getattr(self._signed, "ahead", self._ahead)
        there = _time_of(told)
        if there is None or abs(there - here) > AHEAD_MAX or abs(there - (here + signed)) <= BELIEVED:
            return False
        if abs(there - (here + self._ahead)) > BELIEVED:
            self._ahead = there - here
        return True


def _time_of(told: str | None) -> datetime | None:
    try:
        there = email.utils.parsedate_to_datetime(told or "")
    except (ValueError, OverflowError):  # the latter for a zone that is none
        return None
    return there if there.tzinfo is not None else there.replace(tzinfo=UTC)
