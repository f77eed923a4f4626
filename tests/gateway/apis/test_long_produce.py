"""A Produce that lists thousands of partitions: nobody waits for it, and it is what it would be if it were short."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from core.streams.live import Stream
from gateway.broker import Broker
from gateway.topics.topics import WantedTopic
from gateway.wire.codec import request_codec
from gateway.wire.message import Message
from tests.core.support import until
from tests.gateway.harness import PRODUCE, Client, Part, batch, produce_body, running_broker

pytestmark = pytest.mark.slow

Scenario = Callable[[Broker, Client], Coroutine[Any, Any, None]]

INIT_PRODUCER_ID, DELETE_TOPICS = 22, 20
TOPIC: Final = "wide"
PARTITIONS: Final = 10_000
TURN_S_MAX: Final = 0.05
VERSION: Final = 9
API_VERSIONS: Final = 18


@pytest.fixture(autouse=True)
def own_time_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turns count the processor's time of the loop's thread, so other work on the machine does not."""
    for module in ("dispatch.dispatcher", "dispatch.request_tasks"):
        monkeypatch.setattr(f"gateway.{module}._now", time.thread_time)
    gc.disable()
    yield
    gc.enable()


def run(directory: Path, scenario: Scenario) -> None:
    """Run a scenario against a broker of its own, which has a topic with many partitions."""

    async def main() -> None:
        async with running_broker(directory) as broker:
            (outcome,) = await broker.topics.create([WantedTopic(TOPIC, PARTITIONS)])
            assert isinstance(outcome, Stream)
            client = await Client.connect(broker)
            await scenario(broker, client)
            client.close()

    asyncio.run(main())


def to_all(record: Part, *, acks: int = -1, partitions: int = PARTITIONS) -> dict[str, Any]:
    return produce_body(TOPIC, [(index, record) for index in range(partitions)], acks)


def answers(answer: Message) -> Sequence[Message]:
    return answer.responses[0].partition_responses  # type: ignore[no-any-return]


def ends(broker: Broker) -> set[int]:
    stream = broker.topics.get(TOPIC)
    assert stream is not None
    return {stream.slot(index).durable_end for index in range(PARTITIONS)}


@pytest.mark.parametrize(
    "partitions",
    [pytest.param(1_000, id="decoded on the loop"), pytest.param(PARTITIONS, id="decoded in the thread")],
)
@pytest.mark.parametrize("version", [8, 9, 12])
def test_no_turn_is_long(tmp_path: Path, version: int, partitions: int) -> None:
    """Every partition is stored and answered in the order that was asked, and no turn takes longer than 50 ms."""

    async def scenario(broker: Broker, client: Client) -> None:
        counters = broker.metrics.turn(PRODUCE)
        for base in range(2):
            answer = await client.ask(PRODUCE, version, to_all(batch(b"a"), partitions=partitions))

            assert [a.index for a in answers(answer)] == list(range(partitions))
            assert {(a.error_code, a.base_offset) for a in answers(answer)} == {(0, base)}
        assert counters.longest_s < TURN_S_MAX

    run(tmp_path, scenario)


def test_a_transaction_over_all(tmp_path: Path) -> None:
    """Partitions become part of the transaction by being written to, in steps as well."""

    async def scenario(broker: Broker, client: Client) -> None:
        asked = {"transactional_id": "t", "transaction_timeout": 60_000, "producer_id": -1, "producer_epoch": -1}
        producer = await client.ask(INIT_PRODUCER_ID, 4, asked)
        record = batch(
            b"a",
            producer_id=producer.producer_id,
            producer_epoch=producer.producer_epoch,
            base_sequence=0,
            transactional=True,
        )
        answer = await client.ask(PRODUCE, 12, to_all(record) | {"transactional_id": "t"})

        assert {a.error_code for a in answers(answer)} == {0}
        assert broker.metrics.turn(PRODUCE).longest_s < TURN_S_MAX
        stream = broker.topics.get(TOPIC)
        assert stream is not None
        assert {stream.slot(index).stable_end for index in range(PARTITIONS)} == {0}

    run(tmp_path, scenario)


