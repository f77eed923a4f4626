"""Connections to an S3 server: one pool, with a connection for each thread.

Invariant: a request is sent once, and the caller decides on another try; a silence ends it after `io_timeout_s`.
"""

from __future__ import annotations

import http.client
import os

import certifi
import urllib3


class _HTTPConnection(urllib3.connection.HTTPConnection):
    """urllib3 leaves the time-out for connecting in force while the first request is sent."""

    io_timeout_s: float = 30.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.io_timeout_s)


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    io_timeout_s: float = 30.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.io_timeout_s)


def pool_manager(
    *, connections: int, connect_timeout_s: float, io_timeout_s: float, ca_file: str | None
) -> urllib3.PoolManager:
    """The pool; without `ca_file`, SSL_CERT_FILE or the usual certificates are trusted."""
    manager = urllib3.PoolManager(
        num_pools=2,
        maxsize=connections,
        timeout=urllib3.Timeout(connect=connect_timeout_s, read=io_timeout_s),
        retries=False,
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca_file or os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )
    plain = type("_Plain", (_HTTPConnection,), {"io_timeout_s": io_timeout_s})
    secure = type("_Secure", (_HTTPSConnection,), {"io_timeout_s": io_timeout_s})
    manager.pool_classes_by_scheme = {
        "http": type("_Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("_TLSPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
    return manager


def receive(response: urllib3.BaseHTTPResponse, memory: memoryview) -> int:
    """Fill `memory` with the next bytes of an answer; fewer only at its end. Raises urllib3's HTTPError.

    urllib3's own `read` would allocate the memory, and receive the end of each piece by itself.
    """
    body: http.client.HTTPResponse = response._original_response  # type: ignore[attr-defined]
    got = 0
    try:
        while got < len(memory) and (count := body.readinto(memory[got:])):
            got += count
    except TimeoutError as error:
        raise urllib3.exceptions.TimeoutError("the answer went no further") from error
    except (http.client.HTTPException, OSError) as error:
        raise urllib3.exceptions.ProtocolError(f"the answer broke off: {error}") from error
    return got
