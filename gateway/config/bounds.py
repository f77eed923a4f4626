"""The configuration keys that bound the number and size of things that clients make: topics, groups, producers.

Keeps: everything that a stranger can fill has a bound here or beside it; at the bound a request is refused with
Kafka's error and a line in the log, and existing topics, groups and producers go on as before.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX
from gateway.config.units import MIB


class BoundKeys(BaseModel):
    """Part of `Config`."""

    topics_max: int = Field(
        100_000,
        ge=1,
        le=INT_MAX,
        description="Maximum number of topics, some 3 KB each; further ones are refused with POLICY_VIOLATION.",
    )
    partitions_max: int = Field(
        1_000_000,
        ge=1,
        le=INT_MAX,
        description="Maximum number of partitions of all topics; further ones are refused with POLICY_VIOLATION.",
    )
    auto_create_topics_max: int = Field(
        10_000,
        ge=0,
        le=INT_MAX,
        description="While there are this many topics, none is created because a client asks for it "
        "(auto.create.topics.enable); topics are still created by request.",
    )
    groups_max: int = Field(
        50_000,
        ge=1,
        le=INT_MAX,
        description="Maximum number of consumer groups, some 2 KB each; a member or commit of a further one is refused "
        "with POLICY_VIOLATION.",
    )
    group_member_metadata_max_bytes: int = Field(
        MIB,
        ge=1_024,
        le=INT_MAX,
        description="Longest metadata, of all protocols together, that a member may join its group with, and on "
        "average be assigned; more is refused with GROUP_MAX_SIZE_REACHED.",
    )
    groups_metadata_max_bytes: int = Field(
        64 * MIB,
        ge=MIB,
        le=INT_MAX,
        description="Metadata of the members of all groups together; more is refused with GROUP_MAX_SIZE_REACHED.",
    )
    producer_states_max: int = Field(
        500_000,
        ge=1_000,
        le=INT_MAX,
        description="Idempotent producers that are remembered, each counted for each partition that it writes to; "
        "0.6 to 1.5 KB. From nine tenths on those silent for longest, ten minutes at least, are forgotten early; at "
        "the bound one that is new to a partition is refused with NOT_ENOUGH_REPLICAS, which clients try again.",
    )
    telemetry_max_bytes: int = Field(
        MIB,
        ge=1,
        le=INT_MAX,
        description="Longest push of a client's metrics, as it comes and opened; more is TELEMETRY_TOO_LARGE.",
    )
    telemetry_series_max: int = Field(
        10_000,
        ge=0,
        le=INT_MAX,
        description="Series that all clients' pushed metrics may add to /metrics, some 0.5 KB each; what would exceed "
        "it is left out and counted.",
    )
    transactional_ids_max: int = Field(
        100_000,
        ge=1,
        le=INT_MAX,
        description="Maximum number of transactional ids, some 1 KB each; a further one is refused with "
        "POLICY_VIOLATION until others have expired (transactional.id.expiration.ms).",
    )
