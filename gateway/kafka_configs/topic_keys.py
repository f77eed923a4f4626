"""The table of topic configurations: Kafka's documented ones, and Penstock's own.

Keeps: every topic config of Kafka 4.x is known, with Kafka's default and check; one that has no effect in Penstock says
so in its documentation. `gateway.kafka_configs.topic_config` gives the values their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.kafka_configs.keys import (
    LONG_MAX,
    Check,
    ConfigKey,
    ConfigType,
    Synonym,
    at_least,
    between,
    group_names,
    gzip_level,
    list_of,
    one_of,
    throttled_replicas,
)

NO_EFFECT: Final = "Accepted so that tools written for Kafka keep working; it has no effect in Penstock"
_NO_FILES: Final = f"{NO_EFFECT}, where a topic has no files of its own."
_NO_REPLICAS: Final = f"{NO_EFFECT}, where a partition has one leader and durable storage below it."
_TIERING: Final = f"{NO_EFFECT}, which does not tier by topic as Kafka does."


GROUPS: Final = "penstock.retention.groups"
MIN_BYTES: Final = "penstock.retention.min.bytes"
MIN_MS: Final = "penstock.retention.min.ms"
SCALING_POLICY: Final = "penstock.scaling.policy"
TARGET_RATE: Final = "penstock.scaling.target.rate"
SCALE_FACTOR: Final = "penstock.scaling.factor"
MIN_SEGMENTS: Final = "penstock.scaling.min.segments"
TAKES_DEAD: Final = "errors.deadletterqueue.group.enable"
PLACEMENT: Final = "penstock.placement"


def _key(
    name: str,
    kind: ConfigType,
    default: str | int | float,
    doc: str,
    *,
    check: Check | None = None,
    broker: str | tuple[Synonym, ...] = (),
) -> ConfigKey:
    synonyms = (Synonym(broker),) if isinstance(broker, str) else broker
    return ConfigKey(name, kind, str(default), doc, check, synonyms)


_BOOLEAN, _STRING, _INT = ConfigType.BOOLEAN, ConfigType.STRING, ConfigType.INT
_LONG, _DOUBLE, _LIST = ConfigType.LONG, ConfigType.DOUBLE, ConfigType.LIST
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS
_WEEK_MS: Final = 7 * _DAY_MS
_MIB: Final = 2**20

_KEYS: Final = (
    _key(
        "cleanup.policy",
        _LIST,
        "delete",
        "Treatment of old records. delete: they are removed by retention.ms and retention.bytes, and "
        "when all of penstock.retention.groups have consumed them. compact: the last value of each "
        "key stays, once the records are in long-term storage; nothing is removed by age or size. "
        "Both: both. Empty: everything is kept.",
        check=list_of("compact", "delete"),
        broker="log.cleanup.policy",
    ),
    _key(
        "compression.gzip.level",
        _INT,
        -1,
        "Level for batches that compression.type=gzip recompresses; -1 is the codec's default.",
        check=gzip_level,
        broker="compression.gzip.level",
    ),
    _key(
        "compression.lz4.level",
        _INT,
        9,
        "Level for batches that compression.type=lz4 recompresses.",
        check=between(1, 17),
        broker="compression.lz4.level",
    ),
    _key(
        "compression.type",
        _STRING,
        "producer",
        "Codec in which the topic's batches are stored. producer keeps each batch exactly as it "
        "was sent; any other value recompresses batches of another codec when they arrive.",
        check=one_of("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        broker="compression.type",
    ),
    _key(
        "compression.zstd.level",
        _INT,
        3,
        "Level for batches that compression.type=zstd recompresses.",
        check=between(-131_072, 22),
        broker="compression.zstd.level",
    ),
    _key(
        "delete.retention.ms",
        _LONG,
        _DAY_MS,
        "Time that a record without a value, which deletes its key, stays after the first "
        "compaction that meets it: every consumer needs time to read it.",
        check=at_least(0),
        broker="log.cleaner.delete.retention.ms",
    ),
    _key(
        TAKES_DEAD,
        _BOOLEAN,
        "false",
        "Whether share groups may write dead letters to the topic: records that they have given up.",
    ),
    _key(
        "file.delete.delay.ms",
        _LONG,
        60_000,
        f"How long Kafka waits before it removes a file. {_NO_FILES}",
        check=at_least(0),
        broker="log.segment.delete.delay.ms",
    ),
    _key(
        "flush.messages",
        _LONG,
        LONG_MAX,
        f"After how many records Kafka syncs a log. {NO_EFFECT}: log.sync.mode decides for all "
        "topics, and by default everything is synced before it is acknowledged.",
        check=at_least(1),
        broker="log.flush.interval.messages",
    ),
    _key(
        "flush.ms",
        _LONG,
        LONG_MAX,
        f"After how long Kafka syncs a log. {NO_EFFECT}: log.sync.mode decides for all topics, and "
        "by default everything is synced before it is acknowledged.",
        check=at_least(0),
        broker=(Synonym("log.flush.interval.ms", floor=0), Synonym("log.flush.scheduler.interval.ms", floor=0)),
    ),
    _key(
        "follower.replication.throttled.replicas",
        _LIST,
        "",
        f"Replicas whose copying is throttled at the follower. {_NO_REPLICAS}",
        check=throttled_replicas,
    ),
    _key(
        "index.interval.bytes",
        _INT,
        4096,
        f"How many bytes of a log file one index entry covers. {_NO_FILES}",
        check=at_least(0),
        broker="log.index.interval.bytes",
    ),
    _key(
        "leader.replication.throttled.replicas",
        _LIST,
        "",
        f"Replicas whose copying is throttled at the leader. {_NO_REPLICAS}",
        check=throttled_replicas,
    ),
    _key(
        "local.retention.bytes",
        _LONG,
        -2,
        f"Bytes of a tiered partition that stay on local disk. {_TIERING}",
        check=at_least(-2),
        broker="log.local.retention.bytes",
    ),
    _key(
        "local.retention.ms",
        _LONG,
        -2,
        f"How long a tiered partition's records stay on local disk. {_TIERING}",
        check=at_least(-2),
        broker="log.local.retention.ms",
    ),
    _key(
        "max.compaction.lag.ms",
        _LONG,
        LONG_MAX,
        "Age of the oldest uncompacted record at which a partition is compacted, whatever "
        "min.cleanable.dirty.ratio says. Counted once the record is in long-term storage.",
        check=at_least(1),
        broker="log.cleaner.max.compaction.lag.ms",
    ),
    _key(
        "max.message.bytes",
        _INT,
        _MIB + 12,
        "Largest record batch that the topic takes, compressed as it was sent.",
        check=at_least(0),
        broker="message.max.bytes",
    ),
    _key(
        "message.timestamp.after.max.ms",
        _LONG,
        _HOUR_MS,
        "How far a record's timestamp may lie in the broker's future; beyond it the batch is "
        "refused. Not looked at with message.timestamp.type=LogAppendTime.",
        check=at_least(0),
        broker="log.message.timestamp.after.max.ms",
    ),
    _key(
        "message.timestamp.before.max.ms",
        _LONG,
        LONG_MAX,
        "How far a record's timestamp may lie in the broker's past; beyond it the batch is "
        "refused. Not looked at with message.timestamp.type=LogAppendTime.",
        check=at_least(0),
        broker="log.message.timestamp.before.max.ms",
    ),
    _key(
        "message.timestamp.type",
        _STRING,
        "CreateTime",
        "Whose clock stamps records: the producer's (CreateTime) or the broker's (LogAppendTime).",
        check=one_of("CreateTime", "LogAppendTime"),
        broker="log.message.timestamp.type",
    ),
    _key(
        "min.cleanable.dirty.ratio",
        _DOUBLE,
        0.5,
        "Share of uncompacted bytes among a partition's bytes in long-term storage, over "
        "which it is compacted. A smaller share saves space and rewrites more.",
        check=between(0, 1),
        broker="log.cleaner.min.cleanable.ratio",
    ),
    _key(
        "min.compaction.lag.ms",
        _LONG,
        0,
        "Time for which a record stays uncompacted, in any case.",
        check=at_least(0),
        broker="log.cleaner.min.compaction.lag.ms",
    ),
    _key(
        "min.insync.replicas",
        _INT,
        1,
        f"Replicas that must have a write before acks=all is answered. {_NO_REPLICAS}",
        check=at_least(1),
        broker="min.insync.replicas",
    ),
    _key(
        PLACEMENT,
        _STRING,
        "spread",
        "Where new partitions go if there are several containers. spread: over all of them, the least loaded first. "
        "one: all into the least loaded one. A partition stays where it is; a change is for later partitions.",
        check=one_of("spread", "one"),
    ),
    _key(
        GROUPS,
        _LIST,
        "",
        "Consumer groups for which records are kept: records below the commits of all of them are "
        "removed, as far as penstock.retention.min.ms and penstock.retention.min.bytes allow. A group "
        "that has committed nothing yet holds everything. retention.ms and retention.bytes are the "
        "upper bounds: beyond them records are removed, consumed or not. Empty: consumption removes "
        "nothing. Only with delete in cleanup.policy.",
        check=group_names,
    ),
    _key(
        MIN_BYTES,
        _LONG,
        0,
        "Bytes of a partition that stay although all of penstock.retention.groups have consumed them.",
        check=at_least(0),
    ),
    _key(
        MIN_MS,
        _LONG,
        0,
        "Time that records stay although all of penstock.retention.groups have consumed them.",
        check=at_least(0),
    ),
    _key(
        SCALE_FACTOR,
        _INT,
        4,
        "Maximum number of segments that one split makes of a segment.",
        check=between(2, 1_000),
        broker="scaling.factor",
    ),
    _key(
        MIN_SEGMENTS,
        _INT,
        1,
        "Segments of a new topic; no merge leaves fewer. Never more than the topic's partitions.",
        check=between(1, 100_000),
        broker="scaling.min.segments",
    ),
    _key(
        SCALING_POLICY,
        _STRING,
        "bytes",
        "What makes the topic's segments split and merge: the bytes or the events (records) that a segment gets a "
        "second, compared with penstock.scaling.target.rate. fixed: nothing, they stay as they are. Clients do not "
        "notice: partitions, offsets and keys stay where they are.",
        check=one_of("fixed", "bytes", "events"),
        broker="scaling.policy",
    ),
    _key(
        TARGET_RATE,
        _LONG,
        0,
        "Target load of one segment per second: bytes or events, by penstock.scaling.policy. More than five times the "
        "target over 2 minutes, twice over 5 or once over 10 splits the segment; less than half over 20 merges it with "
        "a neighbour that has as little. 0: 8388608 bytes, 10000 events.",
        check=at_least(0),
        broker="scaling.target.rate",
    ),
    _key(
        "preallocate",
        _BOOLEAN,
        "false",
        f"Whether Kafka reserves the space of a new file. {_NO_FILES}",
        broker="log.preallocate",
    ),
    _key(
        "remote.log.copy.disable",
        _BOOLEAN,
        "false",
        f"Whether a tiered topic stops uploading. {_TIERING}",
    ),
    _key(
        "remote.log.delete.on.disable",
        _BOOLEAN,
        "false",
        f"Whether tiered data goes when tiering is turned off for a topic. {_TIERING}",
    ),
    _key(
        "remote.storage.enable",
        _BOOLEAN,
        "false",
        "Whether a topic is tiered. Only false is accepted, as by a Kafka broker without tiered "
        "storage: Penstock does not tier by topic.",
    ),
    _key(
        "retention.bytes",
        _LONG,
        -1,
        "Size of a partition above which its oldest records are removed; negative is unbounded. Only with "
        "delete in cleanup.policy.",
        broker="log.retention.bytes",
    ),
    _key(
        "retention.ms",
        _LONG,
        _WEEK_MS,
        "Age at which records are removed; -1 is never. Only with delete in cleanup.policy.",
        check=at_least(-1),
        broker=(
            Synonym("log.retention.ms", floor=-1),
            Synonym("log.retention.minutes", _MINUTE_MS, floor=-1),
            Synonym("log.retention.hours", _HOUR_MS, floor=-1),
        ),
    ),
    _key(
        "segment.bytes",
        _INT,
        2**30,
        f"Size at which Kafka begins a partition's next file. {_NO_FILES}",
        check=at_least(_MIB),
        broker="log.segment.bytes",
    ),
    _key(
        "segment.index.bytes",
        _INT,
        10 * _MIB,
        f"Size of the index of one of Kafka's files. {_NO_FILES}",
        check=at_least(4),
        broker="log.index.size.max.bytes",
    ),
    _key(
        "segment.jitter.ms",
        _LONG,
        0,
        f"Random part of segment.ms. {_NO_FILES}",
        check=at_least(0),
        broker=(Synonym("log.roll.jitter.ms"), Synonym("log.roll.jitter.hours", _HOUR_MS)),
    ),
    _key(
        "segment.ms",
        _LONG,
        _WEEK_MS,
        f"Age at which Kafka begins a partition's next file. {_NO_FILES}",
        check=at_least(1),
        broker=(Synonym("log.roll.ms"), Synonym("log.roll.hours", _HOUR_MS)),
    ),
    _key(
        "unclean.leader.election.enable",
        _BOOLEAN,
        "false",
        f"Whether a replica that lags may lead. {_NO_REPLICAS}",
        broker="unclean.leader.election.enable",
    ),
)

TOPIC_KEYS: Final[Mapping[str, ConfigKey]] = {key.name: key for key in _KEYS}
