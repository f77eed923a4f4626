"""Two workers of one gateway in this process: their own containers, sockets and views, one registry and directory."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from gateway.broker import Broker, Part
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import DataDirectory
from gateway.disks import wanted_of
from gateway.network.binding import bind_all, bind_inner
from tests.core.support import until
from tests.gateway.cluster.test_machines import CONTAINERS
from tests.gateway.harness import SETTINGS

WORKERS: Final = 2


class Workers:
    """`brokers` has the one of each worker, whose node ids are 1 and 2. `sockets`: a short path, as sockets need it."""

    def __init__(self, directory: Path, sockets: Path) -> None:
        self.config = load(
            environ={},
            assignments=[
                *SETTINGS,
                f"data.dir={directory}",
                f"containers={CONTAINERS}",
                "node.id=1",
                "transaction.abort.timed.out.transaction.cleanup.interval.ms=3600000",  # no look helps out
            ],
        )
        self.data = DataDirectory.acquire(directory, "0.1.0", wanted_of(self.config))
        self.brokers: list[Broker] = []
        self._sockets = sockets
        self._numbers = itertools.count()

    def hosts(self, worker: int) -> tuple[int, ...]:
        return tuple(range(worker, CONTAINERS, WORKERS))

    async def start(self, worker: int) -> Broker:
        """Start a worker, or a stopped one again, which has another socket then."""
        part = Part(
            node_id=1 + worker,
            hosts=self.hosts(worker),
            registry=self.data.registry,
            inner=bind_inner(str(self._sockets / str(next(self._numbers)))),
            told=self._tell,
        )
        broker = Broker(self.config, self.data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None, part=part)
        self.brokers[worker : worker + 1] = [broker]
        await broker.start()
        return broker

    def _tell(self) -> None:
        for broker in self.brokers:
            broker.look_at_registry()

    async def meet(self) -> None:
        """Until each of them knows where the others are."""
        for one, other in itertools.permutations(self.brokers, 2):
            await until(lambda one=one, other=other: _knows(one, other))  # type: ignore[misc]

    async def stop(self) -> None:
        for broker in self.brokers:
            if broker.phase == "serving":
                await broker.stop()
        self.data.release()


def _knows(one: Broker, other: Broker) -> bool:
    found = one.nodes.others.get(other.node_id)
    inner = other.standing.inner
    return found is not None and inner is not None and found.inner == inner.place


@asynccontextmanager
async def workers_in(directory: Path) -> AsyncIterator[Workers]:
    sockets = Path(tempfile.mkdtemp(prefix="penstock-"))
    workers = Workers(directory, sockets)
    try:
        for worker in range(WORKERS):
            await workers.start(worker)
        await workers.meet()
        yield workers
    finally:
        await workers.stop()
        shutil.rmtree(sockets)
