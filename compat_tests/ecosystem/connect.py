"""Kafka Connect, distributed, with exactly-once support of sources; and MirrorMaker 2 both ways.

Keeps: each worker is a JVM that this starts and ends; Connect's is killed in the middle of its work, without a warning.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition

from compat_tests.ecosystem.finding import Finding
from compat_tests.ecosystem.running import WITHIN_S, Jvm, make, penstock, produce, read
from compat_tests.harness.system import Penstock, free_port
from compat_tests.harness.waiting import until

HERE: Final = Path(__file__).resolve().parent
JARS: Final = HERE / "connect" / "target" / "lib"
VERSION: Final = "4.3.1"
LINES: Final = 2_000


def _jvm(main: str, directory: Path, properties: Mapping[str, object]) -> Jvm:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "worker.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
    return Jvm([JARS / "*"], main, directory, str(file))


# --- Connect ----------------------------------------------------------------------------------


def connect(directory: Path) -> Finding:
    """A file's lines become records once each and another file again, though the worker is killed on the way."""
    source, sink = directory / "source.txt", directory / "sink.txt"
    with penstock(directory / "server") as server:
        make(server, "lines")
        rest = f"http://127.0.0.1:{free_port()}"
        worker = _connect_worker(directory, server, rest)
        try:
            source.write_text("".join(f"line {number}\n" for number in range(LINES // 2)))
            _create(rest, "source", _SOURCE | {"file": str(source), "topic": "lines"}, worker)
            _create(rest, "sink", _SINK | {"file": str(sink), "topics": "lines"}, worker)
            until(lambda: read(server, "lines"), within_s=WITHIN_S, what="the first lines are records")
            worker.kill()
            with source.open("a") as lines:
                lines.writelines(f"line {number}\n" for number in range(LINES // 2, LINES))
            worker = _connect_worker(directory, server, rest)
            until(lambda: len(read(server, "lines")) >= LINES, within_s=WITHIN_S, what="all lines are records")
            last = f"line {LINES - 1}"
            until(lambda: _lines(sink)[-1:] == [last], within_s=WITHIN_S, what="all records are lines again")
            worker.assert_running()
        finally:
            worker.kill()
        expected = [f"line {number}" for number in range(LINES)]
        assert read(server, "lines") == expected, "a line is missing, doubled or out of order"
        assert goes_back_once(_lines(sink), expected), "the sink's file lacks a line, or has them out of order"
    return Finding(
        "Kafka Connect, distributed",
        VERSION,
        "file source with exactly-once support, and file sink, worker killed on the way",
        f"{LINES:,} lines, each a record once; the sink, which promises at least once, has them all in order",
    )


def goes_back_once(told: Sequence[str], expected: Sequence[str]) -> bool:
    """Is this what a file sink writes that is killed once? It begins again at the last offset that it committed, and
    the line that it was writing may be torn."""
    both = zip(told, expected, strict=False)
    cut = next((at for at, (one, other) in enumerate(both) if one != other), min(len(told), len(expected)))
    rests = (told[cut:], told[cut + 1 :])
    return any(rest == expected[len(expected) - len(rest) :] and len(expected) - len(rest) <= cut for rest in rests)


_SOURCE: Final = {
    "connector.class": "org.apache.kafka.connect.file.FileStreamSourceConnector",
    "exactly.once.support": "required",
    "transaction.boundary": "poll",
    "batch.size": 100,
}
_SINK: Final = {"connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector"}


def _connect_worker(directory: Path, server: Penstock, rest: str) -> Jvm:
    text = "org.apache.kafka.connect.storage.StringConverter"
    worker = _jvm(
        "org.apache.kafka.connect.cli.ConnectDistributed",
        directory / "worker",
        {
            "bootstrap.servers": server.address,
            "group.id": "connect",
            "listeners": rest,
            "key.converter": text,
            "value.converter": text,
            "config.storage.topic": "connect-configs",
            "offset.storage.topic": "connect-offsets",
            "status.storage.topic": "connect-status",
            "config.storage.replication.factor": 1,
            "offset.storage.replication.factor": 1,
            "status.storage.replication.factor": 1,
            "offset.flush.interval.ms": 500,
            "exactly.once.source.support": "enabled",
            "scheduled.rebalance.max.delay.ms": 1000,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "consumer.max.poll.records": 100,
        },
    )

    def serves() -> bool:
        worker.assert_running()
        try:
            _ask(f"{rest}/connectors")
        except OSError:
            return False
        return True

    until(serves, within_s=WITHIN_S, what="Connect serves")
    return worker


def _create(rest: str, name: str, config: Mapping[str, object], worker: Jvm) -> None:
    body = json.dumps({"name": name, "config": {key: str(value) for key, value in config.items()} | {"tasks.max": "1"}})

    def created() -> bool:
        worker.assert_running()
        try:
            _ask(f"{rest}/connectors", body)
        except urllib.error.HTTPError as refused:
            if refused.code == 409:  # it still rebalances, or knows the connector from a try before
                return name in _ask(f"{rest}/connectors")
            raise AssertionError(refused.read().decode()) from refused
        except TimeoutError:
            return False
        return True

    until(created, within_s=WITHIN_S, what=f"connector {name} is created", every_s=0.5)


def _ask(url: str, body: str | None = None) -> Any:
    request = urllib.request.Request(
        url, body.encode() if body is not None else None, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


# --- MirrorMaker ------------------------------------------------------------------------------


def mirror(directory: Path) -> Finding:
    """Two Penstocks mirror each other's topics; a group's offsets follow it to the other side."""
    with penstock(directory / "east") as east, penstock(directory / "west") as west:
        for here in (east, west):
            make(here, "orders")
        produce(east, "orders", [f"east {number}" for number in range(LINES)])
        produce(west, "orders", [f"west {number}" for number in range(LINES)])
        _commit(east, "readers", "orders", LINES)
        maker = _jvm("org.apache.kafka.connect.mirror.MirrorMaker", directory / "maker", _mirror_settings(east, west))
        try:
            for there, name, words in ((west, "east.orders", "east"), (east, "west.orders", "west")):
                until(lambda t=there, n=name: len(read(t, n)) >= LINES, within_s=WITHIN_S, what=f"{name} is mirrored")  # type: ignore[misc]
                assert read(there, name) == [f"{words} {number}" for number in range(LINES)]
            until(lambda: _committed(west, "readers", "east.orders"), within_s=WITHIN_S, what="the group has followed")
            maker.assert_running()
        finally:
            maker.kill()
    return Finding(
        "MirrorMaker 2",
        VERSION,
        "two Penstocks, both ways, with offsets of groups",
        f"{LINES:,} records each way in order; the group goes on at the other side",
    )


def _mirror_settings(east: Penstock, west: Penstock) -> dict[str, object]:
    return {
        "clusters": "east, west",
        "east.bootstrap.servers": east.address,
        "west.bootstrap.servers": west.address,
        "east->west.enabled": "true",
        "west->east.enabled": "true",
        "topics": "orders",
        "groups": "readers",
        "replication.factor": 1,
        "checkpoints.topic.replication.factor": 1,
        "heartbeats.topic.replication.factor": 1,
        "offset-syncs.topic.replication.factor": 1,
        "config.storage.replication.factor": 1,
        "offset.storage.replication.factor": 1,
        "status.storage.replication.factor": 1,
        "sync.group.offsets.enabled": "true",
        "sync.group.offsets.interval.seconds": 1,
        "emit.checkpoints.interval.seconds": 1,
        "refresh.topics.interval.seconds": 1,
        "refresh.groups.interval.seconds": 1,
    }


def _commit(server: Penstock, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": server.address, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def _committed(server: Penstock, group: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": server.address, "group.id": group})
    try:
        (place,) = consumer.committed([TopicPartition(topic, 0)], timeout=30)
    finally:
        consumer.close()
    return max(0, int(place.offset))
