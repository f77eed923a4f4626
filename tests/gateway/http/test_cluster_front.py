"""The REST API of a whole cluster, from any of its nodes: real nodes over etcd, one of which sleeps and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from starlette.types import ASGIApp, Message

from gateway.cluster.authority import Authority
from gateway.cluster.nodes import Node
from gateway.http import cluster_front
from gateway.http.cluster_front import Doors
from gateway.http.exchange import Asked, Silent, ask
from gateway.http.front import front
from gateway.http.guard import Guard
from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.forking import forked
from tests.gateway.http.browser import violations
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


async def status_of(application: ASGIApp, path: str) -> int:
    """The status of a GET."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": None,
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "asgi": {"version": "3.0"},
    }
    await application(scope, receive, send)
    status: int = sent[0]["status"]
    return status


def test_a_node_that_is_not_reached_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine takes connections, and its process does not go on with them. Nor does an address that is none."""
    monkeypatch.setattr(cluster_front, "NODE_S", 0.05)

    async def scenario() -> None:
        tls = Authority.make().node(1)
        with socket.create_server(("127.0.0.1", 0)) as asleep:
            place = f"127.0.0.1:{asleep.getsockname()[1]}"
            told = {
                2: Node(id=2, listeners={}, containers={}, http=place),
                3: Node(id=3, listeners={}, containers={}, http="nowhere"),
                4: Node(id=4, listeners={}, containers={}),
            }
            doors = Doors(1, place, lambda: told, tls)
            assert doors.closed() == 1
            application = front(doors, Guard(loopback=True), lambda: "serving", kind="node", closed=doors.closed)
            async with asyncio.timeout(REST_S):
                for number, dial in doors().items():
                    with pytest.raises((TimeoutError, ValueError)):
                        await dial()
                    with pytest.raises(Silent) as silent:
                        await ask(dial, Asked("GET", b"/api"))
                    assert not silent.value.was_reached, number
                for path in ("/api", "/api/v1/tier2/chunks", "/api/v1/overview"):
                    assert await status_of(application, path) == 503

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_any_node_answers_for_all(tmp_path: Path, browser: Chrome) -> None:
    """Topics with the bytes of all nodes, the logs of all, who has which container. A node that sleeps is silent, and
    holds nobody up for long; one that was stopped is told of as that. The console's page of health shows it."""
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
                start=forked,
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

        browser.get(f"http://{http[1]}/console/health.html")

        def shown() -> list[list[str]]:
            """State and containers of each node on the page."""
            rows: list[list[str]] = browser.execute_script(
                "return [...document.querySelectorAll('#nodes tr')]"
                ".map((row) => [...row.children].map((cell) => cell.textContent))"
            )
            return [[one[1], one[2]] for one in rows]

        until(lambda: [one[0] for one in shown()] == ["serving", "serving"], shown)
        assert sorted(", ".join(one[1] for one in shown()).split(", ")) == [str(n) for n in range(CONTAINERS)]
        assert browser.find_element(By.ID, "nodes-note").text == "each container is served"

        nodes[2].process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        found = until(lambda: told(1, "nodes"))
        assert time.monotonic() - began_s < 8
        assert [one["state"] for one in found["nodes"]] == ["serving", "silent"]
        assert found["nodes"][1]["connections"] is None
        until(lambda: [one[0] for one in shown()] == ["serving", "silent"], shown)
        assert any("node 2 does not answer" in line for line in told(1, "health")["concerns"])
        assert http_get(http[1], "/readyz")[0] == 200, "it is ready itself"
        nodes[2].process.send_signal(signal.SIGCONT)
        until(lambda: is_spread(1))
        assert nodes[2].terminate() == 0

        def has_gone() -> bool:
            found = told(1, "nodes")
            return (
                [one["state"] for one in found["nodes"]] == ["serving", "stopped"]
                and all(one["node"] == 1 and one["stage"] == "serving" for one in found["containers"])
                and found["nodes"][1]["gone_s"] < REST_S
                and found["nodes"][1]["served"] == []
            )

        until(has_gone, lambda: told(1, "nodes"))
        everything = ", ".join(str(n) for n in range(CONTAINERS))
        until(lambda: shown() == [["serving", everything], ["stopped", "\N{EN DASH}"]], shown)
        assert violations(browser) == []
        status, _, body = call(http[1], "GET", "/api/v1/topics/t/records?partition=0&offset=0")
        assert status == 200, body
