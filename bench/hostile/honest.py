"""The honest clients: a producer, a consumer and a group's member, in a process of their own.

Keeps: the producer's loop is open, so a record's latency counts from the moment at which it was due; the consumer is at
the tail and in a group, and a lost session shows as a rebalance.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer

TOPIC: Final = "honest"
GROUP: Final = "honest"
RECORDS_PER_S: Final = 200
SESSION_MS: Final = 10_000
READY_S: Final = 30
VALUE_BYTES: Final = 1_000
STAMP_BYTES: Final = 20


@dataclass
class Noticed:
    """Latencies of one stretch of time, in seconds."""

    acknowledged_s: list[float] = field(default_factory=list)
    received_s: list[float] = field(default_factory=list)
    rebalances: int = 0
    failures: int = 0

    def merge(self, other: Noticed) -> None:
        self.acknowledged_s += other.acknowledged_s
        self.received_s += other.received_s
        self.rebalances += other.rebalances
        self.failures += other.failures


def percentile(values: list[float], share: float) -> float:
    """A percentile; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class Honest:
    """The two clients, each a process; `look` takes their latencies since the last look."""

    def __init__(self, bootstrap: str) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._ends: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        for client in (_produce, _consume):
            here, there = spawning.Pipe()
            process = spawning.Process(target=client, args=(bootstrap, there), daemon=True)
            process.start()
            self._ends.append(here)
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.pid is not None]

    def ready(self) -> None:
        """Return when both have begun to see records."""
        deadline = time.monotonic() + READY_S
        while not (seen := self.look()).received_s or not seen.acknowledged_s:
            if time.monotonic() > deadline:
                raise TimeoutError("the honest clients do not get through")
            time.sleep(0.2)

    def look(self) -> Noticed:
        both = Noticed()
        for end in self._ends:
            end.send("look")
            if not end.poll(READY_S):
                raise TimeoutError("an honest client does not answer")
            both.merge(end.recv())
        return both

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


@contextmanager
def honest_clients(bootstrap: str) -> Iterator[Honest]:
    clients = Honest(bootstrap)
    try:
        clients.ready()
        yield clients
    finally:
        clients.stop()


def _produce(bootstrap: str, end: Connection) -> None:
    noticed = Noticed()
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": "honest-producer",
            "linger.ms": 0,
            "acks": "all",
            "delivery.timeout.ms": 60_000,
        }
    )

    def delivered(due_s: float, error: Any) -> None:
        if error is None:
            noticed.acknowledged_s.append(time.time() - due_s)
        else:
            noticed.failures += 1

    due_s = time.time()
    while True:
        value = f"{due_s:.6f}".ljust(STAMP_BYTES).encode() + bytes(VALUE_BYTES - STAMP_BYTES)
        producer.produce(TOPIC, value, on_delivery=lambda error, _, due_s=due_s: delivered(due_s, error))
        due_s += 1 / RECORDS_PER_S
        while (left_s := due_s - time.time()) > 0:  # a poll ends with the first delivery
            producer.poll(left_s)
        if end.poll():
            end.recv()
            end.send(noticed)
            noticed.__init__()  # type: ignore[misc]


def _consume(bootstrap: str, end: Connection) -> None:
    noticed = Noticed()
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": "honest-consumer",
            "group.id": GROUP,
            "session.timeout.ms": SESSION_MS,
            "auto.offset.reset": "latest",
            "fetch.wait.max.ms": 100,
        }
    )

    def lost(*_: Any) -> None:
        noticed.rebalances += 1

    consumer.subscribe([TOPIC], on_revoke=lost, on_lost=lost)
    while True:
        message: Message | None = consumer.poll(0.01)
        if message is not None:
            if message.error() is None:
                noticed.received_s.append(time.time() - float(message.value()[:STAMP_BYTES]))
            else:
                print(message.error(), file=sys.stderr)
        if end.poll():
            end.recv()
            end.send(noticed)
            noticed.__init__()  # type: ignore[misc]
