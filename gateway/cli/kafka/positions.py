"""Places in a partition as people name them: `start`, `end`, an offset, the last N, a time, an age.

Keeps: pure; offsets come from the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from gateway.cli.refused import Refused
from gateway.config.quantities import time_ms_of
from gateway.exits import ExitCode

FORMS: Final = "start, end, an OFFSET, -N (the last N), a time such as 2030-01-31T12:00Z or @MS, an age such as -15min"
_NUMBER: Final = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Position:
    """`value`: of `offset` the offset, of `last` how many, of `time` milliseconds since 1970."""

    kind: Literal["start", "end", "offset", "last", "time"]
    value: int = 0


def parse(text: str, flag: str, now_ms: int) -> Position:
    """Raises Refused for a text of another form. A time without a zone is local."""
    given = text.strip()
    if given in ("start", "earliest", "beginning"):
        return Position("start")
    if given in ("end", "latest", "now"):
        return Position("end")
    if _NUMBER.fullmatch(given):
        return Position("offset", int(given))
    if _NUMBER.fullmatch(given.removeprefix("-")):
        return Position("last", int(given[1:]))
    if given.startswith("@") and _NUMBER.fullmatch(given[1:]):
        return Position("time", int(given[1:]))
    if given.startswith("-") and (age := time_ms_of(given[1:])) is not None:
        return Position("time", now_ms - age)
    try:
        moment = datetime.fromisoformat(given)
        return Position("time", int(moment.astimezone(UTC).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise Refused(f"{flag} {text[:100]!r}: allowed: {FORMS}", ExitCode.CONFIGURATION) from None


def resolve(position: Position, start: int, end: int, at_time: int) -> int:
    """The offset between the start and the end of a partition. `at_time`: the first then or later, -1: none."""
    match position.kind:
        case "start":
            return start
        case "end":
            return end
        case "last":
            return max(start, end - position.value)
        case "time":
            return end if at_time < 0 else min(max(at_time, start), end)
        case "offset":
            return min(max(position.value, start), end)
