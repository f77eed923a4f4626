"""A process that has ended is noticed by the other nodes; one that is slow, paused or out of reach is left alone."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from core.cluster.coordination import Life
from gateway.cluster.pulse import GREETING, REFUSALS, Mourning, Pulse, own_address
from gateway.config.addresses import ListenAddress
from gateway.network.binding import bind
from tests.core.cluster.coordinator import Coordinator, Seat
from tests.core.support import run, until

pytestmark = pytest.mark.slow

HOST: Final = "127.0.0.1"
WATCHED, WATCHING = 1, 2
LONG_S: Final = 1.5
"""Several times as long as a burial takes."""

PROCESS: Final = f"""
import asyncio, sys
from gateway.cluster.pulse import Pulse
from gateway.config.addresses import ListenAddress
from gateway.network.binding import bind
from tests.core.cluster.coordinator import Coordinator, Seat

async def main():
    pulse = Pulse(Seat(Coordinator(()), {WATCHED}))
    binding = bind(ListenAddress({HOST!r}, 0))
    await pulse.start(binding.sockets, ({HOST!r}, binding.port))
    print(pulse.address[1], flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def bound() -> tuple[Sequence[socket.socket], tuple[str, int]]:
    """A port of the system's choice."""
    binding = bind(ListenAddress(HOST, 0))
    return binding.sockets, (HOST, binding.port)


class Two:
    """Two nodes that live, of which the second watches the first."""

    def __init__(self) -> None:
        self.coordinator = Coordinator(())
        self.watched = Seat(self.coordinator, WATCHED)
        self.watching = Seat(self.coordinator, WATCHING)
        self.mourning = Mourning(self.watching)

    async def find(self, place: object) -> None:
        """The first one tells where its pulse is."""
        await self.watched.tell({"pulse": place})
        self.mourning.start()

    @property
    def lives(self) -> bool:
        return WATCHED in self.coordinator.lives


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    made = Two()
    try:
        yield made
    finally:
        await made.mourning.close()


@dataclass
class Ways:
    """What the watching node has met on its ways to pulses."""

    greeted: int = 0
    refused: int = 0


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    found, connect, read_until = Ways(), asyncio.open_connection, asyncio.StreamReader.readuntil

    async def connecting(*arguments: Any, **more: Any) -> Any:
        try:
            return await connect(*arguments, **more)
        except ConnectionRefusedError:
            found.refused += 1
            raise

    async def reading(reader: asyncio.StreamReader, *arguments: Any) -> bytes:
        line = await read_until(reader, *arguments)
        found.greeted += line.startswith(GREETING)
        return line

    monkeypatch.setattr(asyncio, "open_connection", connecting)
    monkeypatch.setattr(asyncio.StreamReader, "readuntil", reading)
    return found


def test_a_killed_process_is_buried_and_a_paused_one_is_not(ways: Ways) -> None:
    """Two refusals tell that it has gone: nobody waits for a lease, which no node of this test has."""

    async def scenario() -> None:
        async with two() as nodes:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROCESS, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                port = int(await process.stdout.readline())
                await nodes.find([HOST, port])
                await until(lambda: ways.greeted)
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(LONG_S)
                assert nodes.lives
                process.send_signal(signal.SIGCONT)
                process.kill()
                await until(lambda: not nodes.lives)
                assert ways.refused == REFUSALS
                assert list(nodes.coordinator.lives) == [WATCHING]
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    run(scenario())


def test_who_was_never_met_is_not_buried() -> None:
    """The address may be that of another network: refusals there say nothing."""

    async def scenario() -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            async with two() as nodes:
                await nodes.find([HOST, free.getsockname()[1]])
                await asyncio.sleep(LONG_S)
                assert nodes.lives

    run(scenario())


def test_a_cut_connection_alone_buries_nobody(ways: Ways) -> None:
    """It is made anew; and when then nobody answers, or another life does, the lease is to decide."""

    async def scenario() -> None:
        async with two() as nodes:
            pulse = Pulse(nodes.watched)
            await pulse.start(*bound())
            assert pulse.address is not None
            await nodes.find(list(pulse.address))
            await until(lambda: ways.greeted)
            (first,) = pulse._connections
            first.transport.abort()  # type: ignore[attr-defined]
            await until(lambda: ways.greeted == 2)
            await pulse.close()
            with socket.socket() as silent:  # accepts what its backlog takes, and says nothing, as a paused process
                silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                silent.bind(pulse.address)
                silent.listen()
                await asyncio.sleep(LONG_S)
                assert nodes.lives

    run(scenario())


def test_the_next_life_at_an_address_is_not_the_former_one(ways: Ways) -> None:
    """The coordinator's word of the former life's end is late: its address answers for the next one."""

    async def scenario() -> None:
        async with two() as nodes:
            next_life = Seat(Coordinator(()), WATCHED)
            next_life._life = Life(node=WATCHED, life="another")
            pulse = Pulse(next_life)
            await pulse.start(*bound())
            assert pulse.address is not None
            await nodes.find(list(pulse.address))
            await until(lambda: ways.greeted)
            await pulse.close()
            await asyncio.sleep(LONG_S)
            assert nodes.lives

    run(scenario())


def test_what_others_tell_is_checked() -> None:
    """A node of another release tells of no pulse, or of something else."""

    async def scenario() -> None:
        for told in (None, [HOST], [HOST, "1"], [HOST, 0], [HOST, 65_536], "x", {"a": 1}):
            async with two() as nodes:
                await nodes.find(told)
                assert not nodes.mourning._watching

    run(scenario())


def test_the_address_is_that_of_the_way_to_the_coordinator() -> None:
    async def scenario() -> None:
        assert await own_address([("127.0.0.1", 2379)]) == HOST
        assert await own_address([("no.such.host.invalid", 2379), ("localhost", 2379)]) in (HOST, "::1")
        assert await own_address([("no.such.host.invalid", 2379)]) == ""

    run(scenario())
