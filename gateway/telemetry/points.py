"""Numbers of clients' metrics, plain: whoever keeps them needs no decoder, whose libraries take time to load."""

from __future__ import annotations

from typing import NamedTuple


class BadMetrics(ValueError):
    """The bytes are not metrics."""


class Point(NamedTuple):
    """One number of one metric."""

    name: str
    labels: tuple[tuple[str, str], ...]
    """Sorted by name."""
    value: float
    only_rises: bool
    is_delta: bool
    """What was added since the last push, not the sum."""


class Read(NamedTuple):
    """The points of one push, and how many were left out: beyond the bound, or of a kind that is not read."""

    points: list[Point]
    left_out: int
