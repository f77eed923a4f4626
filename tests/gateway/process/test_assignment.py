"""What a worker is given: its sockets, its ports, its containers."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from gateway.config.addresses import ListenAddress
from gateway.network.binding import bind, bind_inner
from gateway.process.assignment import Assignment
from tests.gateway.launching import free_ports, serving


def test_a_worker_takes_what_it_is_given(tmp_path: Path) -> None:
    """Sockets go by descriptor: the worker has the same port, and the same socket file."""
    kafka, inner = bind(ListenAddress("127.0.0.1", 0)), bind_inner(str(tmp_path / "1.sock"))
    given = Assignment(
        worker=1,
        node_id=101,
        hosts=(1, 3),
        line=0,
        kafka=(tuple(bound.fileno() for bound in kafka.sockets),),
        inner=inner.sockets[0].fileno(),
        inner_path=inner.host,
        http=0,
        cluster_id="c",
        fresh=True,
        containers=4,
        further=("/disk2",),
    )
    assert Assignment.decode(given.encode()) == given
    (taken,) = given.bindings([ListenAddress("127.0.0.1", 0)])
    assert taken.port == kafka.port
    assert given.inner_binding().inner
    assert given.directories == (Path("/disk2"),)
    for bound in (*taken.sockets, *inner.sockets):
        bound.detach()
    kafka.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["3", "auto"])
def test_the_port_of_http_is_left_out(tmp_path: Path, workers: str) -> None:
    """HTTP keeps its port between those of the workers, however many there are, and clients are told the rest."""
    first = free_ports(5)
    flags = ("--listen", f"127.0.0.1:{first}", "--http", f"127.0.0.1:{first + 1}", "--workers", workers)
    with serving(tmp_path, *flags, "--set", "containers=3") as gateway:
        ready = gateway.ready()
        broker = AdminClient({"bootstrap.servers": ready["kafka"][-1]}).list_topics(timeout=20).brokers.values()
        assert gateway.terminate() == 0
    count = len(ready["workers"])
    expected = [first, *range(first + 2, first + 1 + count)]
    assert ready["kafka"] == [f"127.0.0.1:{port}" for port in expected]
    assert sorted(one.port for one in broker) == expected
    assert ready["http"] == f"127.0.0.1:{first + 1}"
