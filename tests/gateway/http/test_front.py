"""The public HTTP port of several workers: one address tells of all, and a change reaches the worker that can make it.

The workers here are real HTTP servers at real socket files, behind the same guard as a gateway's; what they tell is
made of the API's models.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway.http import asking, exchange
from gateway.http import front as front_module
from gateway.http.api import MOVE_WAIT_S
from gateway.http.desk import BODY_BYTES_MAX
from gateway.http.entrance import Entrance
from gateway.http.exchange import Asked, Dial, Silent, ask, at_socket_file
from gateway.http.front import front
from gateway.http.group_list import VIEW_ORDER
from gateway.http.guard import Guard
from gateway.http.models import (
    EpochView,
    GroupList,
    GroupView,
    Overview,
    Scaled,
    Scaling,
    Sealed,
    SegmentView,
    StreamList,
    StreamSummary,
    StreamView,
    Tiers,
)
from gateway.http.problems import Problem, answer_problem, answer_refusal, no_such_stream, not_ready
from gateway.http.records import READ_S_MAX
from gateway.http.server import HttpServer
from tests.faults.gateway_process import EAGER
from tests.faults.gateway_process import Gateway as RealGateway
from tests.gateway.http.calls import call, create_topic, get, produce, until
from tests.gateway.launching import free_ports

pytestmark = pytest.mark.slow

TOKEN = "only-for-this-test"
GUARD = Guard(loopback=True, token=TOKEN)
Called = tuple[int, Mapping[str, str], Any]
Ask = Callable[..., Awaitable[Called]]


class FakeWorker:
    """What one worker tells. `hosts`: the segments that it can scale; `knows`: the streams that it has heard of."""

    def __init__(self, number: int, hosts: int, lag: int, knows: tuple[str, ...] = ("orders",)) -> None:
        self.number, self.hosts, self.lag, self.knows = number, hosts, lag, knows
        self.ready = True
        self.hangs = False
        self.cut = False
        self.takes_all = False
        self.refuses: Problem | None = None
        self.changes: list[Any] = []
        self.clients: list[str] = []

    def application(self) -> Starlette:
        routes = [
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/api/v1/overview", self.overview),
            Route("/api/v1/streams", self.streams),
            Route("/api/v1/streams/{name}", self.stream),
            Route("/api/v1/groups", self.groups),
            Route("/api/v1/streams/{name}/scale", self.scale, methods=["POST"]),
            Route("/api/v1/streams/{name}/seal", self.seal, methods=["POST"]),
            Route("/api/v1/topics/{name}/records", self.records, methods=["POST"]),
            Route("/api/v1/tier2/chunks", self.chunks),
            Route("/api/v1/tier2/chunks/{key:path}", self.chunk),
            Route("/api", self.page),
        ]
        return Starlette(routes=routes, exception_handlers={Problem: answer_problem, HTTPException: answer_refusal})

    async def readyz(self, _: Request) -> Response:
        told = {"status": "serving", "detail": ["the log is full"]} if self.ready else {"status": "recovering"}
        return JSONResponse(told, 200 if self.ready else 503)

    async def metrics(self, _: Request) -> Response:
        await self._maybe_hang()
        return PlainTextResponse(
            f"# HELP penstock_topics Topics\n# TYPE penstock_topics gauge\npenstock_topics {self.lag}\n"
        )

    async def overview(self, request: Request) -> Response:
        await self._maybe_hang()
        self.clients.append(request.client.host if request.client else "")
        fields = dict.fromkeys(Overview.model_fields, 0) | {"version": "1", "cluster_id": "c", "phase": "serving"}
        return _json(Overview(**fields | {"long_term": False, "connections": self.lag, "time_ms": self.number}))

    async def streams(self, request: Request) -> Response:
        if request.query_params.get("limit") == "many":
            raise Problem(400, "Not a number", "limit takes a whole number")
        await self._maybe_hang()
        after = request.query_params.get("after", "")
        listed = [self._summary(name) for name in self.knows if name > after]
        return _json(StreamList(streams=listed, total=len(self.knows)))

    async def stream(self, request: Request) -> Response:
        await self._maybe_hang()
        name = request.path_params["name"]
        if name not in self.knows:
            raise no_such_stream(name)
        assert request.query_params["epochs"] == "1"
        segments = [
            SegmentView(
                id=n, slots=[n], key_range=(0, 1), state="active", container=n,
                bytes=self.lag if n == self.hosts else 0, rate_bytes=0, rate_events=0,
            )
            for n in (1, 2)
        ]  # fmt: skip
        epoch = EpochView(epoch=self.number, started_ms=1, reason="", segments=segments)
        scaling = Scaling(policy="fixed", target_rate=1, factor=2, min_segments=1)
        summary = self._summary(name).model_dump()
        return _json(StreamView(**summary, created_ms=1, sealed_ms=None, scaling=scaling, limits=[], epochs=[epoch]))

    async def groups(self, request: Request) -> Response:
        """One more than its number; each lags ten more than the one before."""
        groups = [
            GroupView(
                name=f"group-{self.number}{'x' * n}", state="Stable", members=1, lag=self.lag + 10 * n, topics=[],
                topics_total=0, coordinator=self.number,
            )
            for n in range(self.number + 1)
        ]  # fmt: skip
        asked = VIEW_ORDER.asked(request)
        fitting = [group for group in groups if asked.fits(group.name)]
        page = list(await VIEW_ORDER.page_of(fitting, asked))
        return _json(GroupList(groups=page, found=len(fitting), total=len(groups), measured_ms=self.number))

    async def scale(self, request: Request) -> Response:
        GUARD.check_write(request.headers)
        wanted = await request.json()
        if request.path_params["name"] not in self.knows:
            raise no_such_stream(request.path_params["name"])
        if wanted["split"]["segment"] != self.hosts and not self.takes_all:
            raise Problem(409, "Cannot be scaled like that", "the segment is another worker's")
        self.changes.append(wanted)
        await self._maybe_hang()
        return _json(Scaled(name="orders", epoch=self.number, sealed=[wanted["split"]["segment"]], opened=[]))

    async def seal(self, request: Request) -> Response:
        GUARD.check_write(request.headers)
        if not self.ready:
            raise not_ready("recovering")
        if self.changes:
            raise Problem(409, "Sealed already", "it is")
        self.changes.append("seal")
        return _json(Sealed(name="orders", state="sealed", sealed_ms=self.number))

    async def records(self, request: Request) -> Response:
        if self.refuses is not None:
            raise self.refuses
        self.changes.append(await request.json())
        await self._maybe_hang()
        return JSONResponse({"first_offset": self.number})

    async def chunks(self, _: Request) -> Response:
        lines = [json.dumps({"chunk": f"{self.number}/{n}", "padding": "x" * 70_000}) for n in range(3)]
        return Response("\n".join([*lines, "" if self.cut else '{"complete": true}\n']))

    async def chunk(self, request: Request) -> Response:
        if request.path_params["key"] != f"{self.number}/0":
            raise Problem(404, "No such chunk", "the store does not know it")
        return JSONResponse({"chunk": request.path_params["key"]})

    async def page(self, _: Request) -> Response:
        return Response("<!doctype html>", media_type="text/html", headers={"Content-Security-Policy": "x"})

    async def _maybe_hang(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()

    def _summary(self, name: str) -> StreamSummary:
        return StreamSummary(
            name=name, state="open", slots=4, epoch=self.number, segments=2, appended_bytes=self.lag,
            appended_events=1, tiers=Tiers(log=1, chunks=0), rate_bytes=0.0, rate_events=0.0,
        )  # fmt: skip


def _json(model: Any) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


class Gateway:
    """Workers that serve, and the port in front of them."""

    def __init__(self, directory: Path, workers: tuple[FakeWorker, ...]) -> None:
        self.workers = workers
        self.sockets = {str(worker.number): str(directory / f"{worker.number}") for worker in workers}
        self.phase = "serving"
        self.count = len(workers)
        self.closed = 0
        self.address = ""

    def ways(self) -> dict[str, Dial]:
        return {number: at_socket_file(path) for number, path in self.sockets.items()}

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Called:
        return await asyncio.to_thread(call, self.address, method, path, body, **headers)

    async def get(self, path: str) -> Any:
        status, _, body = await self.ask("GET", path)
        assert status == 200, body
        return body


@contextlib.asynccontextmanager
async def serving(directory: Path, *workers: FakeWorker) -> AsyncIterator[Gateway]:
    gateway = Gateway(directory, workers)
    known = partial(front, gateway.ways, GUARD, lambda: gateway.phase, lambda: gateway.count)
    application = known(closed=lambda: gateway.closed)
    public = socket.create_server(("127.0.0.1", 0))
    servers = [HttpServer(Entrance(application, GUARD), [public])]
    for worker in workers:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(gateway.sockets[str(worker.number)])
        listening.listen()
        guarded: Any = Entrance(worker.application(), GUARD)
        servers.append(HttpServer(ProxyHeadersMiddleware(guarded, "*"), [listening]))  # type: ignore[arg-type]
    gateway.address = f"127.0.0.1:{public.getsockname()[1]}"
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        yield gateway


def two() -> tuple[FakeWorker, FakeWorker]:
    return FakeWorker(0, hosts=1, lag=10), FakeWorker(1, hosts=2, lag=30, knows=("audit", "orders"))


def run(directory: Path, steps: Callable[[Gateway], Awaitable[None]], *workers: FakeWorker) -> None:
    async def main() -> None:
        async with serving(directory, *workers) as gateway:
            await steps(gateway)

    asyncio.run(main())


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs is given up soon."""
    for module in (asking, exchange, front_module):
        monkeypatch.setattr(module, "ANSWER_S_MAX", 0.3)


