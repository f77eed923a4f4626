"""The compared systems, each as a workload sees it.

Three settings of Kafka are three kinds of topics on one broker: `flush.messages` and `flush.ms` are a topic's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bench import loadgen
from bench.loadgen import Load
from bench.pravega_server import Pravega
from bench.servers import Baseline, Kafka, Penstock, create_topics, delete_topics

SYNC_INTERVAL_MS: Final = 50
"""The default of log.sync.interval.ms."""

PENSTOCK: Final = "penstock"
PENSTOCK_INTERVAL: Final = "penstock interval"
KAFKA: Final = "kafka"
KAFKA_FLUSHED: Final = "kafka flush.messages=1"
KAFKA_INTERVAL: Final = f"kafka flush.ms={SYNC_INTERVAL_MS}"
PRAVEGA: Final = "pravega"
BARE: Final = "bare server"
"""A server of one file that does the least there is to do, if one is given: it keeps all records in memory, too."""
BARE_WITHIN: Final = "bare server within limits"
"""Our own such server. No answer of it has more than its client asks for."""
NAMES: Final = (PENSTOCK, KAFKA_FLUSHED, KAFKA, PENSTOCK_INTERVAL, KAFKA_INTERVAL, PRAVEGA, BARE, BARE_WITHIN)

COMPARED: Final = {
    PENSTOCK: (KAFKA_FLUSHED, KAFKA, PRAVEGA, BARE, BARE_WITHIN),
    PENSTOCK_INTERVAL: (KAFKA, KAFKA_INTERVAL),
}

BARE_PARTITIONS: Final = 16
BARE_WITHIN_FILE: Final = Path(__file__).with_name("bare_server.py")
FRESH_AFTER_BYTES: Final = 150_000_000
EVENT_OVERHEAD_BYTES: Final = 100
RENEWED_WARM_SECONDS: Final = 4

QUIET_SECONDS_MAX: Final = 6
QUIET_LOOK_S: Final = 0.2
QUIET_SHARE: Final = 0.1


class Process(Protocol):
    """The process behind a system."""

    ready_seconds: float

    def cpu_seconds(self) -> float: ...
    def rss_mb(self) -> float: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KafkaLike:
    """Penstock or Kafka, loaded by the compiled generator."""

    name: str
    server: Penstock | Kafka | Baseline
    config: dict[str, str] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        return self.server.bootstrap

    def create(self, topic: str, partitions: int, topics: int = 1) -> None:
        # All of them remove deleted records soon, or their disks would fill up.
        config = {"file.delete.delay.ms": "1000", **self.config}
        create_topics(self.bootstrap, _names(topic, topics), partitions, config)

    def delete(self, topic: str, topics: int = 1) -> None:
        delete_topics(self.bootstrap, _names(topic, topics))

    def write(self, topic: str, **options: object) -> Load:
        return loadgen.run("produce", self.bootstrap, topic, **options)

    def read(self, topic: str, **options: object) -> Load:
        return loadgen.run("consume", self.bootstrap, topic, **options)

    def end_to_end(self, topic: str, **options: object) -> Load:
        return loadgen.run("end-to-end", self.bootstrap, topic, **options)


def _names(topic: str, topics: int) -> list[str]:
    return [topic] if topics == 1 else [f"{topic}-{number}" for number in range(topics)]


@dataclass(frozen=True, slots=True)
class BareSystem(KafkaLike):
    """A server that makes each topic when a client asks for it, and keeps it."""

    server: Baseline

    def create(self, topic: str, partitions: int, topics: int = 1) -> None:
        assert topics == 1
        assert partitions <= BARE_PARTITIONS

    def delete(self, topic: str, topics: int = 1) -> None:
        pass


@dataclass(slots=True)
class PravegaSystem:
    """Pravega, loaded by its own client.

    Once its cache is full it holds writers up for 25 s at a time. So a new, warmed one replaces it before that, and
    also when it did not finish a load.
    """

    directory: Path
    server: Pravega
    name: str = PRAVEGA
    taken: int = 0

    def create(self, stream: str, segments: int, streams: int = 1) -> None:
        assert streams == 1
        if self.taken > FRESH_AFTER_BYTES:
            self._renew()
            self.server.create_topic("warm-up", 1)
            self.server.write("warm-up", size=1000, rate=20_000, seconds=RENEWED_WARM_SECONDS)
            self.server.delete_topic("warm-up")
        self.server.create_topic(stream, segments)

    def _renew(self) -> None:
        self.server.stop()
        self.server = Pravega(self.directory / f"again-{time.monotonic_ns()}")
        self.taken = 0

    def delete(self, stream: str, streams: int = 1) -> None:
        self.server.delete_topic(stream)

    def write(self, stream: str, **options: object) -> Load:
        known = {name: options[name] for name in ("size", "writers", "rate", "seconds", "warmup") if name in options}
        load = self._guarded(lambda: self.server.write(stream, **known))
        self.taken += load.acknowledged * (int(str(options["size"])) + EVENT_OVERHEAD_BYTES)
        return load

    def read(self, stream: str, **options: object) -> Load:
        known = {name: options[name] for name in ("readers", "count", "seconds") if name in options}
        return self._guarded(lambda: self.server.read(stream, **known))

    def _guarded(self, load: Callable[[], Load]) -> Load:
        try:
            return load()
        except loadgen.LoadFailed:
            self._renew()
            raise

    def stop(self) -> None:
        self.server.stop()


System = KafkaLike | PravegaSystem


def started(directory: Path, names: list[str], running: ExitStack, baseline: Path | None = None) -> list[System]:
    """The systems of these names, in this order. `baseline`: the file of the bare server."""
    penstocks = {PENSTOCK: {}, PENSTOCK_INTERVAL: {"log.sync.mode": "interval"}}
    kafkas = {
        KAFKA: {},
        KAFKA_FLUSHED: {"flush.messages": "1"},
        KAFKA_INTERVAL: {"flush.ms": str(SYNC_INTERVAL_MS)},
    }
    systems: dict[str, System] = {}
    for name in penstocks.keys() & names:
        gateway = Penstock(directory / name.replace(" ", "-"), penstocks[name])
        running.callback(gateway.stop)
        systems[name] = KafkaLike(name, gateway)
    if chosen := kafkas.keys() & names:
        broker = Kafka(directory / "kafka")
        running.callback(broker.stop)
        systems |= {name: KafkaLike(name, broker, kafkas[name]) for name in chosen}
    if PRAVEGA in names:
        pravega = PravegaSystem(directory / "pravega", Pravega(directory / "pravega"))
        running.callback(pravega.stop)
        systems[PRAVEGA] = pravega
    for name, file in ((BARE, baseline), (BARE_WITHIN, BARE_WITHIN_FILE)):
        if name in names:
            assert file is not None
            place = directory / name.replace(" ", "-")
            place.mkdir(parents=True)
            server = Baseline(file, place, BARE_PARTITIONS)
            running.callback(server.stop)
            systems[name] = BareSystem(name, server)
    return [systems[name] for name in names]


def until_quiet(systems: list[System], seconds_max: float = QUIET_SECONDS_MAX) -> None:
    """Wait until dirty pages are written and the servers are nearly idle: no system pays for another's work."""
    os.sync()
    servers = {id(system.server): system.server for system in systems}.values()
    deadline = time.monotonic() + seconds_max
    before = sum(server.cpu_seconds() for server in servers)
    while time.monotonic() < deadline:
        time.sleep(QUIET_LOOK_S)
        now = sum(server.cpu_seconds() for server in servers)
        if now - before < QUIET_SHARE * QUIET_LOOK_S * len(servers):
            return
        before = now
