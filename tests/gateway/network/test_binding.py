"""Binding: every family of a host on one port, and a taken port is reported as such."""

from __future__ import annotations

import os
import socket

import pytest

from gateway.config.addresses import ListenAddress
from gateway.network.binding import Binding, CannotListen, bind, bind_all


def listening(binding: Binding) -> Binding:
    for each in binding.sockets:
        each.listen()
    return binding


def test_ports_end() -> None:
    """A port that is counted beyond the last one is refused as every other that cannot be bound."""
    with pytest.raises(CannotListen, match=r"127\.0\.0\.1:65536: ports end at 65535"):
        bind(ListenAddress("127.0.0.1", 65_536))


def test_localhost_is_both_families_on_one_port() -> None:
    """A client that resolves localhost to either address finds us, on a free port that we chose."""
    binding = listening(bind(ListenAddress("localhost", 0)))
    try:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, binding.port), timeout=5).close()
    finally:
        binding.close()

    assert str(binding) == f"localhost:{binding.port}"


def test_what_clients_are_told() -> None:
    """The advertised host and port, if given; else the bound ones."""
    told = [bind(ListenAddress.parse(text)) for text in ("127.0.0.1:0", "127.0.0.1:0=h", "127.0.0.1:0=h:9", "[::1]:0")]
    for each in told:
        each.close()

    assert [(each.advertised_host, each.advertised_port) for each in told] == [
        ("127.0.0.1", told[0].port),
        ("h", told[1].port),
        ("h", 9),
        ("::1", told[3].port),
    ]
    assert told[3].advertised == f"[::1]:{told[3].port}"


def test_a_taken_port() -> None:
    """A port on which somebody listens is refused as taken, and nothing stays bound."""
    taken = listening(bind(ListenAddress("127.0.0.1", 0)))
    free = bind(ListenAddress("127.0.0.1", 0))
    free.close()
    try:
        with pytest.raises(CannotListen, match=rf"pid {os.getpid()} .*listens there; .* --listen .* --http") as caught:
            bind_all([ListenAddress("127.0.0.1", free.port), ListenAddress("localhost", taken.port)])
    finally:
        taken.close()

    assert caught.value.taken
    bind(ListenAddress("127.0.0.1", free.port)).close()


def test_an_address_of_another_machine() -> None:
    """An address that is not ours is a mistake in the configuration, not a taken port."""
    with pytest.raises(CannotListen) as caught:
        bind(ListenAddress("192.0.2.1", 0))

    assert not caught.value.taken


@pytest.mark.parametrize("host", ["::", "*", "0::0"])
def test_every_address(host: str) -> None:
    """`[::]` is every address of both families, as with other servers, and so is `*`."""
    text = f"[{host}]:0" if ":" in host else f"{host}:0"
    binding = listening(bind(ListenAddress.parse(text)))
    try:
        for each in ("127.0.0.1", "::1"):
            socket.create_connection((each, binding.port), timeout=5).close()
    finally:
        binding.close()

    assert binding.port


def test_an_address_of_the_other_family() -> None:
    """An IPv4 address in IPv6's form is what it stands for: loopback, or every IPv4 address."""
    assert ListenAddress.parse("[::ffff:127.0.0.1]:1") == ListenAddress("127.0.0.1", 1)
    assert ListenAddress.parse("[::ffff:127.0.0.1]:1").loopback
    assert ListenAddress.parse("[::ffff:0.0.0.0]:1").wildcard
