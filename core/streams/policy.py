"""The policies that a stream's owner sets: how long entries stay, and when segments split and merge. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ScalingKind(enum.Enum):
    """The measure that a stream's scaling goes by."""

    FIXED = "fixed"  # nothing: it has the segments that it has, or `min_segments`
    BYTES = "bytes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """When a stream's segments split and merge."""

    kind: ScalingKind = ScalingKind.FIXED
    target_rate: float = 8 * 2**20  # per segment and second, bytes or events
    factor: int = 4  # the most pieces of one split
    min_segments: int = 1

    def __post_init__(self) -> None:
        if self.target_rate <= 0 or self.factor < 2 or self.min_segments < 1:
            raise ValueError(f"{self} makes no sense")


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """How long the store keeps a stream's entries; -1 means without limit."""

    retention_ms: int = -1
    retention_bytes: int = -1  # per slot
    delete: bool = True  # entries leave by time and size, and when all of `consumers` are behind them

    consumers: tuple[str, ...] = ()  # their progress lets entries leave early; the gateway knows who they are
    keep_ms: int = -1  # younger entries stay, however far the consumers are
    keep_bytes: int = -1  # per slot: this much stays, however far the consumers are

    compact: bool = False  # the last entry per key stays
    min_dirty_ratio: float = 0.5
    min_lag_ms: int = 0  # how long entries stay as they are
    max_lag_ms: int = 2**63 - 1  # how long they stay uncompacted
    tombstone_ms: int = 86_400_000

    scaling: ScalingPolicy = ScalingPolicy()

    spread: bool = True  # new slots are spread over the containers, or all lie in one