def test_one_address_tells_of_all(tmp_path: Path) -> None:
    """Totals add up, streams are listed once, groups of all workers are there; the answers are not to be cached."""

    async def steps(gateway: Gateway) -> None:
        status, headers, overview = await gateway.ask("GET", "/api/v1/overview")
        assert (status, headers["Cache-Control"], overview["connections"]) == (200, "no-store", 40)
        streams = await gateway.get("/api/v1/streams")
        assert [(one["name"], one["appended_bytes"]) for one in streams["streams"]] == [("audit", 30), ("orders", 40)]
        assert [one["name"] for one in (await gateway.get("/api/v1/streams?after=audit"))["streams"]] == ["orders"]
        assert len((await gateway.get("/api/v1/streams?limit=1"))["streams"]) == 1
        groups = await gateway.get("/api/v1/groups")
        assert [one["name"] for one in groups["groups"]] == ["group-1x", "group-1", "group-0"]
        assert "<title>" in await gateway.get("/")
        status, headers, _ = await gateway.ask("GET", "/api")
        assert (status, headers["Content-Security-Policy"]) == (200, "x")

    run(tmp_path, steps, *two())


def test_pages_of_all_workers_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is cut from the groups of all, in any order, wherever it begins; a worker tells of one at a time."""
    monkeypatch.setattr(front_module, "LISTED_MAX", 1)

    async def steps(gateway: Gateway) -> None:
        async def listed(query: str) -> list[str]:
            told = await gateway.get(f"/api/v1/groups?{query}")
            assert (told["found"], told["total"]) == (2 if "search" in query else 3, 3)
            return [group["name"] for group in told["groups"]]

        assert await listed("sort=lag") == ["group-0", "group-1", "group-1x"]
        assert await listed("sort=-coordinator&limit=2") == ["group-1", "group-1x"]
        assert await listed("sort=name&offset=1&limit=1") == ["group-1"]
        assert await listed("sort=name&offset=2&limit=5") == ["group-1x"]
        assert await listed("search=UP-1&limit=1") == ["group-1x"]
        assert (await gateway.ask("GET", "/api/v1/groups?sort=size"))[0] == 400
        assert (await gateway.ask("GET", "/api/v1/groups?offset=20000&limit=1"))[0] == 400

    run(tmp_path, steps, *two())


def test_one_worker_alone(tmp_path: Path) -> None:
    """The only worker's answer is the gateway's, to the byte."""
    alone = FakeWorker(0, hosts=1, lag=10)

    async def steps(gateway: Gateway) -> None:
        summary = alone._summary("orders")
        assert await gateway.get("/api/v1/streams") == StreamList(streams=[summary], total=1).model_dump(mode="json")

    run(tmp_path, steps, alone)


def test_workers_see_the_client(tmp_path: Path) -> None:
    """The workers' ACLs decide by the client's own address, whatever addresses it claims."""

    async def steps(gateway: Gateway) -> None:
        await gateway.get("/api/v1/overview")
        assert [worker.clients for worker in gateway.workers] == [["127.0.0.1"], ["127.0.0.1"]]

    run(tmp_path, steps, *two())


def test_health(tmp_path: Path) -> None:
    """Ready is the gateway whose workers all are; concerns name their worker."""

    async def steps(gateway: Gateway) -> None:
        assert await gateway.get("/readyz") == {
            "status": "serving",
            "detail": ["worker 0: the log is full", "worker 1: the log is full"],
        }
        gateway.workers[1].ready = False
        status, _, told = await gateway.ask("GET", "/readyz")
        assert (status, told["detail"]) == (503, ["worker 0: the log is full", "worker 1: recovering"])
        gateway.workers[1].ready = True
        gone = gateway.sockets.pop("1")
        assert (await gateway.ask("GET", "/readyz"))[0] == 503
        gateway.sockets["1"] = gone
        gateway.phase = "stopping"
        assert (await gateway.ask("GET", "/readyz"))[::2] == (503, {"status": "stopping"})
        assert (await gateway.ask("GET", "/healthz"))[::2] == (200, {"status": "stopping"})

    run(tmp_path, steps, *two())


def _samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, next(iter(sample.labels.values()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(tmp_path: Path, hurried: None) -> None:
    """Samples carry their worker; one that hangs is left out, and counted."""

    async def steps(gateway: Gateway) -> None:
        found = _samples(await gateway.get("/metrics"))
        assert (found["penstock_topics", "0"], found["penstock_topics", "1"]) == (10, 30)
        assert (found["penstock_workers", "answering"], found["penstock_workers", "silent"]) == (2, 0)
        gateway.workers[0].hangs = True
        found = _samples(await gateway.get("/metrics"))
        assert (found["penstock_workers", "answering"], found["penstock_workers", "silent"]) == (1, 1)
        assert ("penstock_topics", "0") not in found

    run(tmp_path, steps, *two())


def test_refusals(tmp_path: Path, hurried: None) -> None:
    """A stream is unknown only if every worker says so; a request that no worker takes is refused as by one."""

    async def steps(gateway: Gateway) -> None:
        status, headers, problem = await gateway.ask("GET", "/api/v1/streams/nothing")
        assert (status, headers["Content-Type"], problem["title"]) == (
            404,
            "application/problem+json",
            "No such stream",
        )
        assert (await gateway.ask("GET", "/api/v1/streams?limit=many"))[0] == 400
        assert (await gateway.ask("GET", "/api/v1/nothing"))[0] == 404
        gateway.workers[1].hangs = True
        assert (await gateway.ask("GET", "/api/v1/streams/nothing"))[0] == 503
        gateway.sockets.clear()
        status, _, problem = await gateway.ask("GET", "/api/v1/overview")
        assert (status, problem["title"]) == (503, "Not ready")

    run(tmp_path, steps, *two())


def test_a_dead_worker(tmp_path: Path) -> None:
    """A socket file that nobody serves any more, or that is gone, takes nothing from the others' answers."""

    async def steps(gateway: Gateway) -> None:
        gateway.sockets["2"] = str(tmp_path / "gone")
        left = socket.socket(socket.AF_UNIX)
        left.bind(gateway.sockets.setdefault("3", str(tmp_path / "left")))
        left.close()
        assert (await gateway.get("/api/v1/overview"))["connections"] == 40
        assert len((await gateway.get("/metrics")).splitlines()) == 8

    run(tmp_path, steps, *two())


