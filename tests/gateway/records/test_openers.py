"""Batches that take long to open hold up their own connection, and nobody else's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from core.streams.writers import new_batch
from gateway.broker import Broker
from gateway.records.openers import LOOP_UNITS_MAX, THREADS, LeavesLoop, Openers, Pace
from gateway.records.record_batch import NONE, ZSTD
from gateway.records.records import Record, build_batch
from gateway.wire.message import Message
from tests.core.support import owner_of, until
from tests.gateway.forking import serving
from tests.gateway.harness import PRODUCE, Client, batch, produce_body, running_broker, values

LIST_OFFSETS: Final = 2
API_VERSIONS: Final = 18
SOON_S: Final = 0.2
ANSWERS_MIN: Final = 30
"""While batches were opened on the event loop, another client got one answer for each of them, seconds later."""
HOSTILE_S_MAX: Final = 60.0


class Remote(Client):
    """A client of a gateway in another process."""

    @classmethod
    async def at(cls, port: int) -> Remote:
        return cls(*await asyncio.open_connection("127.0.0.1", port))


def many(count: int, codec: int = NONE, value: bytes = b"") -> bytearray:
    at = time.time_ns() // 1_000_000
    return build_batch([Record(n, at, b"k", value) for n in range(count)], codec)


def headers(count: int) -> bytearray:
    return build_batch([Record(0, time.time_ns() // 1_000_000, b"k", b"", [("", None)] * count)])


def _times(topic: str, count: int) -> dict[str, Any]:
    asked = [{"partition_index": n, "current_leader_epoch": -1, "timestamp": 1} for n in range(count)]
    return {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": asked}]}


async def produced(client: Client, topic: str, sent: bytearray) -> None:
    for _ in range(2):
        answer = await client.ask(PRODUCE, 8, produce_body(topic, [(0, sent)]))
        assert answer.responses[0].partition_responses[0].error_code in (0, 10, 87)


async def pipelined(client: Client, topic: str, sent: bytearray) -> None:
    body = produce_body(topic, [(0, sent)])
    for one in [client.send(PRODUCE, 8, body) for _ in range(100)]:
        answer = await client.receive(one)
        assert answer.responses[0].partition_responses[0].error_code == 0


async def looked_up(client: Client, topic: str, sent: bytearray) -> None:
    for partition in range(4):
        answer = await client.ask(PRODUCE, 8, produce_body(topic, [(partition, sent)]))
        assert answer.responses[0].partition_responses[0].error_code == 0
    found = await client.ask(LIST_OFFSETS, 7, _times(topic, 4))
    assert {p.error_code for p in found.topics[0].partitions} == {0}


ATTACKS: Final[dict[str, tuple[dict[str, str], Callable[..., Any], Callable[[], bytearray]]]] = {
    "tiny records to another codec": ({"compression_type": "gzip"}, produced, lambda: many(190_000, ZSTD)),
    "a bomb to a compacted topic": ({"cleanup_policy": "compact"}, produced, lambda: many(60_000, ZSTD, bytes(1_000))),
    "a bomb to another codec": ({"compression_type": "gzip"}, produced, lambda: many(60_000, ZSTD, bytes(1_000))),
    "many small ones at once": ({"cleanup_policy": "compact"}, pipelined, lambda: many(4_000, ZSTD)),
    "one record of headers": ({}, produced, lambda: headers(400_000)),
    "times looked up in bombs": ({}, looked_up, lambda: many(60_000, ZSTD, bytes(1_000))),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_others_are_served_meanwhile(tmp_path: Path, attack: str) -> None:
    """While a client has batches opened that take long, over and over, another one's requests are answered at once."""
    config, send, make = ATTACKS[attack]
    sent = make()

    async def main(port: int) -> list[float]:
        hostile, honest = await Remote.at(port), await Remote.at(port)
        await hostile.create("t", 8, **config)
        waits: list[float] = []

        async def attack() -> None:
            await send(hostile, "t", sent)
            while len(waits) < ANSWERS_MIN:
                await send(hostile, "t", sent)

        async with asyncio.timeout(HOSTILE_S_MAX):
            attacking = asyncio.create_task(attack())
            while not attacking.done():
                begun = time.monotonic()
                await honest.ask(API_VERSIONS, 0, {})
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.001)
            await attacking
        hostile.close()
        honest.close()
        return sorted(waits)

    with serving(tmp_path) as gateway:
        port = int(gateway.ready()["kafka"][0].rpartition(":")[2])
        waits = asyncio.run(main(port))

    assert len(waits) >= ANSWERS_MIN
    assert waits[len(waits) * 9 // 10] < SOON_S


def run(directory: Path, scenario: Callable[[Broker, Client], Any], *settings: str) -> None:
    async def main() -> None:
        async with running_broker(directory, *settings) as broker:
            client = await Client.connect(broker)
            await client.create("zipped", 2, compression_type="gzip")
            await scenario(broker, client)
            client.close()

    asyncio.run(main())


def offset_of(answer: Message) -> tuple[int, int]:
    one = answer.responses[0].partition_responses[0]
    return one.error_code, one.base_offset


def test_requests_of_a_connection_keep_their_order(tmp_path: Path) -> None:
    """A batch sent behind one that is opened off the loop is stored behind it."""
    large = many(LOOP_UNITS_MAX + 1)

    async def scenario(broker: Broker, client: Client) -> None:
        bodies = [produce_body("zipped", [(0, one)]) for one in (batch(b"a"), large, batch(b"b"), large, batch(b"c"))]
        sent = [client.send(PRODUCE, 8, body) for body in bodies]
        answers = [offset_of(await client.receive(one)) for one in sent]

        size = LOOP_UNITS_MAX + 1
        assert answers == [(0, 0), (0, 1), (0, size + 1), (0, size + 2), (0, 2 * size + 2)]
        fetched = await client.fetch(("zipped", 0, size + 1))
        assert values(fetched.responses[0].partitions[0].records)[0] == (size + 1, b"b")

    run(tmp_path, scenario)


def test_idempotence_holds_across_openings(tmp_path: Path) -> None:
    """Sequences are checked after a batch was opened: no gap, and a batch that comes twice is stored once."""

    async def scenario(broker: Broker, client: Client) -> None:
        size = LOOP_UNITS_MAX + 1
        records = [Record(n, time.time_ns() // 1_000_000, b"k", b"") for n in range(size)]
        parts = [
            build_batch(records, producer_id=7, producer_epoch=0, base_sequence=0),
            batch(b"next", producer_id=7, producer_epoch=0, base_sequence=size),
            build_batch(records, producer_id=7, producer_epoch=0, base_sequence=0),
        ]
        sent = [client.send(PRODUCE, 8, produce_body("zipped", [(0, one)])) for one in parts]
        assert [offset_of(await client.receive(one)) for one in sent] == [(0, 0), (0, size), (0, 0)]

    run(tmp_path, scenario)


def test_the_rest_of_a_request(tmp_path: Path) -> None:
    """Partitions of one request are answered together and in its order, opened or not, stored or not."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("compacted", 5, cleanup_policy="compact")
        at = time.time_ns() // 1_000_000
        keyless = build_batch([Record(n, at, None if n == 9_000 else b"k", b"") for n in range(10_000)], ZSTD)
        parts = [(0, many(10_000)), (1, keyless), (2, batch(b"a", timestamp=at)), (9, batch(b"b")), (3, many(9_000))]
        answer = await client.ask(PRODUCE, 8, produce_body("compacted", parts))

        told = [(p.index, p.error_code, p.base_offset) for p in answer.responses[0].partition_responses]
        assert told == [(0, 0, 0), (1, 87, -1), (2, 0, 0), (9, 3, -1), (3, 0, 0)]
        assert [e.batch_index for e in answer.responses[0].partition_responses[1].record_errors] == [9_000]

    run(tmp_path, scenario)


def test_a_topic_that_goes_meanwhile(tmp_path: Path) -> None:
    """A topic that was deleted while a batch for it was open is not written to."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        with held(broker.openers) as go:
            sent = client.send(PRODUCE, 8, produce_body("zipped", [(0, many(10_000))]))
            await until(lambda: broker.openers.waiting > THREADS)
            deleted = await other.ask(20, 3, {"topic_names": ["zipped"], "timeout": 10_000})
            assert deleted.responses[0].error_code == 0
            go.set()
            assert offset_of(await client.receive(sent)) == (3, -1)
        other.close()

    run(tmp_path, scenario)


def test_a_partition_that_moves_meanwhile(tmp_path: Path) -> None:
    """A batch that was opened while its partition went to another container is stored there."""

    async def scenario(broker: Broker, client: Client) -> None:
        stream = broker.topics.get("zipped")
        assert stream is not None
        (target,) = broker.store.containers.keys() - {stream.slot(0).container_id}
        with held(broker.openers) as go:
            sent = client.send(PRODUCE, 8, produce_body("zipped", [(0, many(10_000))]))
            await until(lambda: broker.openers.waiting > THREADS)
            await broker.store.move_slot(stream, 0, target)
            go.set()
            assert offset_of(await client.receive(sent)) == (0, 0)
        assert (stream.slot(0).container_id, stream.slot(0).durable_end) == (target, 10_000)

    run(tmp_path, scenario, "containers=2")


def test_what_a_former_life_of_the_partition_has_not_stored(tmp_path: Path) -> None:
    """Its container went with the first try of a batch on its way, and came back without: the second try, which was
    opened meanwhile, is no duplicate, or it would be acknowledged and nowhere."""

    async def scenario(broker: Broker, client: Client) -> None:
        stream = broker.topics.get("zipped")
        assert stream is not None
        former, size = stream.slot(0), LOOP_UNITS_MAX + 1
        records = [Record(n, time.time_ns() // 1_000_000, b"k", b"") for n in range(size)]
        second_try = build_batch(records, producer_id=7, producer_epoch=0, base_sequence=0)
        with held(broker.openers) as go:
            sent = client.send(PRODUCE, 8, produce_body("zipped", [(0, second_try)]))
            await until(lambda: broker.openers.waiting > THREADS)
            former.record_writer(7, new_batch(0, 0, 0, size, 0), 0)
            stream.adopt(owner_of(former).make_slot(stream, 0))
            go.set()
            assert offset_of(await client.receive(sent)) == (0, 0)
        assert stream.slot(0).durable_end == size

    run(tmp_path, scenario)


@contextmanager
def held(openers: Openers) -> Iterator[threading.Event]:
    """Keep the threads busy until the event is set."""
    go = threading.Event()

    def wait(pace: Pace) -> None:
        go.wait(20)

    tasks = [asyncio.get_running_loop().create_task(openers.run(wait)) for _ in range(THREADS)]
    try:
        yield go
    finally:
        go.set()
        assert len(tasks) == THREADS


def test_a_client_that_goes_meanwhile(tmp_path: Path) -> None:
    """A connection that closes while its batch is open leaves nothing behind, and the batch is stored."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        for _ in range(3):
            other.send(PRODUCE, 8, produce_body("zipped", [(1, many(10_000))]))
        await client.ask(API_VERSIONS, 0, {})
        other.close()
        server = broker._server
        assert server is not None
        await until(lambda: not (broker.openers.waiting or server.host.request_budget.used))
        assert offset_of(await client.ask(PRODUCE, 8, produce_body("zipped", [(0, batch(b"a"))]))) == (0, 0)

    run(tmp_path, scenario)


def test_the_loop_does_little_in_one_turn() -> None:
    """Work on the loop is counted over a whole turn, however many requests and batches it has."""

    async def scenario() -> None:
        openers = Openers()
        openers.on_loop().spend(LOOP_UNITS_MAX - 1)
        with pytest.raises(LeavesLoop):
            openers.on_loop().begin(2)
        with pytest.raises(LeavesLoop):
            openers.on_loop().spend(2)
        await asyncio.sleep(0)
        openers.on_loop().spend(LOOP_UNITS_MAX)
        await openers.close()

    asyncio.run(scenario())
