"""Addresses of workers: counted from those that are configured, past the one of the HTTP server."""

from __future__ import annotations

import pytest

from gateway.config.addresses import ListenAddress
from gateway.config.layers import Given
from gateway.config.loading import load


@pytest.mark.parametrize(
    ("given", "http", "third"),
    [
        ("localhost:9092", None, "localhost:9094"),
        ("0.0.0.0:9092=broker", None, "0.0.0.0:9094=broker"),
        ("SSL://0.0.0.0:9092=broker:19092", None, "SSL://0.0.0.0:9094=broker:19094"),
        ("127.0.0.1:0", "127.0.0.1:1", "127.0.0.1:0"),
        ("localhost:9092", "localhost:9094", "localhost:9095"),
        ("localhost:9092", "localhost:9093", "localhost:9095"),
        ("0.0.0.0:9092=broker:19092", "127.0.0.1:9093", "0.0.0.0:9095=broker:19095"),
        ("localhost:9092", "localhost:9095", "localhost:9094"),
        ("localhost:9092", "localhost:9091", "localhost:9094"),
        ("10.0.0.1:9092", "127.0.0.1:9094", "10.0.0.1:9094"),
        ("[::1]:9092", "127.0.0.1:9094", "[::1]:9094"),
    ],
)
def test_ports_are_counted(given: str, http: str | None, third: str) -> None:
    """The third worker listens two ports further, three if HTTP is among them at an address that both have, and is
    advertised so; a free port stays any free port."""
    other = None if http is None else ListenAddress.parse(http)

    assert str(ListenAddress.parse(given).of_worker(2, other)) == third


@pytest.mark.parametrize("text", ["auto", "AUTO", " auto ", "0"])
def test_as_many_as_processors(text: str) -> None:
    """The word that help texts tell is understood, whichever way it is given."""
    given = {"workers": Given(text, "--workers")}

    assert load(None, {}, (), given).workers == 0
    assert load(None, {"PENSTOCK_WORKERS": text}, ()).workers == 0


def test_defaults() -> None:
    """Workers of a gateway without flags have ports of their own, and none of them is the HTTP server's."""
    config = load(None, {}, ())
    ports = [one.port for worker in range(4) for one in config.listeners_of(worker)]

    assert ports == [9092, 9093, 9095, 9096]
    assert config.http_listen is not None
    assert config.http_listen.port == 9094
