"""The line between the supervisor and a worker."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import pytest
import uvloop

from gateway.process.control import Control


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_was_told_last_arrives(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Whoever hangs up has sent all that it told, also what the other end was too slow to take."""
    long = "x" * 50_000
    heard: list[str] = []

    async def ended() -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        telling = await Control.over(theirs, lambda message: None)
        for number in range(10):
            telling.tell("refused", why=[str(number), long])
        hanging_up = asyncio.create_task(telling.hang_up())
        hearing = await Control.over(ours, lambda message: heard.append(json.dumps(message)))
        async with asyncio.timeout(20):
            await hanging_up
            await hearing.ended
        hearing.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ended())

    assert [json.loads(one) for one in heard] == [
        {"kind": "refused", "why": [str(number), long]} for number in range(10)
    ]


def test_nobody_hears() -> None:
    """The other end has gone: hanging up ends all the same."""

    async def ended() -> None:
        ours, theirs = socket.socketpair()
        telling = await Control.over(theirs, lambda message: None)
        ours.close()
        telling.tell("refused", why=["it does not matter"])
        async with asyncio.timeout(20):
            await telling.hang_up()

    asyncio.run(ended())
