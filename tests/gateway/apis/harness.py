"""Asks a whole broker in this process, over a socket, from tests that are plain functions."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from core.streams.live import Slot, Stream
from gateway.apis import discover
from gateway.broker import Broker
from gateway.records.records import Record, build_batch
from gateway.wire.message import Message
from tests.gateway.harness import Client, running_broker

_T = TypeVar("_T")

KEYS: Final = {api.name: api.key for api in discover()}
WAIT_SECONDS_MAX: Final = 60
NOW: Final = 1_700_000_000_000
_numbers: Final = itertools.count()


class Admin:
    """A broker, its loop, and one connection to it."""

    def __init__(self, directory: Path, settings: Sequence[str]) -> None:
        self._directory = directory
        self._settings = [f"data.dir={directory}", *settings]
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.broker: Broker
        self._start()

    def _start(self) -> None:
        self._exit = AsyncExitStack()
        self.broker = self.run(self._exit.enter_async_context(running_broker(self._directory, *self._settings)))
        self._client = self.run(Client.connect(self.broker))

    def stop(self) -> None:
        self._client.close()
        self.run(self._exit.aclose())

    def restart(self) -> None:
        """Stop cleanly and start on the same data."""
        self.stop()
        self._start()

    def close(self) -> None:
        self.stop()
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self._runner.run(coroutine)

    def ask(self, api: str, version: int, **request: Any) -> Message:
        """The answer to one request."""
        return self.run(self._client.ask(KEYS[api], version, request))

    # The common requests in short

    def create(self, partitions: int = 1, *, name: str | None = None, **configs: str) -> str:
        """A new topic with a name of its own."""
        name = name or new_name()
        self.run(self._client.create(name, partitions, **configs))
        return name

    def produce(self, topic: str, *timestamps: int, partition: int = 0, codec: int = 0, **options: Any) -> None:
        """One batch with a record for each timestamp."""
        records = [Record(offset, at, b"k", b"v") for offset, at in enumerate(timestamps)]
        batch = build_batch(records, codec, **options)
        answer = self.run(self._client.produce(topic, batch, partition=partition))
        assert answer.error_code == 0

    def stream(self, topic: str) -> Stream:
        stream = self.broker.topics.get(topic)
        assert stream is not None
        return stream

    def slot(self, topic: str, partition: int = 0) -> Slot:
        return self.stream(topic).slot(partition)

    def configs(self, topic: str, *names: str) -> dict[str, str]:
        """Values of a topic's configs, as DescribeConfigs tells them."""
        asked = {"resource_type": 2, "resource_name": topic, "configuration_keys": list(names)}
        (result,) = self.ask("DescribeConfigs", 4, resources=[asked]).results
        assert result.error_code == 0
        return {config.name: config.value for config in result.configs}

    def wait_for_topic(self, name: str) -> Stream:
        """A topic that is being created."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while (stream := self.broker.topics.get(name)) is None:
            assert time.monotonic() < deadline, f"topic {name} was not created"
            self.ask("Metadata", 1, topics=[])
        return stream


@contextmanager
def admin_of(directory: Path, *settings: str) -> Iterator[Admin]:
    """A broker of a test's own."""
    admin = Admin(directory, settings)
    try:
        yield admin
    finally:
        admin.close()


def new_name() -> str:
    """A topic's name that no other test uses."""
    return f"topic-{next(_numbers)}"


def code_and_message(result: Message) -> tuple[int, str | None]:
    return result.error_code, result.error_message
