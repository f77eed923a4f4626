"""Kafka's keys that Penstock has under another name or does not need: by name instead of the nearest spelling.

Keeps: every key of Kafka's broker that Penstock lacks has a hint, by its whole name or by the beginning of it; so have
those that earlier releases had, and those of topics, clients and tools that people write into a broker's file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

_KAFKAS_VARIABLE: Final = "KAFKA_"
_NO_ZOOKEEPER: Final = "Penstock needs no ZooKeeper: leave it out"
_NO_CONTROLLERS: Final = "Penstock needs no controllers: leave it out"
_NO_REPLICAS: Final = "no broker copies another one's log, so there is nothing to set: leave it out"
_NO_TOPICS: Final = "internal topics are views of tables, without files or replicas: leave it out"
_SEGMENTS: Final = "segments follow the load; the size of log files is log.file.bytes"
_SYNCED: Final = "every record is synced before it is acknowledged; see log.sync.mode"
_ONE_LOOP: Final = "one event loop serves all connections: leave it out; serve --workers takes more processors"
_COMPACTION: Final = "compaction needs no threads and buffers of its own to be set: leave it out"
_NO_PLUGINS: Final = "Penstock is no Java program, and loads no classes"
_SOCKETS: Final = "the operating system sizes the buffers of sockets: leave it out"
_METRICS: Final = "metrics are at http.listen, under /metrics, as Prometheus reads them: leave it out"
_LONG_TERM: Final = "long-term storage has keys of its own: tier2 and tier2.endpoint, and chunk.bytes for its objects"
_WAITING: Final = "requests that wait need no cleaning here: leave it out"
_WINDOWS: Final = "quotas are counted over windows that are not set: leave it out"
_ALL_VERSIONS: Final = "Penstock speaks all of its versions at once: leave it out"
_AMONG_BROKERS: Final = "it is about connections that a broker opens itself: leave it out"
_HOST: Final = "say it in listeners: HOST:PORT, or --listen"
_ADVERTISED: Final = "say it in advertised.listeners: HOST:PORT"
_PEM: Final = "Penstock reads PEM; the password of a PEM file's key is ssl.key.password"
_COORDINATORS: Final = "a coordinator writes to the log that all share, in batches that need no key: leave it out"
_DIRECTORY: Final = "the directory is data.dir; for several disks, all of them are data.dirs"
_OF_CLIENTS: Final = "that is a client's key: say it to the client"


def _of_topics(ours: str) -> str:
    return f"that is a topic's key; the default for topics is {ours}"


_ALTER: Final = "that is a key of topics here: penstock topics alter TOPIC --set KEY=VALUE"

HINTS: Final = {
    "log.dirs": _DIRECTORY,
    "log.dir": _DIRECTORY,
    "broker.id": "the key is node.id",
    "reserved.broker.max.id": "the id is node.id, of any size: leave it out",
    "broker.id.generation.enable": "the id is node.id: leave it out",
    "broker.rack": "Penstock knows no racks: leave it out",
    "replica.selector.class": "Penstock knows no racks: leave it out",
    "port": _HOST,
    "host.name": _HOST,
    "advertised.host.name": _ADVERTISED,
    "advertised.port": _ADVERTISED,
    "bootstrap.servers": f"{_OF_CLIENTS}; the gateway's addresses are in listeners",
    "bootstrap": "that is a tool's flag, --bootstrap; the gateway's addresses are in listeners",
    "process.roles": "Penstock is one process without roles: leave it out",
    "log.segment.bytes": _SEGMENTS,
    "log.segment.ms": _SEGMENTS,
    "log.segment.delete.delay.ms": "the key is file.delete.delay.ms",
    "log.preallocate": "log files are made beforehand and used again: leave it out",
    "log.message.format.version": _ALL_VERSIONS,
    "log.message.timestamp.difference.max.ms": "the keys are log.message.timestamp.before.max.ms and "
    "log.message.timestamp.after.max.ms",
    "log.message.downconversion.enable": _ALL_VERSIONS,
    "log.initial.task.delay.ms": "background work begins when there is some: leave it out",
    "inter.broker.protocol.version": _ALL_VERSIONS,
    "inter.broker.listener.name": "nodes of a cluster reach each other at cluster.listen: leave it out",
    "security.inter.broker.protocol": "nodes of a cluster reach each other at cluster.listen: leave it out",
    "sasl.mechanism.inter.broker.protocol": _AMONG_BROKERS,
    "sasl.mechanism.controller.protocol": _AMONG_BROKERS,
    "min.insync.replicas": "an acknowledged record is on disk or in the object store, whatever acks says: leave it out",
    "num.io.threads": _ONE_LOOP,
    "num.network.threads": _ONE_LOOP,
    "background.threads": _ONE_LOOP,
    "num.recovery.threads.per.data.dir": "a start replays what the last checkpoint had not seen: leave it out",
    "queued.max.requests": "requests are bounded by their bytes: queued.max.request.bytes",
    "request.timeout.ms": _AMONG_BROKERS,
    "group.share.assignment.interval.ms": "share groups are assigned at each change: leave it out",
    "group.share.min.assignment.interval.ms": "share groups are assigned at each change: leave it out",
    "group.share.max.assignment.interval.ms": "share groups are assigned at each change: leave it out",
    "group.share.initialize.retry.interval.ms": _COORDINATORS,
    "group.share.persister.class.name": _NO_PLUGINS,
    "group.consumer.regex.refresh.interval.ms": "patterns see new topics at once: leave it out",
    "log.roll.hours": _SEGMENTS,
    "offsets.commit.timeout.ms": _COORDINATORS,
    "offsets.commit.required.acks": _COORDINATORS,
    "offsets.load.buffer.size": _COORDINATORS,
    "producer.id.expiration.check.interval.ms": "ids expire when their time has come: leave it out",
    "transaction.partition.verification.enable": "every batch of a transaction is checked: leave it out",
    "transaction.two.phase.commit.enable": "two-phase commit from outside (KIP-939) is not there: leave it out",
    "config.providers": "${file:PATH:KEY}, ${dir:PATH:NAME} and ${env:NAME} work without it: leave it out",
    "security.providers": f"{_NO_PLUGINS}: leave it out",
    "create.topic.policy.class.name": f"{_NO_PLUGINS}; topics.max, partitions.max and ACLs bound what is created",
    "alter.config.policy.class.name": f"{_NO_PLUGINS}; ACLs say who may change configs",
    "principal.builder.class": f"{_NO_PLUGINS}; ssl.principal.mapping.rules makes names of certificates",
    "client.quota.callback.class": f"{_NO_PLUGINS}; penstock quotas sets quotas of users, clients and addresses",
    "sasl.server.callback.handler.class": f"{_NO_PLUGINS}; see sasl.enabled.mechanisms",
    "sasl.oauthbearer.jwt.validator.class": f"{_NO_PLUGINS}; see sasl.oauthbearer.jwks.endpoint.url",
    "ssl.engine.factory.class": f"{_NO_PLUGINS}; see ssl.keystore.location",
    "ssl.keystore.password": _PEM,
    "ssl.truststore.password": "Penstock reads PEM, and a PEM file of authorities has no password: leave it out",
    "ssl.protocol": "the key is ssl.enabled.protocols",
    "max.request.partition.size.limit": "requests are bounded by their bytes: leave it out",
    "server.max.startup.time.ms": "a start takes as long as it takes: leave it out",
    "delegation.token.master.key": "the key is delegation.token.secret.key",
    "retention.ms": _of_topics("log.retention.ms"),
    "retention.bytes": _of_topics("log.retention.bytes"),
    "cleanup.policy": _of_topics("log.cleanup.policy"),
    "max.message.bytes": _of_topics("message.max.bytes"),
    "message.timestamp.type": _of_topics("log.message.timestamp.type"),
    "partitions": "the key is num.partitions",
    "replication.factor": "the key is default.replication.factor, and only 1 means something",
    "segment.bytes": _SEGMENTS,
    "segment.ms": _SEGMENTS,
    "compression.gzip.level": _ALTER,
    "compression.lz4.level": _ALTER,
    "compression.zstd.level": _ALTER,
    "log.cleaner.delete.retention.ms": _ALTER.replace("KEY", "delete.retention.ms"),
    "log.cleaner.min.compaction.lag.ms": _ALTER.replace("KEY", "min.compaction.lag.ms"),
    "log.cleaner.max.compaction.lag.ms": _ALTER.replace("KEY", "max.compaction.lag.ms"),
    "log.cleaner.min.cleanable.ratio": _ALTER.replace("KEY", "min.cleanable.dirty.ratio"),
    "log.cleaner.enable": "topics are compacted if their cleanup.policy says so: leave it out",
    "acks": f"{_OF_CLIENTS}; acks=1 and acks=all both mean: on disk",
    "group.id": _OF_CLIENTS,
    "client.id": _OF_CLIENTS,
    "auto.offset.reset": _OF_CLIENTS,
    "enable.auto.commit": _OF_CLIENTS,
    "security.protocol": f"{_OF_CLIENTS}; listeners have listener.security.protocol.map",
    "sasl.mechanism": f"{_OF_CLIENTS}; the gateway's are sasl.enabled.mechanisms",
}
"""What to do about a key, as the end of a sentence."""

_FAMILIES: Final = {
    "zookeeper.": _NO_ZOOKEEPER,
    "controller.quota.": _WINDOWS,
    "controller.": _NO_CONTROLLERS,
    "metadata.": _NO_CONTROLLERS,
    "internal.metadata.": _NO_CONTROLLERS,
    "broker.heartbeat.": _NO_CONTROLLERS,
    "broker.session.": _NO_CONTROLLERS,
    "initial.broker.registration.": _NO_CONTROLLERS,
    "early.start.listeners": _NO_CONTROLLERS,
    "controlled.shutdown.": "at SIGTERM a node hands over what it serves, for shutdown.drain.ms at most: leave it out",
    "auto.leader.rebalance.": "a cluster spreads its containers by load: cluster.rebalance",
    "leader.imbalance.": "a cluster spreads its containers by load: cluster.rebalance",
    "unclean.leader.": "no node serves a container whose newest records it lacks: leave it out",
    "replica.": _NO_REPLICAS,
    "num.replica.": _NO_REPLICAS,
    "replication.quota.": _NO_REPLICAS,
    "alter.log.dirs.": _NO_REPLICAS,
    "leader.replication.": _NO_REPLICAS,
    "follower.": _NO_REPLICAS,
    "cordoned.log.dirs": _NO_REPLICAS,
    "log.roll.": _SEGMENTS,
    "log.flush.": _SYNCED,
    "flush.": _SYNCED,
    "log.index.": "indexes need no sizes; memory for them is log.index.cache.bytes",
    "log.cleaner.": _COMPACTION,
    "log.local.": "what is in long-term storage leaves the log when log.max.bytes asks for it: leave it out",
    "log.dir.": "a failing disk ends the process at once, with exit code 5: leave it out",
    "remote.": _LONG_TERM,
    "rlmm.": _LONG_TERM,
    "rsm.": _LONG_TERM,
    "quota.": _WINDOWS,
    "metric.": _METRICS,
    "metrics.": _METRICS,
    "kafka.metrics.": _METRICS,
    "auto.include.jmx.reporter": _METRICS,
    "socket.connection.setup.": _AMONG_BROKERS,
    "socket.": _SOCKETS,
    "fetch.purgatory.": _WAITING,
    "producer.purgatory.": _WAITING,
    "delete.records.purgatory.": _WAITING,
    "share.fetch.purgatory.": _WAITING,
    "share.coordinator.": _NO_TOPICS,
    "offsets.topic.": _NO_TOPICS,
    "transaction.state.log.": _NO_TOPICS,
    "group.coordinator.": _COORDINATORS,
    "add.partitions.to.txn.": _COORDINATORS,
    "unstable.": "Penstock has no unstable versions: leave it out",
    "password.encoder.": _NO_ZOOKEEPER,
    "sasl.kerberos.": "there is no Kerberos here; sasl.enabled.mechanisms has SCRAM, PLAIN and OAUTHBEARER",
    "sasl.login.": _AMONG_BROKERS,
    "sasl.client.": _AMONG_BROKERS,
    "sasl.oauthbearer.assertion.": _AMONG_BROKERS,
    "sasl.oauthbearer.client.": _AMONG_BROKERS,
    "sasl.oauthbearer.scope": _AMONG_BROKERS,
    "sasl.oauthbearer.token.endpoint.": _AMONG_BROKERS,
    "sasl.oauthbearer.jwt.retriever.": _AMONG_BROKERS,
    "sasl.oauthbearer.jwks.endpoint.retry.": "keys are asked for again by themselves: leave it out",
    "ssl.endpoint.identification.": _AMONG_BROKERS,
    "ssl.keymanager.": f"{_NO_PLUGINS}: leave it out",
    "ssl.trustmanager.": f"{_NO_PLUGINS}: leave it out",
    "ssl.secure.random.": f"{_NO_PLUGINS}: leave it out",
    "ssl.provider": f"{_NO_PLUGINS}: leave it out",
    "confluent.": "that is of Confluent's broker: leave it out",
}
"""The same for all keys that begin so; an earlier row comes before a later one."""


def hint_of(key: str) -> str | None:
    """What to do about a key that Penstock lacks; None for one that Kafka does not have either."""
    if key in HINTS:
        return HINTS[key]
    return next((hint for beginning, hint in _FAMILIES.items() if key.startswith(beginning)), None)


def closes_nothing(key: str) -> bool:
    """Whether a key of security may be left out of Kafka's file: nothing is more open without it."""
    hint = hint_of(key)
    return hint is not None and hint.endswith("leave it out")


def of_kafkas_image(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Lines about variables that an image of Kafka's reads, for keys that Penstock has: here they have no effect."""
    lines = []
    for name in sorted(environ):
        rest = name.removeprefix(_KAFKAS_VARIABLE)
        ours = f"PENSTOCK_{rest}"
        if rest != name and rest.lower().replace("_", ".") in known and ours not in environ:
            lines.append(f"{name} has no effect here: the variable is {ours}")
    return lines
