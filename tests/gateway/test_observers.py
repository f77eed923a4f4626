"""Clients of Kafka are served whether people can watch or not, and whoever would watch in vain is refused at once."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest
import uvloop
from confluent_kafka.admin import AdminClient

from gateway.broker import Broker
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import DataDirectory
from gateway.disks import wanted_of
from gateway.network.binding import bind
from tests.core.support import until
from tests.gateway.harness import SETTINGS, Client
from tests.gateway.launching import ROOT, Running

WITHIN_S = 30.0
ANYWHERE = parse_kafka_listener("127.0.0.1:0")
BROKEN = """
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            raise ImportError(name)


sys.meta_path.insert(0, Finder())
"""
"""A sitecustomize.py of an installation in which a module cannot be imported."""


def until_refused(address: str) -> None:
    """Return when nobody listens there: without a wait for an answer."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            with contextlib.suppress(ConnectionResetError):  # closed while it was in the queue
                socket.create_connection((host, int(port)), timeout=WITHIN_S).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, "a port at which nothing answers still takes connections"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["uvicorn.middleware.proxy_headers", "gateway.http.history"])
def test_a_server_that_cannot_be_made(tmp_path: Path, module: str) -> None:
    """Its port is closed, the log says why, and clients of Kafka notice nothing; the end is a clean one."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN.format(module=module))
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    running = Running(tmp_path, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", environ=path)
    try:
        ready = running.ready()
        until_refused(ready["http"])
        running.await_line("the HTTP server did not start")
        assert AdminClient({"bootstrap.servers": ready["kafka"][0]}).list_topics(timeout=WITHIN_S).brokers
        assert running.terminate() == 0
    finally:
        running.process.kill()
        running.process.wait()


def test_a_port_that_another_has_taken(tmp_path: Path) -> None:
    """A port is bound at the start, and another process may listen there before the gateway does."""

    async def test() -> None:
        config = load(environ={}, assignments=[*SETTINGS])
        data = DataDirectory.acquire(tmp_path, "0.1.0", wanted_of(config))
        http = bind(ANYWHERE)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", http.port))
            other.listen()
            broker = Broker(config, data, [bind(ANYWHERE)], http)
            await broker.start()
            await until(lambda: broker.concerns)
            assert broker.concerns == ["the HTTP server did not start: OSError, the log says more; start again"]
            client = await Client.connect(broker)
            assert (await client.ask(18, 0, {})).error_code == 0
            await broker.stop()
            data.release()

    uvloop.run(test())
