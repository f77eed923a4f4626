"""Strangers at the HTTP port: probes are answered, slow requests end, nothing leaks to foreign pages."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from gateway.http.server import CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, REQUEST_S_MAX
from gateway.metrics.counters import Metrics
from gateway.metrics.exposition import Exposition
from gateway.metrics.visible import visible
from tests.faults.client import Connection
from tests.gateway.forking import serving
from tests.gateway.http.calls import create_topic, until
from tests.gateway.launching import http_get

HALF_HEAD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROBE_S_MAX = 5.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A gateway's addresses: Kafka, HTTP."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        ready = running.ready()
        yield ready["kafka"][0], ready["http"]


def connect(http: str, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = http.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=REQUEST_S_MAX + 10, source_address=(source, 0))


def answer_to(http: str, data: bytes) -> bytes:
    """Everything that comes back until the gateway closes the connection."""
    with connect(http) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65_536):
                received += part
    return received


def head(path: str, host: str | None, *more: str, method: str = "GET", version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", *([] if host is None else [f"Host: {host}"]), *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.slow
@pytest.mark.parametrize("sources", [["127.0.0.1"], [f"127.0.0.{n}" for n in range(2, 12)]])
@pytest.mark.parametrize("begun", [b"", HALF_HEAD, WHOLE])
def test_probes_are_answered(gateway: tuple[str, str], sources: list[str], begun: bytes) -> None:
    """However many connections strangers hold, from one address or several, probes and scrapes are answered at once."""
    http = gateway[1]
    with contextlib.ExitStack() as held:
        for number in range(CONNECTIONS_MAX + 20):
            stranger = held.enter_context(connect(http, sources[number % len(sources)]))
            with contextlib.suppress(ConnectionError):
                stranger.sendall(begun)
            if number % 50 == 0 or number > CONNECTIONS_MAX:
                began = time.monotonic()
                assert [http_get(http, path)[0] for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
                assert time.monotonic() - began < PROBE_S_MAX


@pytest.mark.slow
def test_an_address_has_its_share(gateway: tuple[str, str]) -> None:
    """One address that opens connections without end takes none of another's."""
    http = gateway[1]
    with contextlib.ExitStack() as held:
        honest = [held.enter_context(connect(http)) for _ in range(20)]
        for _ in range(3 * CONNECTIONS_PER_ADDRESS_MAX):
            with contextlib.suppress(ConnectionError):
                held.enter_context(connect(http, "127.0.0.9"))
        for connection in honest:
            connection.sendall(WHOLE)
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_every_request_has_a_deadline(gateway: tuple[str, str]) -> None:
    """A head or body that does not come ends its connection in time: the first, a later one, one byte after another."""
    http = gateway[1]
    post = head("/api/v1/streams/x/seal", "localhost", "Content-Length: 10", method="POST")
    sent = {
        "nothing": b"",
        "half a head": HALF_HEAD,
        "half a second head": WHOLE + HALF_HEAD,
        "an empty line": b"\r\n",
        "an empty line later": WHOLE + b"\r\n",
        "half a body": post.replace(b"Connection: close\r\n", b"") + b"12345",
    }
    with contextlib.ExitStack() as held:
        strangers = {name: held.enter_context(connect(http)) for name in sent}
        dribbling = held.enter_context(connect(http))
        for name, stranger in strangers.items():
            stranger.sendall(sent[name])
        deadline = time.monotonic() + REQUEST_S_MAX + 8
        dribbled = True
        while dribbled:
            assert time.monotonic() < deadline, "a byte a moment keeps a connection open"
            try:
                dribbling.sendall(b"G" if dribbled is True else b"x")
            except ConnectionError:
                dribbled = False
            time.sleep(0.2)
        for name, stranger in strangers.items():
            stranger.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                while stranger.recv(65_536):
                    pass
            except ConnectionError:
                pass
            except TimeoutError:
                pytest.fail(f"{name} keeps a connection open")
    assert http_get(http, "/healthz")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "lengths",
    [
        ("Content-Length: 4", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 0"),
        ("Content-Length: 4", "Content-Length: 40"),
        ("Content-Length: 4, 40",),
        ("Host: 127.0.0.1",),
    ],
)
def test_conflicting_headers_close(gateway: tuple[str, str], lengths: tuple[str, ...]) -> None:
    """A request whose headers contradict each other is refused, and later bytes of its connection are ignored."""
    request = head("/healthz", "localhost", *lengths, method="POST").replace(b"Connection: close\r\n", b"")

    answer = answer_to(gateway[1], request + b"0\r\n\r\n" + WHOLE)

    assert status(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.slow
def test_reading_by_a_foreign_name(gateway: tuple[str, str]) -> None:
    """A page whose name was pointed here reads nothing; probes may ask by any name, or by none."""
    http = gateway[1]
    for path in ("/", "/metrics", "/api/v1/overview", "/api", "/console/app.js", "/api/v1/tier2/chunks", "/nothing"):
        for host in ("evil.example", "evil.example:9094", "", None):
            version = "1.0" if host is None else "1.1"
            assert status(answer_to(http, head(path, host, version=version))) == 403, (path, host)
        assert status(answer_to(http, head(path, "localhost"))) in (200, 404)
    for path in ("/healthz", "/readyz"):
        assert status(answer_to(http, head(path, "evil.example"))) == 200
        assert status(answer_to(http, head(path, None, version="1.0"))) == 200


@pytest.mark.slow
def test_names_in_metrics_are_harmless(gateway: tuple[str, str]) -> None:
    """A group's name that would move a cursor is shown escaped, and every group by its own name."""
    kafka, http = gateway
    names = ["\x1b[2Jgone", "\\x1b[2Jgone", "a\rb", "a\u202eb", "a\x9bm", "plain"]
    create_topic(kafka, "t", 1)
    with Connection(kafka) as connection:
        for name in names:
            connection.commit_offset(name, "t", 0, 0)

    def lags() -> list[str]:
        return re.findall(r'penstock_group_lag\{group="([^"]*)"', http_get(http, "/metrics")[1])

    shown = set(until(lags))
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", http_get(http, "/metrics")[1]) == []
    assert shown == {visible(name).replace("\\", "\\\\") for name in names}
    assert len(shown) == len(names)


@pytest.mark.slow
def test_scrapers_beside_clients(gateway: tuple[str, str]) -> None:
    """Eight scrapers that ask without a pause do not lengthen the waits of a Kafka client."""
    kafka, http = gateway
    stop = threading.Event()
    scraped: list[int] = []

    def scrape() -> None:
        while not stop.is_set():
            scraped.append(http_get(http, "/metrics")[0])

    scrapers = [threading.Thread(target=scrape) for _ in range(8)]
    for scraper in scrapers:
        scraper.start()
    waited: list[float] = []
    try:
        with Connection(kafka) as connection:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                began = time.monotonic()
                connection.call(18, 0, b"")
                waited.append(time.monotonic() - began)
    finally:
        stop.set()
        for scraper in scrapers:
            scraper.join()
    assert set(scraped) == {200}
    assert sorted(waited)[int(0.9 * len(waited))] < 0.1


def test_scrapers_share_a_text() -> None:
    """Scrapes that arrive while a text is made share the next one, which shows the state after they asked."""
    metrics, made = Metrics(), [0]

    def read() -> int:
        made[0] += 1
        return made[0]

    metrics.gauge("penstock_made", "Texts", read)

    async def scenario() -> None:
        exposition = Exposition(metrics, {}, lambda: None, lambda turn: None)
        first = asyncio.create_task(exposition.text())
        while not made[0]:  # noqa: ASYNC110 - it has no event of its own
            await asyncio.sleep(0)
        others = [asyncio.create_task(exposition.text()) for _ in range(50)]
        texts = [await first, *await asyncio.gather(*others)]
        assert [b"penstock_made 1.0" in texts[0], *(b"penstock_made 2.0" in text for text in texts[1:])] == [True] * 51
        assert made[0] == 2

    asyncio.run(scenario())


def test_visible() -> None:
    """Characters that a terminal acts on are escaped; the rest of any script stays."""
    assert visible("plain-Größe-日本") == "plain-Größe-日本"
    assert visible("\x1b]0;x\x07") == "\\x1b]0;x\\x07"
    assert visible("\\x1b") == "\\\\x1b"
    assert visible("a\u2066b\ufeff") == "a\\u2066b\\ufeff"
