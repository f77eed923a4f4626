"""The REST API of a whole cluster, from any of its nodes: real nodes over etcd, one of which sleeps and ends."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.http.calls import call, create_topic, produce
from tests.gateway.launching import Running, http_get

CONTAINERS: Final = 4
REST_S: Final = 90.0


def until(holds: Callable[[], Any], told: Callable[[], object] = lambda: "") -> Any:
    deadline = time.monotonic() + REST_S
    while not (found := holds()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_any_node_answers_for_all(tmp_path: Path) -> None:
    """Topics with the bytes of all nodes, the logs of all, who has which container. A node that sleeps is silent, and
    holds nobody up for long; one that has ended is told of as gone."""
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    with ExitStack() as undo:
        undo.callback(etcd.stop)
        nodes: dict[int, Running] = {}
        for number in (1, 2):
            nodes[number] = Running(
                tmp_path / f"node-{number}",
                *("--cluster", f"etcd://{etcd.endpoint}/c", "--tier2", f"file:{tmp_path / 'bucket'}"),
                *("--node-id", str(number), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
                *("--set", f"cluster.containers={CONTAINERS}", "--set", "cluster.lease.ms=30000"),
            )
            undo.callback(nodes[number].process.wait)
            undo.callback(nodes[number].process.kill)
        ready = {number: running.ready() for number, running in nodes.items()}
        http = {number: one["http"].rpartition("//")[2] for number, one in ready.items()}

        def told(number: int, path: str) -> Any:
            status, body = http_get(http[number], f"/api/v1/{path}")
            return json.loads(body) if status == 200 else None

        def is_spread(number: int) -> bool:
            found = told(number, "nodes")
            owners = {one["node"] for one in found["containers"]} if found else set()
            return owners == {1, 2} and [one["state"] for one in found["nodes"]] == ["serving", "serving"]

        for number in (1, 2):
            until(lambda number=number: is_spread(number), lambda number=number: told(number, "nodes"))  # type: ignore[misc]
        kafka = ready[1]["kafka"][0].rpartition("//")[2]
        create_topic(kafka, "t", 8)
        for partition in range(8):
            produce(kafka, "t", partition, 10, 100)
        for number in (1, 2):
            row = until(lambda number=number: [t for t in told(number, "topics")["topics"] if t["bytes"] >= 8_000])  # type: ignore[misc]
            assert row[0]["name"] == "t"
            health = told(number, "health")
            assert [one["container"] for one in health["logs"]] == list(range(CONTAINERS))
            assert {one["path"].partition(":")[0] for one in health["disks"]} == {"node 1", "node 2"}
            assert told(number, "overview")["topics"] == 1

        nodes[2].process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        found = until(lambda: told(1, "nodes"))
        assert time.monotonic() - began_s < 8
        assert [one["state"] for one in found["nodes"]] == ["serving", "silent"]
        assert found["nodes"][1]["connections"] is None
        assert any("node 2 does not answer" in line for line in told(1, "health")["concerns"])
        assert http_get(http[1], "/readyz")[0] == 200, "it is ready itself"
        nodes[2].process.send_signal(signal.SIGCONT)
        until(lambda: is_spread(1))
        assert nodes[2].terminate() == 0

        def has_gone() -> bool:
            found = told(1, "nodes")
            return (
                [one["state"] for one in found["nodes"]] == ["serving", "gone"]
                and all(one["node"] == 1 and one["stage"] == "serving" for one in found["containers"])
                and found["nodes"][1]["gone_s"] < REST_S
            )

        until(has_gone, lambda: told(1, "nodes"))
        status, _, body = call(http[1], "GET", "/api/v1/topics/t/records?partition=0&offset=0")
        assert status == 200, body
