"""The metrics of a cluster's nodes: sums over all of them are sums, whatever changes hands, and each tells its view."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from core.turns import Turn
from gateway.broker import Broker
from gateway.http.services import observed
from gateway.metrics.exposition import Exposition
from gateway.metrics.streams import StreamCollector
from tests.core.support import run, until
from tests.gateway.cluster.test_machines import CONTAINERS, Machines, leaders, machines_in
from tests.gateway.harness import Client, batch

pytestmark = pytest.mark.slow

PARTITIONS: Final = 8


class Scraped:
    """What Prometheus sees of one node."""

    def __init__(self, broker: Broker) -> None:
        sources = observed(broker.services, lambda: "serving")
        self._exposition = Exposition(broker.metrics, {}, lambda: sources, lambda turn: None)
        self.samples: Sequence[Sample] = ()

    async def scrape(self) -> None:
        text = (await self._exposition.text()).decode()
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())

    def containers(self) -> set[str]:
        """All that are named by any sample."""
        return {one.labels["container"] for one in self.samples if "container" in one.labels}


async def scraped(nodes: Sequence[Scraped]) -> None:
    for node in nodes:
        await node.scrape()


async def produced(machines: Machines) -> None:
    """A record to each partition, at its leader."""
    clients = {broker.node_id: await Client.connect(broker) for broker in machines.brokers}
    for partition, node in (await leaders(clients[1], "t")).items():
        assert (await clients[node].produce("t", batch(b"x"), partition=partition)).error_code == 0


def test_what_changes_hands_is_counted_once(tmp_path: Path) -> None:
    """A topic's segments, records and bytes, and each container's log, are told by the node that has them. Counters
    neither fall where a container goes nor rise where it comes, by what others have appended."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            await machines.at_rest([CONTAINERS])
            await (await Client.connect(first)).create("t", PARTITIONS)
            second = await machines.join()
            await machines.at_rest([2, 2])
            for broker in machines.brokers:
                assert broker.standing.balance is not None
                await broker.standing.balance.stop()
            nodes = [Scraped(broker) for broker in machines.brokers]
            stream = first.topics.get("t")
            assert stream is not None
            await scraped(nodes)

            def told(name: str) -> list[float]:
                return [node.value(name, topic="t") for node in nodes]

            await produced(machines)
            await scraped(nodes)
            assert sum(told("penstock_topic_segments")) == len(stream.state.current.segments)
            before, sizes = told("penstock_topic_appended_records_total"), told("penstock_topic_appended_bytes_total")
            assert sum(before) == PARTITIONS
            assert min(before) > 0

            moved = min(first.store.containers)
            former = weakref.ref(first.store.containers[moved])
            assert await machines.chairs[0].ask(moved, 2)
            await machines.at_rest([1, 3])
            assert moved in second.store.containers
            await scraped(nodes)
            assert told("penstock_topic_appended_records_total") == before
            assert told("penstock_topic_appended_bytes_total") == sizes
            assert sum(told("penstock_topic_segments")) == len(stream.state.current.segments)

            await produced(machines)
            await scraped(nodes)
            now = told("penstock_topic_appended_records_total")
            assert sum(now) == 2 * PARTITIONS
            assert now[1] - before[1] > now[0] - before[0] > 0
            named = Counter(container for node in nodes for container in node.containers())
            assert named == dict.fromkeys(map(str, range(CONTAINERS)), 1)

            def is_free() -> bool:
                gc.collect()
                return former() is None

            await until(is_free)  # no metric keeps a container in memory that has gone

    run(scenario())


class Between(Turn):
    """A turn that ends once, after so many pieces of work: then something happens."""

    __slots__ = ("_happen", "_left")

    def __init__(self, pieces: int, happen: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._left = pieces
        self._happen = happen

    async def breathe(self) -> None:
        self._left -= 1
        if self._left == 0:
            await self._happen()


def test_a_slot_that_moves_while_it_is_counted(tmp_path: Path) -> None:
    """It is counted with one of its containers, whichever was looked at first, and adds nothing in the other."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            broker = await machines.join()
            await machines.at_rest([CONTAINERS])
            await (await Client.connect(broker)).create("t", PARTITIONS)
            stream = broker.topics.get("t")
            assert stream is not None
            collector = StreamCollector(lambda: observed(broker.services, lambda: "serving"))

            async def told(turn: Turn) -> tuple[float, ...]:
                found = [sample for metric in [m async for m in collector.metrics(turn)] for sample in metric.samples]
                wanted = ("penstock_topic_appended_records_total", "penstock_topic_appended_bytes_total")
                return tuple(one.value for one in found if one.name in wanted and one.labels["topic"] == "t")

            await told(Turn())
            for _ in range(5):
                await produced(machines)
            before = await told(Turn())
            assert before[1] == 5 * PARTITIONS
            low, high = min(broker.store.containers), max(broker.store.containers)
            slot = next(iter(stream.slots_in(low)))
            for target in (high, low):
                move = partial(broker.store.move_slot, stream, slot.number, target)
                assert await told(Between(2, move)) == before
                assert stream.slot(slot.number).container_id == target
                assert await told(Turn()) == before
            await produced(machines)
            assert (await told(Turn()))[1] == 6 * PARTITIONS

    run(scenario())


def test_each_node_tells_how_it_sees_the_cluster(tmp_path: Path) -> None:
    """One that has lost its lease says so itself: no other node can."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            await machines.join()
            await machines.join()
            await machines.at_rest([2, 2])
            nodes = [Scraped(broker) for broker in machines.brokers]
            await scraped(nodes)
            for node in nodes:
                assert node.value("penstock_cluster_nodes") == 2
                assert node.value("penstock_cluster_containers", stage="serving") == CONTAINERS
                assert node.value("penstock_cluster_containers", stage="nobody") == 0
                assert node.value("penstock_cluster_containers_here") == 2
                assert node.value("penstock_cluster_lease") == 1
            machines.chairs[1].is_asleep = True
            machines.coordinator.end(machines.chairs[1].life)
            await until(lambda: len(machines.brokers[0].store.containers) == CONTAINERS)
            await scraped(nodes)
            assert [node.value("penstock_cluster_lease") for node in nodes] == [1, 0]
            assert nodes[0].value("penstock_cluster_nodes") == 1
            assert nodes[0].value("penstock_cluster_containers_here") == CONTAINERS
            machines.chairs[1].is_asleep = False

    run(scenario())
