"""/readyz of a node of a cluster: whether clients should come to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.broker import Broker
from tests.core.support import run, until
from tests.gateway.cluster.test_machines import CONTAINERS, machines_in

pytestmark = pytest.mark.slow


def told(broker: Broker) -> str:
    return broker.unready if broker.ready else broker.phase


def test_a_node_is_ready_while_it_serves_containers(tmp_path: Path) -> None:
    """It says why it is not: before its first, after losing all, and while it gives them away."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first = await machines.join()
            assert told(first) in ("no container is open yet", "this node has no container yet", "")
            await machines.at_rest([4])
            await until(lambda: told(first) == "")  # a container opens, and is served then
            machines.coordinator.end(machines.chairs[0].life)
            assert told(first) == "this node's lease has ended, and its containers go to others"
            machines.chairs[0].begin_anew()
            await until(lambda: first.store.containers and not told(first))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("core.cluster.balancing.FILL_APART_S", 3600.0)
                second = await machines.join()
                await until(lambda: told(second) == "this node has no container yet")
                assert not second.store.containers
            await machines.at_rest([2, 2])
            await until(lambda: told(second) == "")
            machines.coordinator.drain(2)
            await until(lambda: told(second))
            assert told(second) == "this node gives its containers to others"
            await until(lambda: len(first.store.containers) == CONTAINERS and not second.store.containers)
            assert told(second) == "this node gives its containers to others"
            assert told(first) == ""

    run(scenario())


def test_with_more_nodes_than_containers_all_are_ready(tmp_path: Path) -> None:
    """One has rightly none, once all are served."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            brokers = [await machines.join() for _ in range(CONTAINERS)]
            await machines.at_rest([1] * CONTAINERS)
            late = await machines.join()
            await until(lambda: not told(late))
            assert not late.store.containers
            assert [told(one) for one in brokers] == [""] * CONTAINERS

    run(scenario())
