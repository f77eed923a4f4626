"""The configuration keys of share groups: how records are lent to members, and where those go that nobody could use."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX

HOUR_MS = 3_600_000


class ShareGroupKeys(BaseModel):
    """Part of `Config`."""

    group_share_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="A member of a share group that is silent for longer is removed."
    )
    group_share_min_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="Shortest share.session.timeout.ms that a group may be given."
    )
    group_share_max_session_timeout_ms: int = Field(
        60_000, ge=1, le=INT_MAX, description="Longest share.session.timeout.ms that a group may be given."
    )
    group_share_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Time between two heartbeats of a member of a share group."
    )
    group_share_min_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Shortest share.heartbeat.interval.ms that a group may be given."
    )
    group_share_max_heartbeat_interval_ms: int = Field(
        15_000, ge=1, le=INT_MAX, description="Longest share.heartbeat.interval.ms that a group may be given."
    )
    group_share_record_lock_duration_ms: int = Field(
        30_000,
        ge=1_000,
        le=HOUR_MS,
        description="How long a member of a share group may hold a record before others get it.",
    )
    group_share_min_record_lock_duration_ms: int = Field(
        15_000, ge=1_000, le=30_000, description="Shortest share.record.lock.duration.ms that a group may be given."
    )
    group_share_max_record_lock_duration_ms: int = Field(
        60_000, ge=30_000, le=HOUR_MS, description="Longest share.record.lock.duration.ms that a group may be given."
    )
    group_share_delivery_count_limit: int = Field(
        5, ge=2, le=10, description="Deliveries of a record to a share group whose members do not settle it."
    )
    group_share_min_delivery_count_limit: int = Field(
        2, ge=2, le=5, description="Smallest share.delivery.count.limit that a group may be given."
    )
    group_share_max_delivery_count_limit: int = Field(
        10, ge=5, le=25, description="Largest share.delivery.count.limit that a group may be given."
    )
    group_share_partition_max_record_locks: int = Field(
        2_000,
        ge=100,
        le=10_000,
        description="Records of a partition that a share group has begun and not settled: it gets no more then.",
    )
    group_share_min_partition_max_record_locks: int = Field(
        100, ge=100, le=2_000, description="Smallest share.partition.max.record.locks that a group may be given."
    )
    group_share_max_partition_max_record_locks: int = Field(
        4_000, ge=2_000, le=10_000, description="Largest share.partition.max.record.locks that a group may be given."
    )
    group_share_max_size: int = Field(200, ge=1, le=1_000, description="Members that a share group may have.")
    group_share_max_share_sessions: int = Field(
        2_000, ge=1, le=100_000, description="Members of all share groups that read at a time, each with a session."
    )
    group_share_assignors: tuple[Literal["simple"], ...] = Field(
        ("simple",),
        min_length=1,
        max_length=1,
        description="Who gives members of share groups their partitions: there is one assignor.",
    )
    errors_deadletterqueue_topic_name_prefix: str = Field(
        "dlq.",
        description="What the name of a dead-letter topic must begin with; empty: any name will do.",
    )
    errors_deadletterqueue_auto_create_topics_enable: bool = Field(
        False, description="Whether a group's dead-letter topic is created when its first record dies."
    )
