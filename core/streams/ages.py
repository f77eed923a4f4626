"""Whether an entry's own timestamp can say how old it is. Pure.

An entry without a timestamp, or with one far ahead of the clock, would never be old. Since entries leave a slot from
its front, it would keep all entries behind it, too. Retention counts its age from a time by which it had certainly been
appended (`core.retention_ages`), compaction from the making of its chunk.
"""

from __future__ import annotations

from typing import Final

AHEAD_MS_MAX: Final = 2 * 3_600_000
"""Timestamps this far ahead are still believed: clocks differ, and an hour is the default limit of topics."""


def says_its_age(timestamp: int, now_ms: int) -> bool:
    """Whether a largest timestamp can be believed: it is there, and not far ahead."""
    return 0 <= timestamp <= now_ms + AHEAD_MS_MAX
