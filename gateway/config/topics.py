"""The configuration keys of topics: their creation, and the defaults of their own configs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from gateway.config.fields import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN
from gateway.config.units import HOUR_MS, MIB

Compression = Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]


class TopicKeys(BaseModel):
    """Part of `Config`."""

    num_partitions: int = Field(
        16,
        ge=1,
        le=100_000,
        description="Partitions of a new topic if its creator names no number.",
    )
    default_replication_factor: int = Field(
        1,
        ge=1,
        le=32_767,
        description="Accepted for Kafka's tools; a topic is always shown with one replica.",
    )
    auto_create_topics_enable: bool = Field(True, description="A topic is created when a client first asks for it.")
    delete_topic_enable: bool = Field(True, description="Topics may be deleted.")
    message_max_bytes: int = Field(
        MIB + 12, ge=0, le=INT_MAX, description="Largest record batch, compressed as it was sent."
    )
    compression_type: Compression = Field(
        "producer", description="Codec of new topics' batches; producer keeps the producer's codec."
    )
    log_cleanup_policy: str = Field(
        "delete",
        pattern=r"^\s*((delete|compact)(\s*,\s*(delete|compact))*)?\s*$",
        description="Treatment of old records, for topics without a policy of their own.",
        json_schema_extra={"allowed": "delete, compact, or both with a comma; empty: everything is kept"},
    )
    log_retention_ms: int | None = Field(
        None,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from 1 to {LONG_MAX}, or -1"},
        description="Age at which records are removed; -1 never. If set, it wins over minutes and hours.",
    )
    log_retention_minutes: int | None = Field(
        None,
        ge=INT_MIN,
        le=INT_MAX,
        json_schema_extra={"allowed": f"int from 1 to {INT_MAX}, or -1"},
        description="Age at which records are removed, in minutes. If set, it wins over hours.",
    )
    log_retention_hours: int = Field(
        168,
        ge=INT_MIN,
        le=INT_MAX,
        json_schema_extra={"allowed": f"int from 1 to {INT_MAX}, or -1"},
        description="Age at which records are removed, in hours; -1 never.",
    )
    log_retention_bytes: int = Field(
        -1,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from -1 to {LONG_MAX}"},
        description="Size of a partition above which its oldest records are removed; -1 unbounded.",
    )
    log_retention_check_interval_ms: int = Field(
        300_000, ge=1, le=LONG_MAX, description="Time between two rounds of retention."
    )
    log_message_timestamp_type: Literal["CreateTime", "LogAppendTime"] = Field(
        "CreateTime", description="Whose clock stamps records: the producer's or the broker's."
    )
    log_message_timestamp_before_max_ms: int = Field(
        LONG_MAX, ge=0, le=LONG_MAX, description="How far a record's timestamp may lie in the past."
    )
    log_message_timestamp_after_max_ms: int = Field(
        HOUR_MS,
        ge=0,
        le=LONG_MAX,
        description="How far a record's timestamp may lie in the future.",
    )
    record_validation: Literal["auto", "full", "header"] = Field(
        "auto",
        description="full: the records of every batch are checked before it is stored, as in Kafka. header: those of "
        "small batches, and where a topic or a batch's header gives cause. auto: full where the native extension is "
        'installed, header elsewhere; the line "starting" of the log says which.',
    )

    @property
    def retention_ms(self) -> int:
        """Kafka's precedence: milliseconds over minutes over hours; negative means for ever."""
        if self.log_retention_ms is not None:
            return max(self.log_retention_ms, -1)
        if self.log_retention_minutes is not None:
            return max(self.log_retention_minutes * 60_000, -1)
        return max(self.log_retention_hours * HOUR_MS, -1)
