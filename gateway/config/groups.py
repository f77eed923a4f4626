"""The configuration keys of consumer groups: their time-outs, and the life of their offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX, LONG_MAX

BOUNDED_GROUP_KEYS: Final[Mapping[str, Sequence[str]]] = {
    "consumer": ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"),
    "share": (
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "record.lock.duration.ms",
        "delivery.count.limit",
        "partition.max.record.locks",
    ),
    "streams": ("session.timeout.ms", "heartbeat.interval.ms", "assignment.interval.ms"),
}
"""Settings for which there is a least and a largest value, by protocol: `group.PROTOCOL.min.SETTING`, and `max`."""


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
    group_max_size: int = Field(
        5_000,
        ge=1,
        le=INT_MAX,
        description="Members that a group of the classic protocol may have; a larger value means 5,000, too: a "
        "rebalance is one step for all of them.",
    )
    group_coordinator_rebalance_protocols: tuple[Literal["classic", "consumer", "streams"], ...] = Field(
        ("classic", "consumer", "streams"),
        min_length=1,
        description="Group protocols that are served; members of another are refused with UNSUPPORTED_VERSION.",
    )
    group_consumer_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="A member of the consumer protocol that is silent for longer is removed."
    )
    group_consumer_min_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="Shortest consumer.session.timeout.ms that a group may be given."
    )
    group_consumer_max_session_timeout_ms: int = Field(
        60_000, ge=1, le=INT_MAX, description="Longest consumer.session.timeout.ms that a group may be given."
    )
    group_consumer_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Time between two heartbeats of a member of the consumer protocol."
    )
    group_consumer_min_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Shortest consumer.heartbeat.interval.ms that a group may be given."
    )
    group_consumer_max_heartbeat_interval_ms: int = Field(
        15_000, ge=1, le=INT_MAX, description="Longest consumer.heartbeat.interval.ms that a group may be given."
    )
    group_consumer_assignment_interval_ms: int = Field(
        1_000,
        ge=0,
        le=INT_MAX,
        description="Least time between two targets of a group: members that come together share one.",
    )
    group_consumer_min_assignment_interval_ms: int = Field(
        0, ge=0, le=INT_MAX, description="Shortest consumer.assignment.interval.ms that a group may be given."
    )
    group_consumer_max_assignment_interval_ms: int = Field(
        15_000, ge=0, le=INT_MAX, description="Longest consumer.assignment.interval.ms that a group may be given."
    )
    group_consumer_max_size: int = Field(
        10_000,
        ge=1,
        le=INT_MAX,
        description="Members that a group of the consumer protocol may have; each costs microseconds of a rebalance.",
    )
    group_consumer_assignors: tuple[Literal["uniform", "range"], ...] = Field(
        ("uniform", "range"),
        min_length=1,
        description="Assignors that a member may ask for; the first is for groups whose members ask for none.",
    )
    group_consumer_migration_policy: Literal["bidirectional", "upgrade", "downgrade", "disabled"] = Field(
        "bidirectional",
        description="Whether a living classic group becomes a consumer group when a member of that protocol joins "
        "(upgrade), and a classic one again when the last of them has left (downgrade).",
    )
    group_streams_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="A member of a streams group that is silent for longer is removed."
    )
    group_streams_min_session_timeout_ms: int = Field(
        45_000, ge=1, le=INT_MAX, description="Shortest streams.session.timeout.ms that a group may be given."
    )
    group_streams_max_session_timeout_ms: int = Field(
        60_000, ge=1, le=INT_MAX, description="Longest streams.session.timeout.ms that a group may be given."
    )
    group_streams_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Time between two heartbeats of a member of a streams group."
    )
    group_streams_min_heartbeat_interval_ms: int = Field(
        5_000, ge=1, le=INT_MAX, description="Shortest streams.heartbeat.interval.ms that a group may be given."
    )
    group_streams_max_heartbeat_interval_ms: int = Field(
        15_000, ge=1, le=INT_MAX, description="Longest streams.heartbeat.interval.ms that a group may be given."
    )
    group_streams_assignment_interval_ms: int = Field(
        1_000, ge=0, le=INT_MAX, description="Least time between two targets of a streams group."
    )
    group_streams_min_assignment_interval_ms: int = Field(
        0, ge=0, le=INT_MAX, description="Shortest streams.assignment.interval.ms that a group may be given."
    )
    group_streams_max_assignment_interval_ms: int = Field(
        15_000, ge=0, le=INT_MAX, description="Longest streams.assignment.interval.ms that a group may be given."
    )
    group_streams_initial_rebalance_delay_ms: int = Field(
        3_000,
        ge=0,
        le=INT_MAX,
        description="Time that the first target of an empty streams group waits for further members.",
    )
    group_streams_num_standby_replicas: int = Field(
        0, ge=0, le=INT_MAX, description="Copies of each task's state that a streams group keeps on other processes."
    )
    group_streams_max_standby_replicas: int = Field(
        2, ge=0, le=INT_MAX, description="Largest streams.num.standby.replicas that a group may be given."
    )
    group_streams_max_size: int = Field(
        10_000,
        ge=1,
        le=INT_MAX,
        description="Members that a streams group may have; each costs microseconds of a rebalance.",
    )
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
