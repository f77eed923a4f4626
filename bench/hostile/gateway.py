"""What the gateway itself counted during a row: the disk's part of it, and the loop's.

Keeps: figures of one row are differences between two looks at `/metrics`, so nothing of the preparation counts. A
histogram knows only bounds, so its figures are "at most" the bound above.
"""

from __future__ import annotations

import math
import re
import urllib.request
from dataclasses import dataclass
from typing import Final

_SYNC: Final = re.compile(r'^penstock_log_sync_seconds_bucket\{.*le="([^"]+)".*\} (\S+)$', re.MULTILINE)
_TURN: Final = re.compile(r'^penstock_loop_turn_longest_seconds\{api="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counted:
    """One look. `syncs`: number of syncs of the logs by upper bound in seconds, cumulative."""

    syncs: dict[float, float]
    turns: dict[str, float]
    """The longest turn since the start in seconds, by API."""


def counted(metrics: str) -> Counted:
    """A look from the text of `/metrics`; the logs of all containers together."""
    syncs: dict[float, float] = {}
    for bound, count in _SYNC.findall(metrics):
        syncs[float(bound)] = syncs.get(float(bound), 0) + float(count)
    return Counted(syncs, {api: float(seconds) for api, seconds in _TURN.findall(metrics)})


def look(url: str) -> Counted:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return counted(answer.read().decode())


def sync_at_most(before: Counted, after: Counted, share: float) -> float:
    """The bound in seconds that this share of the syncs between two looks did not exceed; 0 without syncs."""
    between = {bound: count - before.syncs.get(bound, 0) for bound, count in sorted(after.syncs.items())}
    total = between.get(math.inf, 0)
    for bound, count in between.items():
        if total and count >= total * share:
            return bound
    return 0.0


def longest_turn(before: Counted, after: Counted) -> tuple[str, float]:
    """The API and the seconds of the longest turn that grew between two looks; nothing when none did."""
    grown = {api: seconds for api, seconds in after.turns.items() if seconds > before.turns.get(api, 0)}
    api = max(grown, key=grown.__getitem__, default="")
    return api, grown.get(api, 0.0)
