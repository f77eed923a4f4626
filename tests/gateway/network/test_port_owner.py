"""The owner of a taken port is named."""

from __future__ import annotations

import os
import socket
import subprocess

from gateway.network.port_owner import is_held_by, owner_of


def test_our_own_port() -> None:
    """The process that listens is named with its pid and program."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        owner = owner_of(server.getsockname()[1])

    assert owner is not None
    assert owner.startswith(f"pid {os.getpid()} (")


def test_whoever_holds_it() -> None:
    """A socket that several processes have inherited is of each of them, not of the first one alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]) as heir:
            try:
                assert is_held_by(port, str(heir.pid))
                assert is_held_by(port, str(os.getpid()))
            finally:
                heir.kill()
        assert not is_held_by(port, str(os.getppid()))
        assert not is_held_by(port, "another process")
        assert not is_held_by(port, "")


def test_nobody() -> None:
    """A port on which nobody listens has no owner, even if it is bound."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert owner_of(bound.getsockname()[1]) is None
