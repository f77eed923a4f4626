"""Bytes for a peer that takes them at its own pace: all of them, in order, whether or not they are copied meanwhile."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Final, cast

import pytest
import uvloop

from gateway.network.outgoing import LARGE_BYTES_MIN, Outgoing, copied
from gateway.network.response_slot import Part

SIZES: Final = (0, 1, 100, 5_000, LARGE_BYTES_MIN - 1, LARGE_BYTES_MIN, 700_000, 3_000_000)


class Sender(asyncio.Protocol):
    """A connection's use of `Outgoing`."""

    output: Outgoing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        own = cast(asyncio.Transport, transport)
        own.set_write_buffer_limits(high=0, low=0)
        self.output = Outgoing(own)

    def resume_writing(self) -> None:
        self.output.go_on()


@pytest.mark.parametrize("uv", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("seed", range(4))
def test_everything_arrives_in_order(uv: bool, seed: int) -> None:
    """Answers of any size and number of parts, a peer that reads now and then, copies made at any moment."""
    chance = random.Random(seed)

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        ours.setblocking(False)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        _, sender = await loop.connect_accepted_socket(Sender, ours)
        output = sender.output
        sent, got = bytearray(), bytearray()

        async def read(size: int) -> None:
            while size > 0:
                data = await asyncio.wait_for(loop.sock_recv(theirs, min(size, 65_536)), 10)
                got.extend(data)
                size -= len(data)

        for _ in range(12):
            content = chance.randbytes(chance.choice(SIZES))
            memory = bytearray(content)
            parts: list[Part] = [b"head"]
            at = 0
            while at < len(memory):
                size = chance.choice((7, 1_000, 16_000, 1_000_000))
                parts.append(memoryview(memory)[at : at + size])
                at += size
            output.send(parts, 4 + len(content))
            sent += b"head" + content
            assert 0 <= output.waiting <= len(sent) - len(got)
            if chance.random() < 0.3:
                output.copy_views()
                memory[:] = bytes(len(memory))  # somebody else's by now
                memory = bytearray()
            elif output.has_views:
                await read(min(chance.randrange(200_000), len(sent) - len(got)))
        await read(len(sent) - len(got))
        assert got == sent
        assert output.waiting == 0
        theirs.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(scenario())


def test_what_is_copied_is_not_copied_again() -> None:
    """Bytes and views of them belong to nobody else."""
    memory = bytearray(b"view of memory")
    parts: list[Part] = [b"own", memoryview(memory)[:4], memoryview(memory)[4:], memoryview(b"own too")[:3], b""]
    copies, size = copied(parts)
    assert (b"".join(copies), size) == (b"".join(parts), len(memory))
    assert copied(copies) == (copies, 0)
    memory[:] = bytes(len(memory))
    assert b"".join(copies) == b"ownview of memoryown"
