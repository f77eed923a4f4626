"""The Kafka APIs that we serve: one module each, named as Kafka names it, found by looking.

Invariant: nothing else lists APIs. A module of this package whose `API` is an Api is served, exactly
in the versions that it names; ApiVersions, dispatch and the hostile-bytes tests read this registry.
"""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.dispatch.turns import Pace
from gateway.wire.headers import RequestHeader
from gateway.wire.message import Message

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class RequestContext:
    """Who asked, and on what: everything about a request except its body."""

    broker: Any
    version: int
    correlation_id: int
    client_id: str | None
    connection: "Connection"
    apis: "Registry"

    async def paced(self, items: Iterable[_T]) -> AsyncIterator[_T]:
        """One item after another; others get the event loop in between when this has kept it for long."""
        pace = Pace(self.connection.turns, self.connection.party)
        for item in items:
            if pace.is_over:
                await pace.give_way()
            yield item


Handler = Callable[[RequestContext, Message], Awaitable[Mapping[str, Any]]]
RawHandler = Callable[["Connection", RequestHeader, memoryview, "ResponseSlot"], None]
LongHandler = Callable[["Connection", int, Message, "ResponseSlot"], Awaitable[None]]
ErrorResponse = Callable[[Message, int, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Api:
    """One API: its key, the versions that work, and what answers it.

    `handle` runs as a task; its result is encoded and sent. `handle_raw` is called with the undecoded
    body as soon as the request is there, and answers through the slot whenever it can: for the hot
    APIs. `handle_long` then is the task for requests so large that they are decoded in a thread; it gets
    the connection, the version, the request and the slot. `error_response(request, version, error code)`
    is the answer when `handle` raised; without one the connection is closed. `advertise_from` is the
    lowest version that ApiVersions shows, where that differs from the truth; what is not `advertised` is
    answered and not shown. `unsupported_version()` is the answer, in version 0's form, to a version that
    is not served; without one the connection is closed, as Kafka does. `large_answer`: an answer may have
    more than 64 KiB, so it is made only when there is room for it.
    """

    key: int
    name: str
    versions: range
    handle: Handler | None = None
    handle_raw: RawHandler | None = None
    handle_long: LongHandler | None = None
    error_response: ErrorResponse | None = None
    advertise_from: int | None = None
    advertised: bool = True
    unsupported_version: Callable[[], Mapping[str, Any]] | None = None
    large_answer: bool = False

    def __post_init__(self) -> None:
        if not self.versions or self.versions.step != 1:
            raise ValueError(f"{self.name}: versions must be a range without gaps")
        if (self.handle is None) == (self.handle_raw is None):
            raise ValueError(f"{self.name}: exactly one of handle and handle_raw")
        if self.handle_long is not None and self.handle_raw is None:
            raise ValueError(f"{self.name}: handle_long is for what handle_raw would do")


class Registry:
    """Apis by key; iterates in the order of keys."""

    def __init__(self, apis: "list[Api]") -> None:
        self._by_key = {api.key: api for api in sorted(apis, key=lambda api: api.key)}
        if len(self._by_key) != len(apis):
            raise ValueError("two APIs have the same key")

    def __iter__(self) -> Iterator[Api]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: int) -> Api | None:
        return self._by_key.get(key)


@cache
def discover() -> Registry:
    """Every API of this package."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = (getattr(module, "API", None) for module in modules)
    return Registry([api for api in found if isinstance(api, Api)])
