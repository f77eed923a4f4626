"""The owner of a taken port is named."""

from __future__ import annotations

import os
import socket

from gateway.network.port_owner import owner_of


def test_our_own_port() -> None:
    """The process that listens is named with its pid and program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        owner = owner_of(server.getsockname()[1])

    assert owner is not None
    assert owner.startswith(f"pid {os.getpid()} (")


def test_nobody() -> None:
    """A port on which nobody listens has no owner, even if it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert owner_of(bound.getsockname()[1]) is None
