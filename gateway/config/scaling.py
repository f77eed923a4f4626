"""The configuration keys of scaling: the rules by which segments of a topic split and merge."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX, LONG_MAX


class ScalingKeys(BaseModel):
    """Part of `Config`."""

    scaling_policy: Literal["fixed", "bytes", "events"] = Field(
        "bytes",
        description="What makes segments split and merge, for topics without a policy of their own: the bytes or the "
        "events that a segment gets a second, or nothing.",
    )
    scaling_target_rate: int = Field(
        0,
        ge=0,
        le=LONG_MAX,
        description="What one segment should get a second, in bytes or events; 0: 8388608 bytes, 10000 events.",
    )
    scaling_factor: int = Field(
        4, ge=2, le=1_000, description="Maximum number of segments that one split makes of a segment."
    )
    scaling_min_segments: int = Field(
        1, ge=1, le=100_000, description="Segments of a new topic; no merge leaves fewer."
    )
    scaler_sample_ms: int = Field(
        1_000, ge=100, le=INT_MAX, description="Time between two samples of partitions' rates, for scaler and metrics."
    )
    scaler_time_factor: float = Field(
        1.0,
        ge=0.001,
        le=1_000.0,
        description="Multiplies all times of the scaler: its windows of 2, 5, 10 and 20 minutes, and the 10 minutes "
        "for which it leaves a new segment alone. 0.01 shows it in seconds.",
    )
