"""A group's row as it is to be stored.

Keeps: what a row says is settled when it is taken from its group, so that it may be encoded in a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

STORING_TARGETS: Final = -1
"""The target epoch of a head that is stored before all of its targets are."""


class Row(NamedTuple):
    """`encode` makes the value of `size` topics, names or tasks."""

    size: int
    encode: Callable[[], bytes]
