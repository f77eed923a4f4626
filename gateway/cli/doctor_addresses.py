"""Measures addresses: whether ours are free, and whether clients reach what they are told.

Keeps: a port is listened on for an instant, and no connection accepted; nothing is sent to a process that is not the
gateway of the data directory, as the directory's lock and the port's owner say.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from gateway.cli.client.connection import Connection
from gateway.cli.doctor_facts import AdvertisedFacts, PortFacts
from gateway.cli.refused import Refused
from gateway.config.addresses import ListenAddress, host_port
from gateway.config.model import Config
from gateway.config.security import SecurityProtocol
from gateway.data_directory import IDENTITY_FILE
from gateway.disks import layout_of, processors, wanted_of
from gateway.network.binding import CannotListen, bind
from gateway.network.port_owner import is_held_by, owner_of

DIAL_S: Final = 3.0
BROKERS_MAX: Final = 32


def ports(config: Config, locked_by: str) -> Iterator[PortFacts]:
    """The facts of every address to listen on. `locked_by`: the data directory's owner, as `process 12`."""
    for name, address in _bound_by(config):
        yield _port(name, address, locked_by)


def _bound_by(config: Config) -> Iterator[tuple[str, ListenAddress]]:
    """Every address of a start with a name, also those of further workers, and for the other nodes of a cluster."""
    for worker in range(workers_of(config)):
        for listener in config.listeners_of(worker):
            yield f"{listener.name} of worker {worker}" if worker else listener.name, listener
    others = {"HTTP": config.http_listen}
    if config.cluster:
        others |= {"for nodes": config.cluster_listen, "pulse": config.cluster_pulse_listen}
        if config.http_listen is not None:
            others["HTTP for nodes"] = config.cluster_http_listen
    for name, address in others.items():
        if address is not None:
            yield name, address


def workers_of(config: Config) -> int:
    """How many workers a start makes; where there are as many as processors, as many as one would make now."""
    if config.workers:
        return config.workers
    layout = wanted_of(config).layout()
    with contextlib.suppress(OSError, ValueError):  # there is none yet, or it is damaged, which the start says
        layout = layout_of(json.loads((config.data_dir / IDENTITY_FILE).read_bytes()))
    return min(processors(), layout.containers)


def _port(name: str, address: ListenAddress, locked_by: str) -> PortFacts:
    shown = host_port(address.host, address.port)
    if error := _listening(address):
        owner = owner_of(address.port)
        ours = is_held_by(address.port, locked_by.removeprefix("process "))
        return PortFacts(name, shown, str(error), isinstance(error, CannotListen) and error.taken, owner, ours)
    return PortFacts(name, shown)


def _listening(address: ListenAddress) -> CannotListen | None:
    """Why we cannot listen there."""
    try:
        binding = bind(address)
    except CannotListen as error:
        return error
    try:
        for one in binding.sockets:  # a second socket that only binds is allowed until both listen
            one.listen(1)
    except OSError as error:
        return CannotListen(host_port(address.host, address.port), OSError(error.errno or errno.EIO, error.strerror))
    finally:
        binding.close()
    return None


def advertised(config: Config, running: frozenset[str]) -> Iterator[AdvertisedFacts]:
    """What clients of each listener are told. `running`: the listeners at which our gateway listens."""
    for worker, listener in ((n, one) for n in range(workers_of(config)) for one in config.listeners_of(n)):
        host, port = listener.advertised_host or listener.host, listener.advertised_port or listener.port
        told = [(host, port)]
        is_running = listener.name in running and bool(port)
        is_plain = config.protocol_of(listener.name) is SecurityProtocol.PLAINTEXT
        if worker and (is_plain or not is_running):  # Metadata has all workers, and names resolve once
            continue
        if is_running and is_plain:
            try:
                told = _metadata(listener)
            except Refused as refused:  # a client goes on to the address that it is told, so that may be the reason
                reached = _reached(listener.name, host, port, dial=True)
                yield reached if reached.error else replace(reached, error=f"no Metadata: {refused}")
                continue
        for one in told:
            yield _reached(listener.name, *one, dial=is_running)


def _metadata(listener: ListenAddress) -> list[tuple[str, int]]:
    """The brokers' addresses as a client at this listener gets them. Raises Refused."""
    from gateway.cli.client.kafka_python import KafkaPythonCluster

    host = "127.0.0.1" if listener.wildcard else listener.host
    connection = Connection(bootstrap=host_port(host, listener.port)).checked()
    cluster = KafkaPythonCluster(connection)
    try:
        return [(one.host, one.port) for one in cluster.info().brokers[:BROKERS_MAX]]
    finally:
        cluster.close()


def _reached(listener: str, host: str, port: int, *, dial: bool) -> AdvertisedFacts:
    shown = host_port(host, port)
    try:
        found = socket.getaddrinfo(host, port or None, type=socket.SOCK_STREAM)
    except OSError as error:
        return AdvertisedFacts(listener, shown, error=f"the name does not resolve: {error.strerror}")
    resolved = sorted({str(target[0]) for *_, target in found})
    if dial:
        try:
            socket.create_connection((host, port), timeout=DIAL_S).close()
        except OSError as error:
            why = error.strerror or str(error)
            return AdvertisedFacts(listener, shown, resolved, True, f"it cannot be dialled from here: {why}")
    return AdvertisedFacts(listener, shown, resolved, dial)
