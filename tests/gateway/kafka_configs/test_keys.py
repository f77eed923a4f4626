"""How a config's text is read and refused: Kafka's parser, in Kafka's words."""

from __future__ import annotations

import pytest

from core.streams.policy import ScalingKind, ScalingPolicy
from gateway.config.loading import load
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.keys import ConfigValue
from gateway.kafka_configs.topic_config import CODECS
from gateway.kafka_configs.topic_keys import NO_EFFECT, TOPIC_KEYS
from gateway.refusals import InvalidConfig

CONFIGS = BrokerConfigs(load(environ={}))


def why_not(**overrides: str | None) -> str | None:
    """Kafka's reason to refuse a topic's configs; None when they are fine."""
    try:
        CONFIGS.check_topic({name.replace("_", "."): text for name, text in overrides.items()})
    except InvalidConfig as refused:
        return refused.message
    return None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("preallocate", "TRUE", True),
        ("preallocate", " false ", False),
        ("max.message.bytes", " 12 ", 12),
        ("max.message.bytes", "+12", 12),
        ("retention.bytes", "-77", -77),
        ("min.cleanable.dirty.ratio", "1e-1", 0.1),
        ("compression.type", " gzip ", "gzip"),
        ("cleanup.policy", " compact , delete", ("compact", "delete")),
        ("cleanup.policy", "", ()),
        ("leader.replication.throttled.replicas", "*", ("*",)),
        ("leader.replication.throttled.replicas", "0:1,1:1", ("0:1", "1:1")),
        ("compression.gzip.level", "-1", -1),
        ("compression.zstd.level", "0", 0),
    ],
)
def test_read(name: str, text: str, value: ConfigValue) -> None:
    """Texts that Kafka accepts have Kafka's meaning."""
    assert value == TOPIC_KEYS[name].parse(text)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("retention.ms", "abc", "Not a number of type LONG"),
        ("retention.ms", "", "Not a number of type LONG"),
        ("retention.ms", "0x10", "Not a number of type LONG"),
        ("retention.ms", "1_0", "Not a number of type LONG"),
        ("retention.ms", "99999999999999999999", "Not a number of type LONG"),
        ("retention.ms", "9" * 5_000, "Not a number of type LONG"),
        ("retention.ms", "-2", "Value must be at least -1"),
        ("max.message.bytes", "99999999999", "Not a number of type INT"),
        ("segment.bytes", "12", "Value must be at least 1048576"),
        ("segment.ms", "0", "Value must be at least 1"),
        ("local.retention.ms", "-3", "Value must be at least -2"),
        ("min.cleanable.dirty.ratio", "1.5", "Value must be no more than 1"),
        ("min.cleanable.dirty.ratio", "-0.1", "Value must be at least 0"),
        ("min.cleanable.dirty.ratio", "x", "Not a number of type DOUBLE"),
        (
            "compression.type",
            "foo",
            "String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer",
        ),
        ("message.timestamp.type", "foo", "String must be one of: CreateTime, LogAppendTime"),
        ("cleanup.policy", "Compact", "String must be one of: compact, delete"),
        ("preallocate", "foo", "Expected value to be either true or false"),
        ("compression.gzip.level", "0", "Value must be between 1 and 9 or equal to -1"),
        ("compression.lz4.level", "18", "Value must be no more than 17"),
        ("compression.zstd.level", "-200000", "Value must be at least -131072"),
    ],
)
def test_refused(name: str, text: str, why: str) -> None:
    """Texts that Kafka does not take are refused with Kafka's message."""
    with pytest.raises(InvalidConfig) as refused:
        TOPIC_KEYS[name].parse(text)

    assert f"Invalid value {text} for configuration {name}: {why}" == refused.value.message


