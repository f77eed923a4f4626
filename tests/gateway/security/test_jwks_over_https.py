"""The keys of signed tokens, from a real https server: whom it must be, and what of its answer is not followed."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.security.oauth import KEYS_BYTES_MAX, KeySet
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

SIGNER: Final = rsa.generate_private_key(65_537, 2_048)
HOUR_MS: Final = 3_600_000


def jwks(*ids: str) -> bytes:
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(SIGNER.public_key(), as_dict=True)
    return json.dumps({"keys": [jwk | {"kid": kid} for kid in ids]}).encode()


class Issuer:
    """An https server on 127.0.0.1; each path answers as it is told."""

    def __init__(self, files: Files) -> None:
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, headers, body = answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Into no log."""

        self.answers, self.asked = answers, asked
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.keystore)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make(tmp_path)


@pytest.fixture
def issuer(files: Files) -> Iterator[Issuer]:
    made = Issuer(files)
    yield made
    made.close()


@pytest.fixture
def keys_at(monkeypatch: pytest.MonkeyPatch, files: Files) -> Callable[[str], KeySet]:
    """A set of keys at an address; the machine trusts the issuer's authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files.truststore))
    return lambda url: KeySet("L", url, HOUR_MS)


def test_read_and_read_again(issuer: Issuer, keys_at: Callable[[str], KeySet]) -> None:
    """Keys are read once; an unknown id has them read at the next look, however often it is asked for until then."""
    issuer.answers["/keys"] = (200, {}, jwks("one"))
    keys = keys_at(issuer.url("/keys"))
    assert [keys.renew(), keys.renew()] == [True, False]
    assert keys.find("one", "RS256") is not None

    issuer.answers["/keys"] = (200, {}, jwks("one", "two"))
    assert [keys.find("two", "RS256") for _ in range(100)] == [None] * 100
    assert len(issuer.asked) == 1, "a stranger's ids make us ask nobody"
    assert keys.renew()
    assert keys.find("two", "RS256") is not None


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "/other"}, b""),
        (302, {"Location": "file:///etc/passwd"}, b""),
        (500, {}, jwks("one")),
        (200, {}, b"<html>"),
        (200, {}, b'{"keys": []}'),
        (200, {}, b" " * (KEYS_BYTES_MAX + 1)),
    ],
)
def test_answers_that_are_none(
    issuer: Issuer, keys_at: Callable[[str], KeySet], answer: tuple[int, dict[str, str], bytes]
) -> None:
    """No redirect is followed, and nothing but a bounded set of keys is taken: the former keys stay."""
    issuer.answers["/keys"] = (200, {}, jwks("one"))
    issuer.answers["/other"] = (200, {}, jwks("one", "two"))
    keys = keys_at(issuer.url("/keys"))
    assert keys.renew()
    issuer.answers["/keys"] = answer
    keys.find("two", "RS256")
    assert (keys.renew(), keys.failures) == (False, 1)
    assert keys.find("one", "RS256") is not None
    assert "/other" not in issuer.asked


def test_another_authority(issuer: Issuer, keys_at: Callable[[str], KeySet], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose certificate nobody vouches for is not believed, nor one of another name."""
    issuer.answers["/keys"] = (200, {}, jwks("one"))
    other = keys_at(issuer.url("/keys", "127.0.0.2"))
    assert (other.renew(), other.keys) == (False, ())
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = keys_at(issuer.url("/keys"))
    assert (stranger.renew(), stranger.keys, issuer.asked) == (False, (), [])
