"""What a gateway prints when it is ready."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.loading import load
from gateway.network.binding import bind_all
from gateway.process import banner
from tests.gateway.launching import ROOT


def shown(capsys: pytest.CaptureFixture[str], *assignments: str, workers: int = 1) -> dict[str, str]:
    """The printed lines by their first words."""
    config = load(None, {}, assignments)
    kafka = bind_all(config.kafka_listeners)
    http = bind_all([config.http_listen])[0] if config.http_listen else None
    banner.show(config, kafka, http, Path("/d"), workers)
    for binding in (*kafka, *([http] if http else [])):
        binding.close()
    head, *lines = capsys.readouterr().out.splitlines()
    return {"head": head} | {line[2:15].strip(): line[17:] for line in lines}


def test_the_readme_says_the_same() -> None:
    """Whoever follows the README sees its line again."""
    config = load(None, {}, ())
    (listener,) = bind_all(load(None, {}, ("listeners=127.0.0.1:0=localhost:9092",)).kafka_listeners)
    listener.close()

    assert banner.to_try(config, [listener], ".venv/bin/penstock") in (ROOT / "README.md").read_text()


def test_where_everything_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses, data and long-term storage, of one process and of workers alike."""
    for workers in (1, 2):
        told = shown(capsys, "listeners=127.0.0.1:0", "http.listen=127.0.0.1:0", "tier2=file:/objects", workers=workers)
        assert told["Kafka clients"].startswith("127.0.0.1:")
        assert told["Console"].startswith("http://127.0.0.1:")
        assert (told["Data"], told["Long term"]) == ("/d", "/objects")
        assert ("with 2 workers" in told["head"]) == (workers == 2)
    assert shown(capsys, "listeners=127.0.0.1:0", "http.listen=off", "tier2=off")["Console"] == "off"


def test_a_console_over_tls(capsys: pytest.CaptureFixture[str]) -> None:
    """Its address is one that a browser can open."""
    told = shown(capsys, "listeners=127.0.0.1:0", "http.listen=127.0.0.1:0", "http.tls.keystore.location=/k", workers=2)
    assert told["Console"].startswith("https://")


@pytest.mark.parametrize(
    ("listeners", "protocols", "flags"),
    [
        ("A://127.0.0.1:0=h:1", "A:PLAINTEXT", "--bootstrap h:1"),
        ("A://127.0.0.1:0=h:1", "A:SSL", "--bootstrap h:1 --ca CA.pem"),
        ("A://127.0.0.1:0=h:1", "A:SASL_SSL", "--bootstrap h:1 --ca CA.pem --user NAME --password-file FILE"),
        ("A://127.0.0.1:0=h:1,B://127.0.0.1:0=h:2", "A:SASL_PLAINTEXT,B:PLAINTEXT", "--bootstrap h:2"),
        ("A://127.0.0.1:0=[::1]:1", "A:PLAINTEXT", "--bootstrap [::1]:1"),
    ],
)
def test_what_a_listener_asks_for(
    listeners: str, protocols: str, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line has the flags that the listener needs; it takes the one that needs least."""
    given = (f"listeners={listeners}", f"listener.security.protocol.map={protocols}", "http.listen=off")
    more = ("ssl.keystore.location=/k", "sasl.enabled.mechanisms=SCRAM-SHA-512")
    told = shown(capsys, *given, *more)["Try it"]
    assert told == f"echo hello | penstock produce greetings {flags} && penstock consume greetings {flags}"
