"""The line between the supervisor and a worker: a socket pair that the worker inherits.

    {"kind": "serving", "state": {...}}    worker to supervisor: clients are served; the state is that of a ready file
    {"kind": "refused", "why": [...]}      worker to supervisor: it cannot begin to serve; a line a problem
    {"kind": "changed"}                    both ways: the registry has changed, look at it
    {"kind": "away", "worker": N}          supervisor to worker: the worker N has ended, or does not serve yet

One JSON object a line, LINE_BYTES_MAX at most. A line's other end that closes has ended: a supervisor restarts its
worker, a worker stops cleanly, so no worker outlives its supervisor.

Invariant: a message is acted upon or logged, never an error: both ends are ours, but may be of two releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

logger = logging.getLogger(__name__)

LINE_BYTES_MAX: Final = 64 * 1024
UNSENT_BYTES_MAX: Final = 1024 * 1024
"""Bytes that wait for an end that does not read. Beyond them messages are dropped: each only says "look again"."""

Heard = Callable[[Mapping[str, Any]], None]


class Control:
    """One end of the line. `heard` gets every message; `ended` completes when the other end has closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard) -> None:
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._reading = asyncio.create_task(self._read(), name="control")
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading.add_done_callback(self._hung_up)

    @classmethod
    async def over(cls, line: socket.socket, heard: Heard) -> Self:
        """Take one end of a socket pair."""
        line.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=line, limit=LINE_BYTES_MAX)
        return cls(reader, writer, heard)

    def tell(self, kind: str, **more: object) -> None:
        """Send a message, without waiting for the other end."""
        if self._writer.is_closing() or self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return
        self._writer.write(json.dumps({"kind": kind, **more}).encode() + b"\n")

    async def hang_up(self) -> None:
        """Close once all that was told is sent."""
        self._reading.cancel()
        self._writer.close()
        with contextlib.suppress(OSError):  # the other end has gone
            await self._writer.wait_closed()

    def close(self) -> None:
        """Hang up at once."""
        self._writer.close()
        self._reading.cancel()

    def _hung_up(self, _: asyncio.Task[None]) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(line)
        except (OSError, ValueError) as exc:  # reset, or a line that is too long
            logger.warning("the line to the other process broke", extra={"reason": str(exc)})

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            logger.warning("a message that is no JSON object was ignored", extra={"bytes": len(line)})
            return
        self._heard(message)