def test_lists() -> None:
    """Lists have messages of their own."""
    assert why_not(cleanup_policy="compact,,delete") == "Configuration 'cleanup.policy' values must not be empty."
    assert why_not(leader_replication_throttled_replicas="0:1,*") == (
        "Invalid value [0:1, *] for configuration leader.replication.throttled.replicas: "
        "leader.replication.throttled.replicas must be the literal '*' or a list of replicas in the following "
        "format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    )


def test_unknown_names() -> None:
    """A name that is no topic config is refused before any value is looked at."""
    assert why_not(retention_ms="x", nope="y") == "Unknown topic config name: nope"


def test_nulls() -> None:
    """A null is no value."""
    assert why_not(retention_ms=None) == "Null value not supported for topic configs: retention.ms"


def test_together() -> None:
    """Compaction lags must not contradict each other."""
    assert (
        why_not(min_compaction_lag_ms="10", max_compaction_lag_ms="5")
        == "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)"
    )


def test_tiering_by_topic() -> None:
    """Turning tiering on for a topic is refused as by a Kafka broker without it."""
    assert why_not(remote_storage_enable="false") is None
    assert why_not(remote_storage_enable="true") == (
        "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
    )


def test_bounds_of_consumption() -> None:
    """A least bound is not above the greatest one, and a group has a name."""
    limits = {"penstock_retention_min_ms": "1000", "penstock_retention_min_bytes": "1000"}
    assert why_not(penstock_retention_groups="a, b", **limits) is None
    assert why_not(retention_ms="-1", retention_bytes="-1", **limits) is None
    assert why_not(retention_ms="999", **limits) == (
        "conflict topic config setting penstock.retention.min.ms (1000) > retention.ms (999)"
    )
    assert why_not(retention_bytes="999", **limits) == (
        "conflict topic config setting penstock.retention.min.bytes (1000) > retention.bytes (999)"
    )
    assert why_not(penstock_retention_groups="a,,b") == (
        "Configuration 'penstock.retention.groups' values must not be empty."
    )
    assert CONFIGS.policy_for({"penstock.retention.groups": "b,a,b"}).consumers == ("b", "a")


def test_scaling() -> None:
    """A topic says what it scales by; the target's default depends on it; nonsense is refused."""
    assert CONFIGS.policy_for({}).scaling == ScalingPolicy(kind=ScalingKind.BYTES, target_rate=8 << 20, factor=4)
    by_events = {"penstock.scaling.policy": "events", "penstock.scaling.min.segments": "3"}
    assert CONFIGS.policy_for(by_events).scaling == ScalingPolicy(
        kind=ScalingKind.EVENTS, target_rate=10_000, factor=4, min_segments=3
    )
    assert CONFIGS.policy_for({"penstock.scaling.target.rate": "7"}).scaling.target_rate == 7
    assert why_not(penstock_scaling_policy="records") == (
        "Invalid value records for configuration penstock.scaling.policy: String must be one of: fixed, bytes, events"
    )
    assert why_not(penstock_scaling_factor="1") == (
        "Invalid value 1 for configuration penstock.scaling.factor: Value must be at least 2"
    )
    assert why_not(penstock_scaling_target_rate="-1") is not None
    assert why_not(penstock_scaling_min_segments="0") is not None


def test_documented() -> None:
    """Every topic config is explained; its default passes its own check."""
    without_effect = [key.name for key in TOPIC_KEYS.values() if NO_EFFECT in key.doc]
    for key in TOPIC_KEYS.values():
        assert key.doc.endswith(".")
        assert key.default is not None
        key.parse(key.default)

    assert len(TOPIC_KEYS) == 33 + 9  # Kafka's and our own
    assert {"segment.bytes", "min.insync.replicas", "flush.ms"} <= set(without_effect)
    assert {"retention.ms", "max.message.bytes", "compression.type"}.isdisjoint(without_effect)


def test_parsed_for_the_hot_path() -> None:
    """A topic's configs as Produce and retention read them."""
    parsed = CONFIGS.policy_for(
        {
            "cleanup.policy": "compact",
            "compression.type": "zstd",
            "compression.zstd.level": "7",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": "1000",
            "retention.ms": "-1",
            "retention.bytes": "-5",
        }
    )

    assert (parsed.compact, parsed.delete) == (True, False)
    assert (CODECS["zstd"], 7) == (parsed.codec, parsed.codec_level)
    assert (parsed.timestamp_type_append, parsed.max_message_bytes) == (True, 1000)
    assert (parsed.retention_ms, parsed.retention_bytes) == (-1, -1)


def test_defaults_for_the_hot_path() -> None:
    """Without overrides a topic has Kafka's defaults, and batches keep their codec."""
    parsed = CONFIGS.policy_for({})

    assert (parsed.codec, parsed.codec_level) == (None, None)
    assert (
        parsed.max_message_bytes,
        parsed.retention_ms,
        parsed.retention_bytes,
    ) == (1_048_588, 604_800_000, -1)


def test_stored_by_another_release() -> None:
    """A stored override that this release does not know or take is left out, never a reason not to start."""
    parsed = CONFIGS.policy_for({"from.the.future": "x", "message.timestamp.type": "x", "max.message.bytes": "5"})

    assert (parsed.timestamp_type_append, parsed.max_message_bytes) == (False, 5)


def test_unreadable_retention_deletes_nothing() -> None:
    """If the retention itself cannot be read, everything is kept."""
    parsed = CONFIGS.policy_for({"retention.ms": "soon", "retention.bytes": "few", "cleanup.policy": "burn"})

    assert (parsed.retention_ms, parsed.retention_bytes, parsed.delete, parsed.compact) == (-1, -1, False, False)


@pytest.mark.parametrize(
    ("setting", "retention_ms"),
    [
        ("log.retention.ms=5", 5),
        ("log.retention.ms=-1", -1),
        ("log.retention.minutes=2", 120_000),
        ("log.retention.hours=1", 3_600_000),
        ("log.retention.hours=-1", -1),
    ],
)
def test_units_of_retention(setting: str, retention_ms: int) -> None:
    """The broker's retention may be given in three units; negative is for ever."""
    configs = BrokerConfigs(load(environ={}, assignments=[setting]))

    assert retention_ms == configs.policy_for({}).retention_ms


def test_finest_unit_wins() -> None:
    """Milliseconds win over minutes, minutes over hours."""
    settings = ["log.retention.hours=1", "log.retention.minutes=2", "log.retention.ms=3"]
    found = [
        BrokerConfigs(load(environ={}, assignments=settings[:count])).policy_for({}).retention_ms for count in (1, 2, 3)
    ]

    assert found == [3_600_000, 120_000, 3]
