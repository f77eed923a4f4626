"""An API as the dispatcher sees it, and the registry of served APIs by key.

Invariant: an API is served in exactly the versions that it names; ApiVersions, dispatch and the tests read a registry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.wire.headers import RequestHeader
from gateway.wire.message import Message

if TYPE_CHECKING:
    from gateway.dispatch.context import RequestContext
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot

Handler = Callable[["RequestContext", Message], Awaitable[Mapping[str, Any]]]
RawHandler = Callable[["Connection", RequestHeader, memoryview, "ResponseSlot"], None]
LongHandler = Callable[["Connection", int, Message, "ResponseSlot"], Awaitable[None]]
ErrorResponse = Callable[[Message, int, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Api:
    """One API: its key, the versions that work, and its handlers.

    `handle` runs as a task; its result is encoded and sent. `handle_raw` is called with the undecoded
    body as soon as the request has arrived, and answers through the slot when it can: for the hot APIs.
    `handle_long` then is the task for requests so large that they are decoded in a thread; it gets the
    connection, the version, the request and the slot. `error_response(request, version, error code)` is
    the answer when `handle` raised; without one the connection is closed. `advertise_from` is the lowest
    version that ApiVersions shows, if not the lowest served. `unsupported_version()` is the answer, in
    version 0's form, to a version that is not served; without one the connection is closed, as in Kafka.
    `large_answer`: an answer may have more than 64 KiB, so it is made only when there is room for it.
    `alone_from`: bytes of a request from which on it is alone on its connection, at most those from which on every
    request is; for one whose handler gives way with a part of its effects still to come.
    """

    key: int
    name: str
    versions: range
    handle: Handler | None = None
    handle_raw: RawHandler | None = None
    handle_long: LongHandler | None = None
    error_response: ErrorResponse | None = None
    advertise_from: int | None = None
    unsupported_version: Callable[[], Mapping[str, Any]] | None = None
    large_answer: bool = False
    alone_from: int | None = None

    def __post_init__(self) -> None:
        if not self.versions or self.versions.step != 1:
            raise ValueError(f"{self.name}: versions must be a range without gaps")
        if (self.handle is None) == (self.handle_raw is None):
            raise ValueError(f"{self.name}: needs exactly one of handle and handle_raw")
        if self.handle_long is not None and self.handle_raw is None:
            raise ValueError(f"{self.name}: handle_long needs handle_raw")


class Registry:
    """Apis by key; iterates in the order of keys."""

    def __init__(self, apis: list[Api]) -> None:
        self._by_key = {api.key: api for api in sorted(apis, key=lambda api: api.key)}
        if len(self._by_key) != len(apis):
            raise ValueError("two APIs have the same key")

    def __iter__(self) -> Iterator[Api]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: int) -> Api | None:
        return self._by_key.get(key)
