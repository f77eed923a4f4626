"""Every broker configuration that DescribeConfigs shows: Penstock's own keys and Kafka's.

Keeps: a key is dynamic only if setting it at run time has the same effect as in Kafka, or has no
effect that an operator could miss: the defaults of topics are dynamic; keys that tune Kafka's
threads are accepted and say that they have no effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.config.addresses import host_port
from gateway.config.loading import Config, describe
from gateway.kafka_configs.keys import Check, ConfigKey, ConfigType, at_least, between, required, time_or_for_ever
from gateway.kafka_configs.resource_keys import GROUP_KEYS
from gateway.kafka_configs.topic_keys import NO_EFFECT, TOPIC_KEYS

CLEANER_BUFFER: Final = "log.cleaner.dedupe.buffer.size"
CLEANER_THREADS: Final = "log.cleaner.threads"

_TYPES: Final[Mapping[str, ConfigType]] = {
    "boolean": ConfigType.BOOLEAN,
    "int": ConfigType.INT,
    "long": ConfigType.LONG,
    "double": ConfigType.DOUBLE,
    "string": ConfigType.STRING,
    "list": ConfigType.LIST,
    "password": ConfigType.PASSWORD,
}


@dataclass(frozen=True, slots=True)
class BrokerKey:
    """A broker's key, whether it can be set at run time, and its value at the start."""

    key: ConfigKey
    dynamic: bool
    static: str | None = None
    """The value from file, environment or flag."""


def broker_keys(config: Config) -> dict[str, BrokerKey]:
    """All keys of a broker with that configuration."""
    found = {entry.key.name: entry for entry in _kafka_only()}
    found |= {entry.key.name: entry for entry in _told(config)}
    own = {entry.key.name: entry for entry in _own(config)}
    for entry in _topic_defaults():
        name = entry.key.name
        own[name] = _merged(own[name], entry) if name in own else entry
    return dict(sorted((found | own).items()))


def _merged(own: BrokerKey, kafka: BrokerKey) -> BrokerKey:
    """Our value and words with Kafka's type and check."""
    key = ConfigKey(own.key.name, kafka.key.type, own.key.default, own.key.doc, kafka.key.check)
    return BrokerKey(key, kafka.dynamic, own.static)


def _own(config: Config) -> Iterator[BrokerKey]:
    """Penstock's configuration: read-only at run time."""
    for row in describe(config):
        name, explicit = str(row["key"]), row["source"] != "default"
        if name == "listeners":
            value: str | None = _listeners(config)
            default = value
        elif name == "advertised.listeners":
            value = default = _advertised(config)
        else:
            value, default = _text(row["value"]), _text(row["default"])
        key = ConfigKey(name, _TYPES[str(row["type"])], default, str(row["doc"]))
        yield BrokerKey(key, False, value if explicit else None)


def _topic_defaults() -> Iterator[BrokerKey]:
    """The broker's side of topic configs: the first synonym of each can be set at run time."""
    for topic_key in TOPIC_KEYS.values():
        for place, synonym in enumerate(topic_key.synonyms):
            single = len(topic_key.synonyms) == 1
            key = ConfigKey(
                synonym.name,
                topic_key.type if synonym.factor == 1 else ConfigType.INT,
                topic_key.default if single else _UNIT_DEFAULTS.get(synonym.name),
                f"Default of the topic config {topic_key.name}. {topic_key.doc}",
                topic_key.check if single else _CHECKS.get(synonym.name),
            )
            yield BrokerKey(key, dynamic=place == 0)


_UNIT_DEFAULTS: Final[Mapping[str, str]] = {
    "log.retention.hours": "168",
    "log.roll.hours": "168",
    "log.roll.jitter.hours": "0",
    "log.flush.scheduler.interval.ms": str(2**63 - 1),
}
"""Defaults of keys that share a topic config with others: only the coarsest has one."""


_CHECKS: Final[Mapping[str, Check]] = {
    "log.retention.ms": time_or_for_ever,
    "log.roll.ms": required(1),
    "log.roll.jitter.ms": required(0),
}
"""Kafka's checks of the finest of several keys that differ from the check of the topic config."""


def _kafka_only() -> Iterator[BrokerKey]:
    """Kafka's run-time keys that scripts set, for parts that Penstock does not have."""
    for name, kind, default, check in (
        ("background.threads", ConfigType.INT, "10", at_least(1)),
        ("log.cleaner.backoff.ms", ConfigType.LONG, "15000", at_least(0)),
        (CLEANER_BUFFER, ConfigType.LONG, "134217728", None),
        ("log.cleaner.io.buffer.size", ConfigType.INT, "524288", at_least(0)),
        (CLEANER_THREADS, ConfigType.INT, "1", at_least(0)),
        ("num.io.threads", ConfigType.INT, "8", at_least(1)),
        ("num.network.threads", ConfigType.INT, "3", at_least(1)),
        ("num.recovery.threads.per.data.dir", ConfigType.INT, "2", at_least(1)),
        ("num.replica.fetchers", ConfigType.INT, "1", at_least(1)),
    ):
        doc = f"Tunes Kafka's own threads and buffers. {NO_EFFECT}."
        yield BrokerKey(ConfigKey(name, kind, default, doc, check), dynamic=True)
    for name in (
        "follower.replication.throttled.rate",
        "leader.replication.throttled.rate",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ):
        doc = f"Bytes per second for copying replicas. {NO_EFFECT}, which copies none."
        key = ConfigKey(name, ConfigType.LONG, str(2**63 - 1), doc, between(0, 2**63 - 1))
        yield BrokerKey(key, dynamic=True)


