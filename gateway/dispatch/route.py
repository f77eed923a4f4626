"""One version of one API, with its counters and its codecs, which are made at first use."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

from gateway.dispatch.registry import Api
from gateway.dispatch.time_quota import charge_time
from gateway.metrics.counters import HELD_S, Metrics
from gateway.network.response_slot import Answerable
from gateway.wire.codec import Codec, request_codec, response_codec
from gateway.wire.headers import response_header_is_flexible

if TYPE_CHECKING:
    from gateway.network.connection import Connection

logger = logging.getLogger(__name__)

ASIDE_BYTES_MIN: Final = 16 * 1024
"""Requests from this size on are decoded in a thread, and alone on their connection; 200,000 elements take half a
second."""


class Route:
    """One version of one API."""

    __slots__ = (
        "alone_from",
        "answers",
        "api",
        "aside_from",
        "flexible_answer",
        "flexible_request",
        "latency",
        "name",
        "raw",
        "requests",
        "turn",
        "version",
    )

    def __init__(self, api: Api, version: int, metrics: Metrics) -> None:
        self.api = api
        self.version = version
        self.name = api.name
        self.raw = api.handle_raw
        self.alone_from = ASIDE_BYTES_MIN if api.alone_from is None else min(api.alone_from, ASIDE_BYTES_MIN)
        self.aside_from = sys.maxsize if api.handle_long is None else ASIDE_BYTES_MIN
        self.requests: Codec = request_codec(api.key, version)
        self.answers: Codec = response_codec(api.key, version)
        self.flexible_request = self.requests.flexible
        self.flexible_answer = response_header_is_flexible(api.key, self.answers.flexible)
        self.latency = metrics.latency(api.key)
        self.turn = metrics.turn(api.key)


def took(connection: Connection, route: Answerable, seconds: float, size: int) -> None:
    """Count a request of `size` bytes that held the loop for `seconds`; charge them to the connection's party."""
    connection.turns.spend(connection.party, seconds)
    if connection.services.quotas.is_timed:
        charge_time(connection, seconds)
    counters = route.turn
    if seconds > counters.longest_s:
        counters.longest_s = seconds
    if seconds > HELD_S:
        counters.held += 1
        logger.warning(
            "one request held the event loop",
            extra={
                "api": f"{route.name} v{route.version}",
                "ms": round(seconds * 1000),
                "client": connection.client_id,
                "peer": f"{connection.peer_host}:{connection.peer_port}",
                "request_bytes": size,
            },
        )