def test_a_scale_reaches_its_worker(tmp_path: Path) -> None:
    """The worker that has the segment makes the scale, once; if nobody has it, the workers' reason is passed on."""

    async def steps(gateway: Gateway) -> None:
        path, authorization = "/api/v1/streams/orders/scale", f"Bearer {TOKEN}"
        for hosts, worker in enumerate(gateway.workers, 1):
            body = {"split": {"segment": hosts}}
            status, _, scaled = await gateway.ask("POST", path, body, Authorization=authorization)
            assert (status, scaled["epoch"], worker.changes) == (200, worker.number, [body])
        body = {"split": {"segment": 9}}
        status, _, problem = await gateway.ask("POST", path, body, Authorization=authorization)
        assert (status, problem["title"]) == (409, "Cannot be scaled like that")
        status, _, _ = await gateway.ask("POST", "/api/v1/streams/no/scale", body, Authorization=authorization)
        assert status == 404

    run(tmp_path, steps, *two())


def test_a_scale_prefers_its_worker(tmp_path: Path) -> None:
    """Of workers that could all make the scale it is made by the one that has the segment's records."""

    async def steps(gateway: Gateway) -> None:
        for worker in gateway.workers:
            worker.takes_all = True
        body = {"split": {"segment": 2}}
        path = "/api/v1/streams/orders/scale"
        assert (await gateway.ask("POST", path, body, Authorization=f"Bearer {TOKEN}"))[0] == 200
        assert [worker.changes for worker in gateway.workers] == [[], [body]]
        status, _, _ = await gateway.ask("POST", path, {"split": {"segment": 1}}, Authorization=f"Bearer {TOKEN}")
        assert (status, len(gateway.workers[0].changes)) == (200, 1)

    run(tmp_path, steps, *two())


