"""Features (KIP-584): the parts of Kafka's versioned behaviour that are served, and their levels.

Keeps: only features that are served are here: without group.version clients keep to the classic protocol.
"""

from collections.abc import Mapping
from typing import Final

SUPPORTED_FEATURES: Final[Mapping[str, tuple[int, int]]] = {
    "metadata.version": (7, 25),  # up to 4.0-IV3: the oldest Kafka whose APIs these are, known to every tool of 4.x
    "transaction.version": (0, 2),  # 2: producers get a new epoch with every transaction (KIP-890)
}
"""Lowest and highest level; the highest is on, unless an administrator lowered it."""
