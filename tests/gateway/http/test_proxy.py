"""Behind a proxy that has put everything below a path of its own."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import pytest

from tests.gateway.forking import serving
from tests.gateway.launching import http_get

PREFIX = "/ops/penstock"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of its HTTP server."""
    with serving(tmp_path_factory.mktemp("gateway"), "--http", "127.0.0.1:0") as running:
        yield running.ready()["http"]


@pytest.fixture(scope="module")
def proxy(gateway: str) -> Iterator[str]:
    """The address of a proxy that takes PREFIX away and passes answers on as they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            behind = http.client.HTTPConnection(gateway, timeout=10)
            behind.request("GET", self.path.removeprefix(PREFIX))
            answer = behind.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for name in ("Location", "Content-Type"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            behind.close()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/api/", "/api"),
        ("/readyz/", "/readyz"),
        ("/api/v1/streams/?limit=1", "/api/v1/streams?limit=1"),
        ("/console/index.js/", "/console/index.js"),
    ],
)
def test_a_slash_too_many(proxy: str, path: str, there: str) -> None:
    """An address with a slash at its end leads to the page, below the proxy's path."""
    with urllib.request.urlopen(f"http://{proxy}{PREFIX}{path}", timeout=10) as answer:
        assert (answer.status, answer.url) == (200, f"http://{proxy}{PREFIX}{there}")


@pytest.mark.parametrize("path", ["/nothing/", "/api//", "/api/nothing/", "//example.org/", "/console/nothing/x/"])
def test_no_such_page(gateway: str, path: str) -> None:
    """An address that is none is answered as such, with a slash and without."""
    connection = http.client.HTTPConnection(gateway, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()

    assert (answer.status, answer.headers["Location"]) == (404, None)


def test_the_description(proxy: str) -> None:
    """The page's addresses lie below the proxy's path."""
    where = f"http://{proxy}{PREFIX}/api/v1/openapi.json"
    with urllib.request.urlopen(where, timeout=10) as answer:
        whole = json.load(answer)
    base = urljoin(where, whole["servers"][0]["url"]).rstrip("/")

    for path in ("/readyz", "/api/v1/overview"):
        assert path in whole["paths"]
        with urllib.request.urlopen(base + path, timeout=10) as answer:
            assert answer.status == 200


def test_all_that_the_documents_name(gateway: str) -> None:
    """Every address that the operators' documents name is described, and every described address is there."""
    paths = json.loads(http_get(gateway, "/api/v1/openapi.json")[1])["paths"]
    operating = (Path(__file__).parents[3] / "docs/operating/configuration.md").read_text()
    page = http_get(gateway, "/api")[1]

    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/tier2/chunks"):
        assert f"`GET {path}`" in operating
        assert path in paths
        assert f"GET {path}<" in page
    assert "/api/v1/tier2/chunks/{key}" in paths
    assert set(paths["/readyz"]["get"]["responses"]) == {"200", "503"}
    assert set(paths["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