def test_a_stream_of_all(tmp_path: Path) -> None:
    """A stream's segments have the bytes of the worker that holds them."""

    async def steps(gateway: Gateway) -> None:
        stream = await gateway.get("/api/v1/streams/orders?epochs=1")
        assert [segment["bytes"] for segment in stream["epochs"][0]["segments"]] == [0, 30]
        assert (stream["epoch"], stream["appended_bytes"]) == (1, 40)

    run(tmp_path, steps, *two())


def test_a_scale_whose_worker_hangs(tmp_path: Path, hurried: None) -> None:
    """Nobody says that a change was refused that may have been made."""

    async def steps(gateway: Gateway) -> None:
        gateway.workers[0].hangs = True
        body = {"split": {"segment": 1}}
        asked = gateway.ask("POST", "/api/v1/streams/orders/scale", body, Authorization=f"Bearer {TOKEN}")
        assert (await asked)[0] == 503
        assert gateway.workers[0].changes == [body]

    run(tmp_path, steps, *two())


def test_records_are_given_to_no_second_worker_that_may_be_there_already(tmp_path: Path, hurried: None) -> None:
    """The first worker may have added them, and its container may be the second one's by now. Who asks is told that it
    is not known; only a refusal that asks to try again says that nothing was done."""

    async def steps(gateway: Gateway) -> None:
        first, second = gateway.workers

        async def added() -> tuple[int, Any]:
            path, body = "/api/v1/topics/orders/records", {"records": []}
            status, _, told = await gateway.ask("POST", path, body, Authorization=f"Bearer {TOKEN}")
            return status, told

        first.hangs = True
        status, told = await added()
        assert (status, told["title"], len(first.changes), second.changes) == (503, "Not answered", 1, [])
        first.hangs, first.refuses = False, Problem(503, "Not stored", "the container is another node's now")
        status, told = await added()
        assert (status, told["title"], second.changes) == (503, "Not stored", [])
        first.refuses = Problem(503, "Not here", "served elsewhere", {"Retry-After": "1"})
        assert await added() == (200, {"first_offset": 1})
        gateway.sockets["0"] += "-away"
        assert await added() == (200, {"first_offset": 1})

    run(tmp_path, steps, *two())


