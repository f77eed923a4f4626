"""The HTTP port with TLS: https only, the strict header, and certificates that are renewed while it serves."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.request
from pathlib import Path

import pytest

from tests.gateway.forking import serving
from tests.gateway.security.certificates import make

pytestmark = pytest.mark.slow


def test_https(tmp_path: Path) -> None:
    """Probes and the API answer over TLS, with HSTS; a plain request gets no answer; a changed certificate is shown to
    later connections."""
    files = make(tmp_path)
    settings = ("--http", "localhost:0", "--set", f"http.tls.keystore.location={files.keystore}")
    with serving(tmp_path / "g", *settings) as gateway:
        address = gateway.ready()["http"]
        deadline = time.monotonic() + 20

        def shown() -> bytes:
            host, port = address.rsplit(":", 1)
            connection = http.client.HTTPSConnection(host, int(port), context=files.context(), timeout=5)
            connection.connect()
            der = connection.sock.getpeercert(binary_form=True)  # type: ignore[union-attr]
            connection.close()
            return bytes(der)

        with urllib.request.urlopen(f"https://{address}/healthz", context=files.context(), timeout=10) as answer:
            assert answer.status == 200
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
        with urllib.request.urlopen(f"https://{address}/metrics", context=files.context(), timeout=10) as answer:
            assert b'penstock_certificate_expires_timestamp_seconds{listener="http"}' in answer.read()
        with pytest.raises((OSError, http.client.HTTPException)):
            urllib.request.urlopen(f"http://{address}/healthz", timeout=5)
        assert shown() == ssl.PEM_cert_to_DER_cert(files.server.pem)
        fresh = files.authority.issue()
        files.keystore.write_text(fresh.key_pem() + fresh.pem)
        while shown() != ssl.PEM_cert_to_DER_cert(fresh.pem):
            assert time.monotonic() < deadline, "the new certificate is never shown"
            time.sleep(0.1)
