"""Whether an entry's own timestamp can say how old it is. Pure.

An entry without a timestamp, or with one far ahead of the clock, would never be old; as entries leave a slot from its
front, it would keep everything behind it, too. Retention counts its age from when it had been appended at the latest
(`core.retention`), compaction from when its chunk was made.
"""

from __future__ import annotations

from typing import Final

AHEAD_MS_MAX: Final = 2 * 3_600_000
"""Timestamps up to so far ahead are believed: clocks differ, and an hour is what topics allow by default."""


def says_its_age(timestamp: int, now_ms: int) -> bool:
    """Whether a largest timestamp can be one: it is there, and not far ahead."""
    return 0 <= timestamp <= now_ms + AHEAD_MS_MAX
