"""From an address to bound sockets.

Invariants: one address has one port, on every family that its host has here (`localhost` is 127.0.0.1
and ::1). Sockets are bound before anything else starts, so that a taken port is known at once. They
listen only when the broker can answer: every client that can connect is served.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from gateway.config.addresses import PORT_MAX, UNNAMED, ListenAddress, host_port
from gateway.network.port_owner import owner_of

BACKLOG: Final = 1024
"""Connections that the kernel keeps for us between two rounds of accept; a cluster of clients that
reconnects at once comes in one round."""
INNER: Final = "inner"
"""The name of the listener for other nodes. Clients' listeners have theirs in upper case."""
ANYWHERE: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
FREE_PORT_TRIES: Final = 32
"""Tries for port 0 on two families: a port that is free on the first may be taken on the second."""


class CannotListen(Exception):
    """We cannot listen on an address; `taken` if another process does."""

    def __init__(self, address: str, error: OSError | UnicodeError) -> None:
        self.taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        why, remedy = _why(address, error)
        super().__init__(f"cannot listen on {address}: {why}; {remedy}")


def _why(address: str, error: OSError | UnicodeError) -> tuple[str, str]:
    """The reason, and what to do."""
    flags = "--listen (for Kafka's clients) or --http"
    if isinstance(error, UnicodeError):
        return "its host is no name that a network knows", f"correct {flags}"
    why = str(error.strerror or error)
    if isinstance(error, socket.gaierror):
        return why, f"this machine must know the host: correct {flags}"
    match error.errno:
        case errno.EADDRINUSE:
            other = owner_of(int(address.rpartition(":")[2])) or "another process"
            return f"{other} listens there", f"choose another address with {flags}"
        case errno.EADDRNOTAVAIL:
            return why, f"name an address of this machine with {flags}"
        case errno.EACCES | errno.EPERM:
            return why, f"low ports need the right CAP_NET_BIND_SERVICE: grant it, or choose another port with {flags}"
        case None:  # a socket file
            return why, "set TMPDIR to a directory with a shorter name"
    return why, f"correct {flags}"


@dataclass(frozen=True, slots=True)
class Binding:
    """One bound address: the sockets, the port that it got, and the address that clients get."""

    sockets: tuple[socket.socket, ...]
    host: str
    port: int
    advertised_host: str
    advertised_port: int
    loopback: bool
    name: str = UNNAMED
    inner: bool = False
    """Only other nodes come by it: by a socket file that nobody else reaches, or with a node's certificate."""

    @property
    def advertised(self) -> str:
        return host_port(self.advertised_host, self.advertised_port)

    @property
    def place(self) -> str:
        """Where others reach it: a socket file, or HOST:PORT."""
        return self.advertised if self.advertised_port else self.host

    def close(self) -> None:
        for bound in self.sockets:
            bound.close()

    def __str__(self) -> str:
        return host_port(self.host, self.port)


def bind(address: ListenAddress, *, inner: bool = False) -> Binding:
    """Bind every family of one address; `inner`: for nodes on other machines. Raises CannotListen."""
    if address.port > PORT_MAX:  # of a worker, whose port is counted from that of a listener
        beyond = OSError(errno.EINVAL, f"ports end at {PORT_MAX}")
        raise CannotListen(host_port(address.host, address.port), beyond)
    try:
        sockets = _bind_families(_targets(address.host), address.port)
    except (OSError, UnicodeError) as exc:  # a name with an empty or too long part cannot even be looked up
        raise CannotListen(host_port(address.host, address.port), exc) from exc
    port = int(sockets[0].getsockname()[1])
    return Binding(
        sockets=tuple(sockets),
        host=address.host,
        port=port,
        advertised_host=address.advertised_host or address.host,
        advertised_port=address.advertised_port or port,
        loopback=address.loopback,
        name=INNER if inner else address.name,
        inner=inner,
    )


def bind_inner(path: str) -> Binding:
    """Bind a socket file for the other nodes on this machine, in a directory that nobody else may enter.

    Raises CannotListen.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise CannotListen(path, error) from error
    return Binding((bound,), path, 0, path, 0, loopback=True, name=INNER, inner=True)


def bind_all(addresses: Sequence[ListenAddress]) -> list[Binding]:
    """Bind all of them or none."""
    bindings: list[Binding] = []
    try:
        for address in addresses:
            bindings.append(bind(address))
        check_apart(bindings)
    except CannotListen:
        for binding in bindings:
            binding.close()
        raise
    return bindings


def check_apart(bindings: Iterable[Binding]) -> None:
    """Refuse an address that is bound twice, which the kernel allows until both listen. Raises CannotListen."""
    bound = [(binding, each.family, *each.getsockname()[:2]) for binding in bindings for each in binding.sockets]
    for (one, family, host, port), (other, other_family, other_host, other_port) in combinations(bound, 2):
        common = host == other_host or ANYWHERE[family] in (host, other_host)
        if family == other_family and port == other_port and common:
            twice = OSError(errno.EINVAL, f"{host_port(host, port)} is bound twice, for it and for {other}")
            raise CannotListen(str(one), twice)


def _targets(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """A host's addresses here, IPv4 first, each once. `::` is every address, as in the kernel's default."""
    if host in ("*", "::"):
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    if host.lower() == "localhost":
        return [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    targets = {(family, str(target[0])) for family, _, _, _, target in found}
    return sorted(targets, key=lambda target: target[0] != socket.AF_INET)


def _bind_families(targets: Sequence[tuple[socket.AddressFamily, str]], port: int) -> list[socket.socket]:
    for attempt in range(FREE_PORT_TRIES):
        try:
            return _bind_once(targets, port)
        except OSError as exc:
            last_try = port != 0 or attempt == FREE_PORT_TRIES - 1
            if exc.errno != errno.EADDRINUSE or last_try:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


def _bind_once(targets: Sequence[tuple[socket.AddressFamily, str]], port: int) -> list[socket.socket]:
    """Bind one port on every target; a family that this machine lacks is left out, if another is
    there."""
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        missing: OSError | None = None
        for family, host in targets:
            try:
                bound = _bind_one(family, host, port)
            except OSError as exc:
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = exc
                continue
            undo.callback(bound.close)
            sockets.append(bound)
            port = int(bound.getsockname()[1])
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "the host has no address")
        undo.pop_all()
        return sockets


def _bind_one(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound
