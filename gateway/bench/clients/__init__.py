"""The client libraries that can carry a load, behind two small protocols.

Keeps: a client is imported only in the worker that uses it; whoever lacks a library is told which one to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast

from gateway.bench.plan import Plan

Finished = Callable[[object | None, object], None]
"""Called once for each record, with None or what went wrong, and with anything else that the client has to say."""

MODULES: Final = {"confluent": "confluent", "kafka-python": "kafka_python", "aiokafka": "aiokafka_"}


class Writer(Protocol):
    """One producer."""

    def send(self, value: bytes, key: bytes | None, finished: Finished) -> None:
        """Hand over a record; waits only while the client's own buffer is full."""

    def poll(self, seconds: float) -> None:
        """Serve what has been acknowledged; returns early when something was."""

    def outstanding(self) -> int:
        """Records handed over and not finished."""

    def begin(self) -> None: ...
    def commit(self) -> None: ...


class Reader(Protocol):
    """One consumer with partitions of its own."""

    def take(self, seconds: float) -> list[bytes]:
        """Values of the records that are there; waits so long for a first one."""

    def positions(self) -> Mapping[int, int]:
        """The next offset, by partition."""

    def rewind(self) -> None:
        """Go back to where the reader began."""


class _Module(Protocol):
    def writer(self, plan: Plan, name: str) -> Writer: ...
    def reader(self, plan: Plan, partitions: list[int], offsets: Mapping[int, int]) -> Reader: ...


def load(client: str) -> _Module:
    return cast(_Module, importlib.import_module(f"gateway.bench.clients.{MODULES[client]}"))


def own_names(plan: Plan) -> dict[str, Any]:
    """`--config` as the Python clients spell it: dots are underscores, and numbers are numbers."""
    return {
        key.replace(".", "_"): int(value) if value.lstrip("-").isdigit() else value
        for key, value in plan.settings.items()
    }
