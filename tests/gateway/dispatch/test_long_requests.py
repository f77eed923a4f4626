"""Requests with lists as long as a message may hold, for every list of every API: nobody else waits for them.

Every API that is served is found by looking, and so are the lists of its newest version.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import uvloop

from core.streams.live import Stream
from gateway.apis import discover
from gateway.broker import Broker
from gateway.dispatch.registry import Api
from gateway.topics.topics import WantedTopic
from gateway.wire.codec import request_codec
from gateway.wire.schema import FieldSpec, StructSpec
from tests.gateway.harness import running_broker
from tests.gateway.network.harness import Client, heartbeat, request

pytestmark = pytest.mark.slow

ITEMS: Final = 30_000
TURN_S_MAX: Final = 0.05
TOPIC: Final = "wide"
PARTITIONS: Final = 1_000
ANSWER_S: Final = 30
WAITS: Final = {11, 14}
"""JoinGroup and SyncGroup may wait for others."""

Path_ = tuple[str, ...]


def lists_of(struct: StructSpec) -> Iterator[Path_]:
    """The path of every list in a message."""
    for field in struct.fields:
        if field.is_array:
            yield (*struct.path, field.name)
        if field.struct is not None:
            yield from lists_of(field.struct)


def filled(struct: StructSpec, long: Path_, number: int = 0) -> dict[str, Any]:
    """A message in which the list at `long` has ITEMS items, and each list on the way to it one."""
    return {field.name: value(struct, field, long, number) for field in struct.fields if field.tag is None}


def value(struct: StructSpec, field: FieldSpec, long: Path_, number: int) -> Any:
    here = (*struct.path, field.name)
    if not field.is_array:
        return one(struct, field, long, number)
    if here == long:
        return [one(struct, field, long, item) for item in range(ITEMS)]
    return [one(struct, field, long, 0)] if long[: len(here)] == here else []


def one(struct: StructSpec, field: FieldSpec, long: Path_, number: int) -> Any:
    """Names are those of the topic above the long list, and different ones in it."""
    if field.struct is not None:
        if field.is_array or not field.nullable:
            return filled(field.struct, long, number)
        return None
    match field.kind:
        case "string":
            is_in_list = bool(number) or (*struct.path, field.name) == long
            return f"n{number}" if is_in_list else None if field.nullable and not struct.path else TOPIC
        case "bytes" | "records":
            return None if field.nullable else b""
        case "uuid" | "bool":
            return field.default
        case _:
            if field.name == "acks":
                return 1  # 0 has no answer
            return number % PARTITIONS if "partition" in field.name or "index" in field.name else field.default or 0


@dataclass
class Gateway:
    """A whole broker in this process, and the loop that it runs on."""

    broker: Broker
    runner: asyncio.Runner

    def ask(self, api: Api, values: dict[str, Any]) -> float:
        """The longest turn of a request, in seconds."""
        counters = self.broker.metrics.turn(api.key)
        counters.longest_s = 0.0
        self.runner.run(self._ask(api, values))
        return counters.longest_s

    async def _ask(self, api: Api, values: dict[str, Any]) -> None:
        """Send a request and take its answer; another client is served meanwhile."""
        port = self.broker._kafka[0].port
        client, other = await Client.connect(port), await Client.connect(port)
        client.send(request(api.key, api.versions[-1], values, client_id="long"))
        answer = asyncio.ensure_future(client.frame())
        async with asyncio.timeout(ANSWER_S):
            while not answer.done():
                other.send(heartbeat("other", client_id="other"))
                await other.frame()
                if api.key in WAITS:
                    break
        if answer.done():
            answer.exception()  # some are refused by closing the connection
        answer.cancel()
        client.close()
        other.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        serving = running_broker(tmp_path_factory.mktemp("long"), "auto.create.topics.enable=false")
        broker = runner.run(serving.__aenter__())
        try:
            (outcome,) = runner.run(broker.topics.create([WantedTopic(TOPIC, PARTITIONS)]))
            assert isinstance(outcome, Stream)
            yield Gateway(broker, runner)
        finally:
            runner.run(serving.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def own_time_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turns count the processor's time of the loop's thread, so other work on the machine does not; nor does the
    collector, which would also go through what the test made."""
    for module in ("gateway.dispatch.request_tasks", "gateway.dispatch.dispatcher", "gateway.apis.fetch"):
        monkeypatch.setattr(f"{module}._now", time.thread_time)
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("api", discover(), ids=lambda api: api.name)
def test_nobody_waits_for_a_long_list(api: Api, gateway: Gateway) -> None:
    """Whatever list of a request is long, no part of the work on it keeps the event loop."""
    codec = request_codec(api.key, api.versions[-1])
    for long in lists_of(codec.struct):
        values = filled(codec.struct, long)
        turn_s = gateway.ask(api, values)

        assert turn_s < TURN_S_MAX, f"{turn_s * 1000:.0f} ms for {'.'.join(long)}"
