"""Sessions that fail while an answer is due: the connection ends, with one line, and others get their answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.network.tls import ASIDE_BYTES_MIN
from tests.gateway.network.harness import Gate, produce, run, serving, until
from tests.gateway.network.own_records import DATA, HANDSHAKE, Sealing13
from tests.gateway.network.test_tls import connect, security, way
from tests.gateway.security.certificates import Files, make

__all__ = ["way"]

HALF_OF_A_KEY_UPDATE: Final = bytes([24, 0, 0, 1])
"""All but its last byte (RFC 8446, section 4.6.3). Until that comes OpenSSL neither reads data nor writes any."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [10, ASIDE_BYTES_MIN + 1], ids=["on the loop", "in a thread"])
def test_a_client_that_cannot_be_answered(
    files: Files, tmp_path: Path, lines: Callable[[], list[str]], size: int
) -> None:
    """It has sent half of a message behind its request. Its answer is due at once with another client's, before it."""
    gate = Gate()
    answer = bytes(size)

    async def scenario() -> None:
        async with serving(gate, secured=security(files)) as (server, port):
            loop = asyncio.get_running_loop()
            other = await connect(files, port)
            with socket.create_connection(("127.0.0.1", port), 10) as plain:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client = await loop.run_in_executor(None, Sealing13, files, plain, tmp_path / "keys")
                plain.sendall(client.record(DATA, produce("wait-half")))
                await until(lambda: "wait-half" in gate.waiting, "its request is here")
                plain.sendall(client.record(HANDSHAKE, HALF_OF_A_KEY_UPDATE))
                for number in range(3):  # the half is here by then
                    other.send(produce("whole", number))
                    assert (await other.frame())[0] == number
                other.send(produce("wait-other", 3))
                await until(lambda: "wait-other" in gate.waiting, "the other's request is here")
                gate.waiting["wait-half"].send((answer,))
                gate.waiting["wait-other"].send((b"",))
                assert (await asyncio.wait_for(other.frame(), 5))[0] == 3
                await until(lambda: len(server.connections) == 1, "whoever cannot be answered is gone")
            assert len([line for line in lines() if "connection closed" in line and "encrypted" in line]) == 1
            assert server.host.output_budget.used == server.host.receive_budget.used == 0
            other.close()

    run(scenario())
