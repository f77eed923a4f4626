"""The ways between the parties of a cluster, each of which can fail, in one direction or both, and be mended.

One thread passes on the bytes of all of them.
"""

from __future__ import annotations

import asyncio
import enum
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack

from core.cluster.etcd.http import Endpoint
from tests.core.cluster.etcd.proxy import CuttingProxy

HOST = "127.0.0.1"


class How(enum.StrEnum):
    """How a way fails. One that holds something back passes it on late, when it is mended."""

    HELD = "both"
    REQUESTS_HELD = "requests"
    ANSWERS_HELD = "answers"
    REFUSED = "refused"  # as a network does that says so: connections are ended, and new ones


class Link:
    """One way, from whoever connects to `port` to the party at another port."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: CuttingProxy) -> None:
        self._loop, self._proxy = loop, proxy
        self.port = proxy.endpoint.port

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def lead_to(self, port: int) -> None:
        """The other party is there from now on. Connections to the former one are cut."""
        self._do(lambda: setattr(self._proxy, "upstream", Endpoint(HOST, port)), self._proxy.cut)

    def fail(self, how: How = How.HELD) -> None:
        """Until it is mended."""
        if how is How.REFUSED:
            self._do(lambda: setattr(self._proxy, "refuses", True), self._proxy.cut)
        else:
            requests, answers = how is not How.ANSWERS_HELD, how is not How.REQUESTS_HELD
            self._do(lambda: self._proxy.hold(requests=requests, answers=answers))

    def mend(self) -> None:
        self._do(lambda: setattr(self._proxy, "refuses", False), self._proxy.release)

    def _do(self, *steps: Callable[[], object]) -> None:
        async def done() -> None:
            for step in steps:
                step()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result()


class Links:
    """All of a test's links. Use it as a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_told)
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._proxies = AsyncExitStack()

    def __enter__(self) -> Links:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._proxies.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def make(self, port: int = 0) -> Link:
        """A link to a port; without one it leads nowhere before `Link.lead_to`."""

        async def made() -> Link:
            proxy = await self._proxies.enter_async_context(CuttingProxy(Endpoint(HOST, port)))
            return Link(self._loop, proxy)

        return asyncio.run_coroutine_threadsafe(made(), self._loop).result()


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """A party that refuses connections is no news here."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
