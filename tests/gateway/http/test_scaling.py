"""The place of a split that names no slot...."""

from __future__ import annotations

import pytest

from gateway.http.scaling import halving


@pytest.mark.parametrize(
    ("loads", "count"),
    [
        ([0, 0], 1),
        ([0, 0, 0, 0, 0], 2),
        ([5, 5, 0, 0], 1),
        ([9, 1, 1, 1], 1),
        ([1, 1, 1, 9], 3),
        ([0, 0, 4, 4], 3),
        ([1, 1, 1, 1], 2),
        ([7, 0, 0, 0, 0, 0], 3),
    ],
)
def test_halving(loads: list[float], count: int) -> None:
    """Both sides get as much as can be; where that is all the same, as many slots."""
    assert halving(loads) == count
