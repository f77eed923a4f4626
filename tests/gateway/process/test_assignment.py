"""What a worker is given: its sockets, its ports, its containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.addresses import ListenAddress
from gateway.network.binding import bind, bind_inner
from gateway.process.assignment import Assignment, shifted


@pytest.mark.parametrize(
    ("given", "third"),
    [
        ("localhost:9092", "localhost:9094"),
        ("0.0.0.0:9092=broker", "0.0.0.0:9094=broker"),
        ("SSL://0.0.0.0:9092=broker:19092", "SSL://0.0.0.0:9094=broker:19094"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_ports_are_counted(given: str, third: str) -> None:
    """The third worker listens two ports further, and is advertised so; a free port stays any free port."""
    assert str(shifted(ListenAddress.parse(given), 2)) == third


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
