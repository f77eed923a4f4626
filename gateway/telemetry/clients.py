"""The clients that ask for subscriptions and push metrics (KIP-714): when each may do so. Pure: no I/O, no clock.

After Kafka's ClientMetricsManager. Keeps: a client is heard at most once an interval, but for the push that follows a
subscription and the last one before its end; a client whose subscription has changed is told so with its next push. At
most `CLIENTS_MAX` are remembered, the longest silent is forgotten for a new one, and one that was silent for three
intervals, too.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from kio.schema.errors import ErrorCode

from gateway.telemetry.subscriptions import Properties, Subscribed, Subscription, subscribed

CLIENTS_MAX: Final = 16_384
"""Clients that are remembered, some 1 KB each: as many as by Kafka."""
SILENT_MS_MIN: Final = 60_000
INTERVALS_SILENT: Final = 3
"""A client that says nothing for so many of its intervals, a minute at least, is forgotten."""
EXPIRED_AT_ONCE_MAX: Final = 100
"""Forgotten in one look: each request looks."""
RESERVED: Final = frozenset({UUID(int=0), UUID(int=1)})
CODECS: Final = (4, 3, 1, 2)
"""Codecs by their numbers in record batches, in Kafka's order of preference; 0, none, is taken, too."""
FORGIVEN: Final = frozenset({ErrorCode.unknown_subscription_id, ErrorCode.unsupported_compression_type})
"""After these a client asks for its subscription again, at once."""


@dataclass(slots=True, eq=False)
class Client:
    """One client instance. Times in ms of a monotonic clock; -1: never."""

    instance_id: UUID
    properties: Properties
    subscribed: Subscribed
    version: int
    """Of the subscriptions that `subscribed` was made of."""
    heard_ms: int = 0
    asked_ms: int = -1
    pushed_ms: int = -1
    has_asked: bool = False
    """Since its last push."""
    terminating: bool = False
    last_error: ErrorCode = ErrorCode.none

    def may_ask(self, now_ms: int) -> bool:
        last_ms = max(self.asked_ms, self.pushed_ms)
        is_early = last_ms >= 0 and now_ms - last_ms < self.subscribed.interval_ms
        if is_early and self.last_error not in FORGIVEN:
            return False
        self.asked_ms = now_ms
        self.has_asked = True
        return True

    def may_push(self, now_ms: int) -> bool:
        # The first push after a subscription comes at a random moment of the interval.
        follows = self.has_asked or self.pushed_ms < 0
        if not follows and now_ms - self.pushed_ms < self.subscribed.interval_ms:
            return False
        self.pushed_ms = now_ms
        self.has_asked = False
        return True


@dataclass(frozen=True, slots=True)
class Push:
    """A PushTelemetry request, without its metrics."""

    instance_id: UUID | None
    subscription_id: int
    terminating: bool
    codec: int
    size: int


class Clients:
    """All client instances. `forgotten` hears of each that is not remembered any more."""

    def __init__(self, max_bytes: int, forgotten: Callable[[UUID], None]) -> None:
        self.max_bytes = max_bytes
        self._forgotten = forgotten
        self._clients: OrderedDict[UUID, Client] = OrderedDict()  # longest silent first
        self._subscriptions: Sequence[Subscription] = ()
        self._version = 0

    def __len__(self) -> int:
        return len(self._clients)

    def __repr__(self) -> str:
        return f"<Clients {len(self)}, {len(self._subscriptions)} subscriptions>"

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """From now on clients are asked for what these say."""
        self._subscriptions = subscriptions
        self._version += 1

    def ask(self, instance_id: UUID | None, properties: Properties, now_ms: int) -> Client | ErrorCode:
        """A client asks for its subscription; one without an id gets one."""
        if instance_id is None or instance_id.int == 0:
            instance_id = uuid4()
        client = self._known(instance_id, properties, now_ms)
        if not client.may_ask(now_ms):
            return ErrorCode.throttling_quota_exceeded
        client.last_error = ErrorCode.none
        return client

    def push(self, push: Push, properties: Properties, now_ms: int) -> Client | ErrorCode:
        """A client pushes its metrics: the client if they are taken. Errors in Kafka's order."""
        if push.instance_id is None or push.instance_id in RESERVED:
            return ErrorCode.invalid_request
        client = self._known(push.instance_id, properties, now_ms)
        client.last_error = self._judged(client, push, now_ms)
        client.terminating = push.terminating
        return client.last_error or client

    def _judged(self, client: Client, push: Push, now_ms: int) -> ErrorCode:
        if client.terminating:
            return ErrorCode.invalid_request
        if not client.may_push(now_ms) and not push.terminating:
            return ErrorCode.throttling_quota_exceeded
        if push.subscription_id != client.subscribed.id:
            return ErrorCode.unknown_subscription_id
        if push.codec and push.codec not in CODECS:
            return ErrorCode.unsupported_compression_type
        if push.size > self.max_bytes:
            return ErrorCode.telemetry_too_large
        return ErrorCode.none

    def _known(self, instance_id: UUID, properties: Properties, now_ms: int) -> Client:
        self._expire(now_ms)
        client = self._clients.get(instance_id)
        if client is None or client.version != self._version:
            if client is not None:
                properties = client.properties  # of the connection that it came with first, as in Kafka
            properties = properties._replace(instance_id=shown(instance_id))
            wanted = subscribed(self._subscriptions, properties, instance_id)
            client = self._clients[instance_id] = Client(instance_id, properties, wanted, self._version)
        client.heard_ms = now_ms
        self._clients.move_to_end(instance_id)
        while len(self._clients) > CLIENTS_MAX:
            self._forgotten(self._clients.popitem(last=False)[0])
        return client

    def _expire(self, now_ms: int) -> None:
        for _ in range(EXPIRED_AT_ONCE_MAX):
            client = next(iter(self._clients.values()), None)
            if client is None:
                return
            silent_ms = max(SILENT_MS_MIN, INTERVALS_SILENT * client.subscribed.interval_ms)
            if now_ms - client.heard_ms < silent_ms:
                return
            del self._clients[client.instance_id]
            self._forgotten(client.instance_id)


def shown(instance_id: UUID) -> str:
    """An id as Kafka writes it."""
    return urlsafe_b64encode(instance_id.bytes).rstrip(b"=").decode()
