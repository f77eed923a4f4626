"""The parsed form of a topic's configuration, and checks for values that contradict each other.

Keeps: the produce path and the store read a `TopicConfig`, which is made once per change, never per record. The keys
themselves are in `gateway.kafka_configs.topic_keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from core.streams.live import Stream
from core.streams.policy import ScalingKind, ScalingPolicy, StreamPolicy
from gateway.kafka_configs.keys import ConfigValue
from gateway.kafka_configs.topic_keys import (
    GROUPS,
    MIN_BYTES,
    MIN_MS,
    MIN_SEGMENTS,
    PLACEMENT,
    SCALE_FACTOR,
    SCALING_POLICY,
    TAKES_DEAD,
    TARGET_RATE,
    TOPIC_KEYS,
)
from gateway.refusals import InvalidConfig

TARGETS: Final[Mapping[ScalingKind, int]] = {
    ScalingKind.FIXED: 1,  # nothing is compared with it
    ScalingKind.BYTES: 8 * 2**20,
    ScalingKind.EVENTS: 10_000,
}
"""The default load of a segment, per second, for topics without a target of their own."""

CODECS: Final[Mapping[str, int]] = {
    "uncompressed": 0,
    "gzip": 1,
    "snappy": 2,
    "lz4": 3,
    "zstd": 4,
}
"""Kafka's names of codecs, and their number in the attributes of a record batch."""


AHEAD_MS_MAX: Final = 3_600_000
"""A batch's largest timestamp that is further ahead is looked up in its records, whatever the topic allows."""
ANY_TIME_MS: Final = 2**62
"""A distance in time that no clock shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig(StreamPolicy):
    """The parsed settings of a topic for Produce and retention: every stream's `policy` is one.

    The store makes a new policy whenever a stream's config changes, so the two never differ.
    """

    max_message_bytes: int
    timestamp_type_append: bool
    """LogAppendTime: the broker's clock stamps batches."""
    before_max_ms: int
    after_max_ms: int
    codec: int | None
    """The codec (its number in a batch's attributes) of stored batches; None: as sent."""
    codec_level: int | None
    takes_dead: bool
    """Share groups may write dead letters here."""

    is_ordinary: bool = field(init=False)
    """Uncompressed batches with timestamps in the usual bounds are stored as they are."""
    ahead_ms: int = field(init=False)
    """The usual upper bound of timestamps, as a distance ahead of the clock."""
    behind_ms: int = field(init=False)
    """The usual lower bound, as a distance behind the clock: older batches may have expired already."""

    def __post_init__(self) -> None:
        as_sent = self.codec in (None, CODECS["uncompressed"]) and not self.timestamp_type_append
        ordinary = as_sent and not self.compact and self.before_max_ms >= ANY_TIME_MS
        object.__setattr__(self, "is_ordinary", ordinary)
        object.__setattr__(self, "ahead_ms", min(self.after_max_ms, AHEAD_MS_MAX))
        object.__setattr__(self, "behind_ms", self.retention_ms if self.expires_by_time else ANY_TIME_MS)

    @property
    def expires_by_time(self) -> bool:
        return self.delete and self.retention_ms >= 0


def config_of(stream: Stream) -> TopicConfig:
    """The parsed configuration of a topic."""
    assert isinstance(stream.policy, TopicConfig), "the store was opened with our policy_for"
    return stream.policy


def topic_config(values: Mapping[str, ConfigValue]) -> TopicConfig:
    """The parsed form of a topic's effective values, one for every key of the table."""
    compression = str(values["compression.type"])
    level = values.get(f"compression.{compression}.level")
    cleanup = values["cleanup.policy"]
    groups = values[GROUPS]
    assert isinstance(cleanup, tuple)
    assert isinstance(groups, tuple)
    return TopicConfig(
        max_message_bytes=_int(values, "max.message.bytes"),
        timestamp_type_append=values["message.timestamp.type"] == "LogAppendTime",
        before_max_ms=_int(values, "message.timestamp.before.max.ms"),
        after_max_ms=_int(values, "message.timestamp.after.max.ms"),
        codec=CODECS.get(compression),
        codec_level=None if level is None else int(str(level)),
        takes_dead=values[TAKES_DEAD] is True,
        compact="compact" in cleanup,
        delete="delete" in cleanup,
        retention_ms=max(_int(values, "retention.ms"), -1),
        retention_bytes=max(_int(values, "retention.bytes"), -1),
        consumers=tuple(dict.fromkeys(groups)),
        keep_ms=_int(values, MIN_MS),
        keep_bytes=_int(values, MIN_BYTES),
        min_dirty_ratio=float(str(values["min.cleanable.dirty.ratio"])),
        min_lag_ms=_int(values, "min.compaction.lag.ms"),
        max_lag_ms=_int(values, "max.compaction.lag.ms"),
        tombstone_ms=_int(values, "delete.retention.ms"),
        scaling=_scaling(values),
        spread=values[PLACEMENT] == "spread",
    )


def _scaling(values: Mapping[str, ConfigValue]) -> ScalingPolicy:
    kind = ScalingKind(values[SCALING_POLICY])
    return ScalingPolicy(
        kind=kind,
        target_rate=_int(values, TARGET_RATE) or TARGETS[kind],
        factor=_int(values, SCALE_FACTOR),
        min_segments=_int(values, MIN_SEGMENTS),
    )


def _int(values: Mapping[str, ConfigValue], name: str) -> int:
    value = values[name]
    assert isinstance(value, int)
    return value


def check_names(overrides: Mapping[str, object]) -> None:
    """Raises InvalidConfig for a name that is no topic config."""
    for name in overrides:
        if name not in TOPIC_KEYS:
            raise InvalidConfig(f"Unknown topic config name: {name}")


def check_together(values: Mapping[str, ConfigValue]) -> None:
    """Raises InvalidConfig for values that are valid alone but not together, or not in Penstock."""
    low, high = _int(values, "min.compaction.lag.ms"), _int(values, "max.compaction.lag.ms")
    if low > high:
        raise InvalidConfig(
            f"conflict topic config setting min.compaction.lag.ms ({low}) > max.compaction.lag.ms ({high})"
        )
    for least, most in ((MIN_MS, "retention.ms"), (MIN_BYTES, "retention.bytes")):
        low, high = _int(values, least), _int(values, most)
        if 0 <= high < low:
            raise InvalidConfig(f"conflict topic config setting {least} ({low}) > {most} ({high})")
    if values["remote.storage.enable"]:
        raise InvalidConfig(
            "Tiered Storage functionality is disabled in the broker. "
            "Topic cannot be configured with remote log storage."
        )
