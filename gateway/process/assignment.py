"""What the supervisor gives a worker: its number, its containers, and the descriptors that it inherits.

A JSON object on the worker's command line. It holds numbers and paths, no secrets.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.config.addresses import ListenAddress
from gateway.network.binding import INNER, Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """See the module. `kafka` has the descriptors of each listener's sockets, in the order of `listeners`."""

    worker: int
    node_id: int
    hosts: tuple[int, ...]
    line: int
    kafka: tuple[tuple[int, ...], ...]
    inner: int
    inner_path: str
    http: int
    cluster_id: str
    fresh: bool
    containers: int
    further: tuple[str, ...]

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Assignment:
        """Raises ValueError, TypeError: another release's supervisor."""
        fields = json.loads(text)
        fields["hosts"], fields["further"] = tuple(fields["hosts"]), tuple(fields["further"])
        fields["kafka"] = tuple(map(tuple, fields["kafka"]))
        return cls(**fields)

    def bindings(self, listeners: Sequence[ListenAddress]) -> list[Binding]:
        """This worker's listeners for clients, bound by the supervisor."""
        return [_inherited(address, fds) for address, fds in zip(listeners, self.kafka, strict=True)]

    def inner_binding(self) -> Binding:
        """The socket file for the other workers."""
        bound = socket.socket(fileno=self.inner)
        bound.setblocking(False)
        path = self.inner_path
        return Binding((bound,), path, 0, path, 0, loopback=True, name=INNER, inner=True)

    @property
    def directories(self) -> tuple[Path, ...]:
        """The further directories of the store."""
        return tuple(map(Path, self.further))


def _inherited(address: ListenAddress, fds: Sequence[int]) -> Binding:
    sockets = tuple(socket.socket(fileno=fd) for fd in fds)
    for bound in sockets:
        bound.setblocking(False)
    port = int(sockets[0].getsockname()[1])
    return Binding(
        sockets=sockets,
        host=address.host,
        port=port,
        advertised_host=address.advertised_host or address.host,
        advertised_port=address.advertised_port or port,
        loopback=address.loopback,
        name=address.name,
    )
