"""Who sends a request: the identity that a connection has proved, and that rights and quotas go by.

Invariant: a principal is a value; a connection's principal changes by authentication only, and only once.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Principal(NamedTuple):
    """An identity as Kafka writes it, `User:alice`. Both parts are compared case by case."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"


USER: Final = "User"
"""The type of all principals that clients can prove to be."""
ANONYMOUS: Final = Principal(USER, "ANONYMOUS")
"""Whoever comes in by a listener that asks for no proof."""

NODE: Final = Principal("Node", "inner")
"""Another node of the cluster. No client can prove to be of this type."""
