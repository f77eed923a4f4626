"""Features (KIP-584): the parts of Kafka's versioned behaviour that are served, and their levels.

Keeps: only features that are served are here.
"""

from collections.abc import Mapping
from typing import Final

SUPPORTED_FEATURES: Final[Mapping[str, tuple[int, int]]] = {
    "metadata.version": (7, 25),  # up to 4.0-IV3: the oldest Kafka whose APIs these are, known to every tool of 4.x
    "group.version": (0, 1),  # 1: consumer groups (KIP-848)
    "share.version": (0, 1),  # 1: share groups (KIP-932)
    "streams.version": (0, 1),  # 1: streams groups (KIP-1071)
    "transaction.version": (0, 2),  # 2: producers get a new epoch with every transaction (KIP-890)
}
"""Lowest and highest level; the highest is on, unless an administrator lowered it."""
