"""The client libraries that can drive a load, behind two small protocols.

Keeps: a client is imported only in the worker that uses it; the message about a missing library names its package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from gateway.bench.plan import Plan

Finished = Callable[[object | None, object], None]
"""Called once for each record, with None or the error, and with a further argument of the client."""

MODULES: Final = {"confluent": "confluent", "kafka-python": "kafka_python", "aiokafka": "aiokafka_"}


class Writer(Protocol):
    """One producer."""

    def send(self, value: bytes, key: bytes | None, finished: Finished) -> None:
        """Hand over a record; wait only while the client's own buffer is full."""

    def poll(self, seconds: float) -> None:
        """Serve acknowledgements for up to that time; return early after the first."""

    def outstanding(self) -> int:
        """Records handed over and not finished."""

    def begin(self) -> None: ...
    def commit(self) -> None: ...


class Reader(Protocol):
    """One consumer with partitions of its own."""

    def take(self, seconds: float) -> list[bytes]:
        """Values of the available records; wait up to that time for the first one."""

    def positions(self) -> Mapping[int, int]:
        """The next offset, by partition."""

    def rewind(self) -> None:
        """Go back to the reader's first offsets."""


class _Module(Protocol):
    def writer(self, plan: Plan, name: str) -> Writer: ...
    def reader(self, plan: Plan, partitions: list[int], offsets: Mapping[int, int]) -> Reader: ...


def load(client: str) -> _Module:
    return cast(_Module, importlib.import_module(f"gateway.bench.clients.{MODULES[client]}"))


def own_names(plan: Plan) -> dict[str, Any]:
    """`--config` in the Python clients' spelling: underscores for dots, and integers for numbers."""
    return {
        key.replace(".", "_"): int(value) if value.lstrip("-").isdigit() else value
        for key, value in plan.settings.items()
    }
