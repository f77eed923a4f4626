"""The metrics of a cluster's nodes: sums over all of them are sums, whatever changes hands, and each tells its view."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gateway.broker import Broker
from gateway.http.services import observed
from gateway.metrics.exposition import Exposition
from tests.core.support import run, until
from tests.gateway.cluster.test_machines import CONTAINERS, Machines, leaders, machines_in
from tests.gateway.harness import Client, batch

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
            await until(lambda: moved in second.store.containers)
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
            gc.collect()
            assert former() is None, "metrics keep a container in memory that has gone"

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