def test_later_requests_of_the_connection_wait(tmp_path: Path) -> None:
    """Requests pipelined behind a long one, long or short, are stored behind it; other clients go on meanwhile."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        last = PARTITIONS - 1
        sent = [
            client.send(PRODUCE, VERSION, to_all(batch(b"first"))),
            client.send(PRODUCE, VERSION, produce_body(TOPIC, [(last, batch(b"second"))])),
            client.send(PRODUCE, VERSION, to_all(batch(b"third"))),
            client.send(PRODUCE, VERSION, produce_body(TOPIC, [(last, batch(b"fourth"))])),
        ]
        first = asyncio.ensure_future(client.receive(sent[0]))
        overtaken = 0
        while not first.done():
            await other.ask(API_VERSIONS, 2, {})  # which waits for no disk
            overtaken += 1
        following = [await client.receive(one) for one in sent[1:]]

        assert overtaken > 3
        offsets = [answers(answer)[-1].base_offset for answer in (await first, *following)]
        assert offsets == [0, 1, 2, 3]
        other.close()

    run(tmp_path, scenario)


def test_without_an_answer(tmp_path: Path) -> None:
    """With acks=0 all is stored, and the connection goes on; one refused partition closes it, as for a short one."""

    async def scenario(broker: Broker, client: Client) -> None:
        client.send(PRODUCE, VERSION, to_all(batch(b"a"), acks=0))
        after = await client.produce(TOPIC, batch(b"b"), version=VERSION)
        assert after.base_offset == 1

        body = produce_body(TOPIC, [(index, batch(b"c")) for index in range(1, PARTITIONS + 1)], 0)
        client.send(PRODUCE, VERSION, body)
        assert await client.closed()
        assert ends(broker) == {2}

    run(tmp_path, scenario)


def test_of_a_peer_that_is_gone(tmp_path: Path) -> None:
    """A received request is stored, even if no client waits for the answer, and its memory is given back."""

    async def scenario(broker: Broker, client: Client) -> None:
        gone = await Client.connect(broker)
        gone.send(PRODUCE, VERSION, to_all(batch(b"a")))
        await asyncio.sleep(0.05)
        gone.close()
        await until(lambda: ends(broker) == {1})
        server = broker._server
        assert server is not None
        await until(lambda: not server.host.request_budget.used)

    run(tmp_path, scenario)


def test_the_topic_goes_meanwhile(tmp_path: Path) -> None:
    """The partitions that are left are answered as unknown, and nothing is stored anywhere else."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        sent = client.send(PRODUCE, VERSION, to_all(batch(b"a")))
        stream = broker.topics.get(TOPIC)
        assert stream is not None
        while not stream.slot(0).end:  # noqa: ASYNC110 - each turn counts: most of the request is still to come
            await asyncio.sleep(0)
        await other.ask(DELETE_TOPICS, 5, {"topic_names": [TOPIC], "timeout_ms": 10_000})
        codes = [a.error_code for a in answers(await client.receive(sent))]

        assert set(codes) == {0, 3}
        assert codes == sorted(codes)
        other.close()

    run(tmp_path, scenario)


def test_malformed(tmp_path: Path) -> None:
    """A long request that is cut off closes its connection, and the requests that it held up are not begun."""

    async def scenario(broker: Broker, client: Client) -> None:
        body = to_all(batch(b"a"))
        body["topic_data"].append({"name": "x" * 10, "partition_data": []})
        encoded = bytearray(request_codec(PRODUCE, VERSION).encode(body))
        encoded[-14] = 0x7F  # the last topic's name is longer than the request
        client.send_encoded(PRODUCE, VERSION, bytes(encoded))
        client.send(PRODUCE, VERSION, produce_body(TOPIC, [(0, batch(b"b"))]))

        with contextlib.suppress(ConnectionResetError):  # where what it held up had not been read
            assert await client.closed()
        assert ends(broker) == {0}

    run(tmp_path, scenario)
