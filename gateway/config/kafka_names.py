"""Kafka's keys that Penstock has under another name or does not need: by name instead of the nearest spelling."""

from __future__ import annotations

from typing import Final

HINTS: Final = {
    "log.dirs": "Penstock has one directory: data.dir",
    "log.dir": "Penstock has one directory: data.dir",
    "broker.id": "the key is node.id",
    "port": "say it in listeners: HOST:PORT, or --listen",
    "host.name": "say it in listeners: HOST:PORT, or --listen",
    "bootstrap.servers": "that is a client's key; the gateway's addresses are in listeners",
    "bootstrap": "that is a tool's flag, --bootstrap; the gateway's addresses are in listeners",
    "zookeeper.connect": "Penstock needs no ZooKeeper: leave it out",
    "process.roles": "Penstock is one process without roles: leave it out",
    "controller.quorum.voters": "Penstock needs no controllers: leave it out",
    "controller.listener.names": "Penstock needs no controllers: leave it out",
    "log.segment.bytes": "segments follow the load; the size of log files is log.file.bytes",
    "log.segment.ms": "segments follow the load: leave it out",
    "log.flush.interval.messages": "every record is synced before it is acknowledged; see log.sync.mode",
    "log.flush.interval.ms": "every record is synced before it is acknowledged; see log.sync.mode",
    "retention.ms": "that is a topic's key; the default for topics is log.retention.ms",
    "retention.bytes": "that is a topic's key; the default for topics is log.retention.bytes",
    "cleanup.policy": "that is a topic's key; the default for topics is log.cleanup.policy",
    "num.io.threads": "one event loop serves all connections: leave it out",
    "num.network.threads": "one event loop serves all connections: leave it out",
    "offsets.topic.replication.factor": "there are no internal topics: leave it out",
    "transaction.state.log.replication.factor": "there are no internal topics: leave it out",
}
"""What to do about a key, as the end of a sentence."""
