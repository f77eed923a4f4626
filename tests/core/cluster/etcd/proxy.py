"""A proxy between a client and one server that cuts where the test says: before, within and behind a request."""

from __future__ import annotations

import asyncio
import contextlib
import random

from core.cluster.etcd.http import Endpoint


class CuttingProxy:
    """Listens on a port of its own. Use it as a context manager.

    A burst of bytes from the client counts as a request, a burst from the server as an answer or a part of it.
    """

    def __init__(self, upstream: Endpoint, seed: int = 0) -> None:
        self.upstream = upstream
        self.cut_requests = 0
        """So many of the next requests are passed on in half, then cut."""
        self.cut_answers = 0
        """So many of the next answers are cut before their first byte: the server has done what was asked."""
        self.cut_within_answers = 0
        """So many of the next answers are passed on in half, then cut."""
        self.share = 0.0
        """This share of all bursts is cut, in one of the ways above."""
        self.refuses = False
        """New connections are closed at once."""
        self.requests = 0
        self._random = random.Random(seed)
        self._requests_flow, self._answers_flow = asyncio.Event(), asyncio.Event()
        self.release()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        self._server.close()
        self.cut()
        if self._serving:
            await asyncio.wait(self._serving, timeout=10)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self._server.sockets[0].getsockname()[1])

    @property
    def idle(self) -> bool:
        """Whether no connection is left."""
        return not self._writers

    def cut(self) -> None:
        """Cut all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self, *, requests: bool = True, answers: bool = True) -> None:
        """Pass nothing on, in these directions, and cut nothing: connections are half-open."""
        if requests:
            self._requests_flow.clear()
        if answers:
            self._answers_flow.clear()

    def release(self) -> None:
        """Pass on again, first of all what was held."""
        self._requests_flow.set()
        self._answers_flow.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            to_server = await asyncio.open_connection(self.upstream.host, self.upstream.port)
        except OSError:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        both = {writer, to_server[1]}
        self._writers |= both
        ways = (
            asyncio.create_task(self._pass_requests(reader, to_server[1])),
            asyncio.create_task(self._pass_answers(to_server[0], writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in both:
                one.transport.abort()
            self._writers -= both

    async def _pass_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                self.requests += 1
                await self._requests_flow.wait()
                if self._is_cut("cut_requests"):
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()

    async def _pass_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 20):
                await self._answers_flow.wait()
                if self._is_cut("cut_answers"):
                    return
                if self._is_cut("cut_within_answers"):
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    await asyncio.sleep(0.01)  # or the abort takes the half away again
                    return
                writer.write(data)
                await writer.drain()

    def _is_cut(self, way: str) -> bool:
        left: int = getattr(self, way)
        if left:
            setattr(self, way, left - 1)
            return True
        return self._random.random() < self.share / 3