def _directories(config: Config) -> str:
    return ",".join(map(str, config.data_dirs or (config.data_dir,)))


def _told(config: Config) -> Iterator[BrokerKey]:
    """Kafka's static keys that tools read, answered with Penstock's equivalents."""
    for name, kind, value, doc in (
        ("broker.id", ConfigType.INT, str(config.node_id), "Kafka's older name of node.id."),
        ("log.dirs", ConfigType.LIST, _directories(config), "Where data lies: data.dirs, or data.dir."),
        ("log.dir", ConfigType.LIST, str(config.data_dir), "See log.dirs."),
        ("controller.quorum.voters", ConfigType.LIST, f"{config.node_id}@{_first(config)}", "See DescribeQuorum."),
    ):
        yield BrokerKey(ConfigKey(name, kind, value, doc), dynamic=False)
    for name, kind, fixed, doc in _FIXED:
        yield BrokerKey(ConfigKey(name, kind, fixed, doc), dynamic=False)
    for key in GROUP_KEYS:
        for synonym in key.synonyms:
            if synonym.name != key.name:
                yield BrokerKey(ConfigKey(synonym.name, key.type, key.default, key.doc), dynamic=False)


_NO_INTERNAL_TOPICS: Final = f"{NO_EFFECT}: internal topics are views of tables, of which there is no log."
_NO_SECURITY: Final = "Penstock has no listeners with security yet: every connection is User:ANONYMOUS, and may do all."
_ONE_BROKER: Final = "Penstock is one process, which does what Kafka's brokers and controllers do."

_FIXED: Final[tuple[tuple[str, ConfigType, str | None, str], ...]] = (
    ("alter.config.policy.class.name", ConfigType.CLASS, None, "Penstock runs no classes: there are no policies."),
    ("authorizer.class.name", ConfigType.STRING, "", _NO_SECURITY),
    ("auto.leader.rebalance.enable", ConfigType.BOOLEAN, "true", f"{NO_EFFECT}: a partition has one leader."),
    ("broker.rack", ConfigType.STRING, None, _ONE_BROKER),
    ("controller.listener.names", ConfigType.LIST, "PLAINTEXT", _ONE_BROKER),
    ("create.topic.policy.class.name", ConfigType.CLASS, None, "Penstock runs no classes: there are no policies."),
    ("inter.broker.listener.name", ConfigType.STRING, None, _ONE_BROKER),
    ("max.connections.per.ip.overrides", ConfigType.STRING, "", "Every address has max.connections.per.ip."),
    ("metadata.log.dir", ConfigType.STRING, None, "Metadata lies where all data lies: data.dir."),
    ("offsets.topic.compression.codec", ConfigType.INT, "0", _NO_INTERNAL_TOPICS),
    ("offsets.topic.replication.factor", ConfigType.SHORT, "1", _NO_INTERNAL_TOPICS),
    ("offsets.topic.segment.bytes", ConfigType.INT, "104857600", _NO_INTERNAL_TOPICS),
    ("process.roles", ConfigType.LIST, "broker,controller", _ONE_BROKER),
    ("remote.log.storage.system.enable", ConfigType.BOOLEAN, "false", "Kafka's tiering by topic; see tier2."),
    ("replica.fetch.max.bytes", ConfigType.INT, "1048576", f"{NO_EFFECT}, which copies no replicas."),
    ("replica.lag.time.max.ms", ConfigType.LONG, "30000", f"{NO_EFFECT}, which copies no replicas."),
    ("replica.selector.class", ConfigType.STRING, None, f"{NO_EFFECT}, which has one replica of a partition."),
    ("security.inter.broker.protocol", ConfigType.STRING, "PLAINTEXT", _ONE_BROKER),
    (
        "transaction.partition.verification.enable",
        ConfigType.BOOLEAN,
        "true",
        "It always is.",
    ),
    ("transaction.state.log.min.isr", ConfigType.INT, "1", _NO_INTERNAL_TOPICS),
    ("transaction.state.log.replication.factor", ConfigType.SHORT, "1", _NO_INTERNAL_TOPICS),
    ("transaction.two.phase.commit.enable", ConfigType.BOOLEAN, "false", "Transactions end by their own time-out."),
)
"""Kafka's keys with a fixed value in Penstock, by name."""


def _first(config: Config) -> str:
    at = config.kafka_listeners[0]
    return host_port(at.advertised_host or at.host, at.advertised_port or at.port)


def _listeners(config: Config) -> str:
    return ",".join(f"{at.name}://{host_port(at.host, at.port)}" for at in config.kafka_listeners)


def _advertised(config: Config) -> str:
    return ",".join(
        f"{at.name}://{host_port(at.advertised_host or at.host, at.advertised_port or at.port)}"
        for at in config.kafka_listeners
    )


def _text(value: object) -> str | None:
    """A value of our configuration as Kafka writes it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