def test_a_worker_answers_before_its_front_gives_up() -> None:
    """A move or a read that takes its time is told as such, not as a worker that is silent."""
    assert max(MOVE_WAIT_S, READ_S_MAX) < exchange.ANSWER_S_MAX


def test_a_seal(tmp_path: Path) -> None:
    """Any worker that is able to seals, one alone; a second seal is told that it is one."""

    async def steps(gateway: Gateway) -> None:
        gateway.workers[0].ready = False
        path, authorization = "/api/v1/streams/orders/seal", f"Bearer {TOKEN}"
        status, _, sealed = await gateway.ask("POST", path, Authorization=authorization)
        assert (status, sealed["sealed_ms"]) == (200, 1)
        assert (await gateway.ask("POST", path, Authorization=authorization))[0] == 409
        assert [worker.changes for worker in gateway.workers] == [[], ["seal"]]

    run(tmp_path, steps, *two())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "http://elsewhere.example"}, 403),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "elsewhere.example"}, 403),
    ],
)
def test_the_guard(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    """A change without the right to it reaches no worker, whose socket any `Host` would pass."""

    async def steps(gateway: Gateway) -> None:
        body = {"split": {"segment": 1}}
        assert (await gateway.ask("POST", "/api/v1/streams/orders/scale", body, **headers))[0] == status
        assert (await gateway.ask("POST", "/api/v1/streams/orders/seal", **headers))[0] == status
        assert [worker.changes for worker in gateway.workers] == [[], []]

    run(tmp_path, steps, *two())


def test_a_body_has_its_bound(tmp_path: Path) -> None:
    """A body that is too large is refused before a worker hears of it."""

    async def steps(gateway: Gateway) -> None:
        body = b" " * (BODY_BYTES_MAX + 1)
        asked = gateway.ask("POST", "/api/v1/streams/orders/scale", body, Authorization=f"Bearer {TOKEN}")
        assert (await asked)[0] == 413

    run(tmp_path, steps, *two())


@pytest.mark.parametrize("path", ["streams/orders/scale", "streams/orders/seal", "topics/orders/records"])
def test_bodies_that_come_slowly_hold_up_no_reader(tmp_path: Path, hurried: None, path: str) -> None:
    """Clients announce bodies and send nothing of them, as many as all places for answers: whoever only looks is
    answered. Further changes are told to come again once such clients have taken every place for bodies."""

    async def steps(gateway: Gateway) -> None:
        host, port = gateway.address.split(":")
        head = f"POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"

        async def announce(count: int) -> None:
            for _ in range(count):
                reader, writer = await asyncio.open_connection(host, int(port))
                opened.append(writer)
                writer.write(head.encode())
                assert (await reader.readline()).startswith(b"HTTP/1.1 100"), "its body is awaited"

        opened: list[asyncio.StreamWriter] = []
        await announce(front_module.RECORD_CALLS_AT_ONCE)
        assert (await gateway.get("/api/v1/overview"))["phase"] == "serving"
        await announce(front_module.CHANGES_AT_ONCE - front_module.RECORD_CALLS_AT_ONCE)
        status, headers, _ = await gateway.ask("POST", f"/api/v1/{path}", {}, Authorization=f"Bearer {TOKEN}")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert (await gateway.get("/api/v1/overview"))["phase"] == "serving"
        for writer in opened:
            writer.close()

    run(tmp_path, steps, *two())


def test_an_answer_has_its_bound(tmp_path: Path) -> None:
    """A worker's answer that is too large is not held: it counts as none."""

    async def steps(gateway: Gateway) -> None:
        with pytest.raises(Silent):
            await ask(gateway.ways()["0"], Asked("GET", b"/api/v1/tier2/chunks"), 100_000)

    run(tmp_path, steps, *two())


def test_chunks(tmp_path: Path) -> None:
    """The listing has all workers' lines and one mark of its end, and no mark if a worker's part is cut or missing."""

    async def steps(gateway: Gateway) -> None:
        async def listed() -> list[Any]:
            return [json.loads(line) for line in (await gateway.get("/api/v1/tier2/chunks")).splitlines()]

        lines = await listed()
        chunks = [f"{worker}/{n}" for worker in (0, 1) for n in range(3)]
        assert [line.get("chunk") for line in lines] == [*chunks, None]
        assert lines[-1] == {"complete": True}
        gateway.workers[0].cut = True
        assert [line["chunk"] for line in await listed()] == chunks
        gateway.workers[0].cut = False
        gateway.closed = 1
        assert [line["chunk"] for line in await listed()] == chunks, "one that cannot be asked has some, perhaps"
        gateway.closed = 0
        gateway.sockets.pop("1")
        assert [line["chunk"] for line in await listed()] == chunks[:3]

    run(tmp_path, steps, *two())


def test_one_chunk(tmp_path: Path) -> None:
    """The worker that knows a chunk tells of it; it is unknown if none does."""

    async def steps(gateway: Gateway) -> None:
        assert await gateway.get("/api/v1/tier2/chunks/1/0") == {"chunk": "1/0"}
        assert (await gateway.ask("GET", "/api/v1/tier2/chunks/7/0"))[0] == 404
        gateway.closed = 1
        assert (await gateway.ask("GET", "/api/v1/tier2/chunks/7/0"))[0] == 503
        gateway.sockets.pop("1")
        assert (await gateway.ask("GET", "/api/v1/tier2/chunks/1/0"))[0] == 503

    run(tmp_path, steps, *two())


def test_connections_are_closed(tmp_path: Path, hurried: None) -> None:
    """No request, answered or not, leaves a descriptor open."""

    async def steps(gateway: Gateway) -> None:
        await gateway.get("/api/v1/overview")
        before = len(os.listdir("/proc/self/fd"))
        gateway.workers[0].hangs = True
        for path in ("/api/v1/overview", "/api/v1/tier2/chunks", "/metrics") * 2:
            await gateway.get(path)
        await asyncio.to_thread(until, lambda: len(os.listdir("/proc/self/fd")) <= before)

    run(tmp_path, steps, *two())


def test_a_real_gateway(tmp_path: Path) -> None:
    """Of two real workers one port tells all: a stream with every record, records of each partition, and a split and a
    seal that both know."""
    with RealGateway(tmp_path, {**EAGER, "workers": 2, "containers": 4}) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(4)}")
        gateway.http = "127.0.0.1:0"
        gateway.start()
        kafka, http = ",".join(gateway.ready["kafka"]), gateway.ready["http"]
        create_topic(kafka, "orders", 8)
        for partition in range(8):
            produce(kafka, "orders", partition, 5)
        stream = until(lambda: (told := get(http, "/api/v1/streams/orders"))["appended_events"] == 40 and told)
        segments = stream["epochs"][-1]["segments"]
        assert sum(segment["bytes"] for segment in segments) == stream["appended_bytes"]
        assert [one["name"] for one in get(http, "/api/v1/streams?limit=1")["streams"]] == ["orders"]
        assert len(get(http, "/api/v1/streams/orders/map")["segments"]) == len(segments)
        overview = get(http, "/api/v1/overview")
        assert (overview["phase"], overview["produced_records"]) == ("serving", 40)
        assert {"groups", "total"} <= get(http, "/api/v1/groups").keys()
        assert get(http, "/api/v1/tier2/chunks").endswith('{"complete": true}\n')
        workers = {worker for _, worker in _samples(get(http, "/metrics"))}
        assert {"0", "1"} <= workers
        wanted = next(segment for segment in segments if len(segment["slots"]) > 1)
        path = "/api/v1/streams/orders"
        status, _, scaled = call(http, "POST", f"{path}/scale", {"split": {"segment": wanted["id"]}})
        assert (status, scaled["sealed"]) == (200, [wanted["id"]])
        told = until(lambda: (told := get(http, path))["epoch"] == scaled["epoch"] and told)
        before = next(one for one in told["epochs"][0]["segments"] if one["id"] == wanted["id"])
        assert before["bytes"] == wanted["bytes"]
        (row,) = get(http, "/api/v1/topics?sort=-bytes")["topics"]
        assert (row["name"], row["partitions"], row["bytes"]) == ("orders", 8, stream["appended_bytes"])
        partitions = get(http, "/api/v1/topics/orders/partitions")["partitions"]
        assert [(one["partition"], one["end_offset"], one["here"]) for one in partitions] == [
            (number, 5, True) for number in range(8)
        ]
        for group in ("first", "second", "third"):  # each has its home in one of the workers
            reader = Consumer({"bootstrap.servers": kafka, "group.id": group})
            places = [TopicPartition("orders", partition, 1) for partition in range(8)]
            assert all(one.error is None for one in reader.commit(offsets=places, asynchronous=False))
            reader.close()
            until(lambda group=group: get(http, f"/api/v1/groups/{group}")["lag"] == 32)
            status, _, moved = call(http, "POST", f"/api/v1/groups/{group}/offsets", {"to": "latest", "dry_run": False})
            assert (status, {one["after"] for one in moved["offsets"]}) == (200, {5})
            until(lambda group=group: get(http, f"/api/v1/groups/{group}")["lag"] == 0)
        until(lambda: get(http, "/api/v1/topics")["topics"][0]["groups"] == 3)
        assert len(get(http, "/api/v1/health")["logs"]) == 4
        assert get(http, "/api/v1/warnings")["warnings"] is not None
        change = {"set": {"retention.ms": "3600000"}}
        assert call(http, "PATCH", "/api/v1/topics/orders/configs", change)[0] == 200
        until(lambda: get(http, "/api/v1/topics")["topics"][0]["retention_ms"] == 3_600_000)
        for partition in range(8):  # each request reaches its partition's worker
            of_one = f"/api/v1/topics/orders/records?partition={partition}"
            status, _, added = call(http, "POST", of_one, {"records": [{"value": f"by http {partition}"}]})
            assert (status, added["first_offset"]) == (200, 5)
            assert get(http, f"{of_one}&offset=5")["records"][0]["value"] == f"by http {partition}"
            assert call(http, "GET", f"{of_one}&offset=7")[0] == 416
        assert call(http, "GET", "/api/v1/topics/absent/records?partition=0")[0] == 404
        assert call(http, "POST", f"{path}/seal")[0] == 200
        until(lambda: get(http, path)["state"] == "sealed")
        assert [event["epoch"] for event in get(http, "/api/v1/events")["events"]] == [scaled["epoch"]]
        assert call(http, "GET", "/readyz")[0] == 200
