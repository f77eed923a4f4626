"""The HTTP server: uvicorn on our own loop and sockets, bounded against idle and slow strangers.

Keeps: it installs no signal handlers (the process has its own), logs nothing by itself, and holds at
most CONNECTIONS_MAX connections, none of which may take longer than HEAD_S_MAX over its first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from socket import socket
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 256
"""Scrapers, probes and a few people; each costs some 64 KiB at most."""
HEAD_S_MAX: Final = 10.0
KEEP_ALIVE_S: Final = 75
STOP_S_MAX: Final = 1


class _Protocol(H11Protocol):
    """uvicorn's, with a bound on connections and on the time until the first request."""

    connections_max = CONNECTIONS_MAX

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            logger.warning("http connection refused", extra={"connections": len(self.connections)})
            transport.abort()
            return
        self._head_timer = self.loop.call_later(HEAD_S_MAX, self._head_is_late)

    def _head_is_late(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if timer := getattr(self, "_head_timer", None):
            timer.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's business."""
        yield


class HttpServer:
    """Serves one application on bound sockets until it is stopped."""

    def __init__(self, app: Starlette, sockets: Sequence[socket], connections_max: int = CONNECTIONS_MAX) -> None:
        config: Any = uvicorn.Config(
            app,
            http=type("_Bounded", (_Protocol,), {"connections_max": min(connections_max, CONNECTIONS_MAX)}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S_MAX,
        )
        self._server = _Server(config)
        self._sockets = list(sockets)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns once requests are answered."""
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise AssertionError("the HTTP server ended before it served")
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Finish what is being answered, for a moment."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task
