"""The configuration keys of consumer groups: their time-outs, and the life of their offsets."""

from __future__ import annotations

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX, LONG_MAX


class GroupKeys(BaseModel):
    """Part of `Config`."""

    group_initial_rebalance_delay_ms: int = Field(
        3_000,
        ge=0,
        le=INT_MAX,
        description="How long the first rebalance of an empty group waits for more members.",
    )
    group_min_session_timeout_ms: int = Field(
        6_000, ge=1, le=INT_MAX, description="Shortest session time-out that a member may ask for."
    )
    group_max_session_timeout_ms: int = Field(
        1_800_000,
        ge=1,
        le=INT_MAX,
        description="Longest session time-out that a member may ask for.",
    )
    group_max_size: int = Field(INT_MAX, ge=1, le=INT_MAX, description="Members that a group may have.")
    offset_metadata_max_bytes: int = Field(
        4_096,
        ge=0,
        le=INT_MAX,
        description="Longest metadata that a consumer may commit with an offset.",
    )
    offsets_topic_num_partitions: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Partitions of __consumer_offsets, as which tools read committed offsets and groups.",
    )
    offsets_retention_minutes: int = Field(
        10_080,
        ge=1,
        le=INT_MAX,
        description="Committed offsets are deleted this long after their group became empty.",
    )
    offsets_retention_check_interval_ms: int = Field(
        600_000, ge=1, le=LONG_MAX, description="Time between two searches for expired offsets."
    )
