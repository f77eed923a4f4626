"""The part of a gateway that one of its worker processes serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.network.binding import Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One worker's part: its node id, the containers that it opens, and how it reaches the others."""

    node_id: int
    hosts: tuple[int, ...]
    registry: Path
    """The file that all workers share."""
    inner: Binding | None
    """Where other workers reach this one; None if there are no others."""
    told: Callable[[], None]
    """Tells the others that the registry has changed."""
