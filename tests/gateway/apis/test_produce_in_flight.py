"""Batches that a producer has sent behind one that is refused: it must be able to send all of them again, in order.

On OUT_OF_ORDER_SEQUENCE_NUMBER librdkafka gives up its sequences, in all partitions. A batch that may be stored, and
whose retry would have been a duplicate, gets a sequence of its own then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import confluent_kafka
import pytest

from compat_tests.histories.client_log import ClientLog
from core.streams.live import Slot
from core.streams.writers import gap_after
from gateway.broker import Broker
from tests.core.support import Gate, owner_of, until
from tests.core.test_several_containers import failing
from tests.gateway.harness import PRODUCE, Client, batch, produce_body, running_broker, values

pytestmark = pytest.mark.slow

NOT_LEADER, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER, STORAGE_ERROR = 6, 19, 45, 56
WITHIN_S: Final = 60.0
RESENT_AFTER_S: Final = 1.0


@contextmanager
def handed_over(broker: Broker, slot: Slot) -> Iterator[None]:
    """As of a container that was not certainly ours for a moment."""
    broker.store.is_ours = lambda container_id: container_id != slot.container_id
    yield
    broker.store.is_ours = None


@contextmanager
def about_to_move(broker: Broker, slot: Slot) -> Iterator[None]:
    owner_of(slot).freeze(slot, 1)
    yield
    owner_of(slot).thaw(slot)


@contextmanager
def full(broker: Broker, slot: Slot) -> Iterator[None]:
    owner_of(slot).refused = {slot: "long-term storage does not keep up"}
    yield
    owner_of(slot).refused = {}


@contextmanager
def full_of_producers(broker: Broker, slot: Slot) -> Iterator[None]:
    known, limit = owner_of(slot).known_writers, owner_of(slot).known_writers.limit
    known.limit = 0
    yield
    known.limit = limit


Reason = tuple[Callable[[Broker, Slot], AbstractContextManager[None]], int]

PASSING: Final[dict[str, Reason]] = {
    "another node has it": (handed_over, NOT_LEADER),
    "it is about to move": (about_to_move, NOT_LEADER),
    "the log is full": (full, NOT_ENOUGH_REPLICAS),
}
NEW: Final[dict[str, Reason]] = {**PASSING, "there are too many producers": (full_of_producers, NOT_ENOUGH_REPLICAS)}
"""For a producer that the partition does not know."""


def sequenced(sequence: int) -> bytearray:
    return batch(b"%d" % sequence, producer_id=7, producer_epoch=0, base_sequence=sequence)


async def codes(client: Client, *sequences: int) -> list[int]:
    """The answers to batches that are all under way together."""
    sent = [client.send(PRODUCE, 8, produce_body("t", [(0, sequenced(sequence))])) for sequence in sequences]
    answers = [await client.receive(one) for one in sent]
    return [answer.responses[0].partition_responses[0].error_code for answer in answers]


def slot_of(broker: Broker, number: int = 0) -> Slot:
    stream = broker.topics.get("t")
    assert stream is not None
    return stream.slot(number)


@pytest.mark.parametrize(("name", "is_known"), [*((name, True) for name in PASSING), *((name, False) for name in NEW)])
def test_all_that_was_under_way_is_sent_again(tmp_path: Path, name: str, is_known: bool) -> None:
    """Whether the reason has passed by then or not: each gets the code of the first one, and nothing is stored."""
    reason, code = NEW[name]

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t")
            first = int(is_known)
            assert await codes(client, *range(first)) == [0] * first
            with reason(broker, slot_of(broker)):
                assert await codes(client, *range(first, 3)) == [code] * (3 - first)
            assert await codes(client, 3, 4) == [code] * 2, "sent before the producer has heard of the first"
            assert slot_of(broker).end == first
            assert await codes(client, *range(first, 5)) == [0] * (5 - first)
            fetched = await client.fetch(("t", 0, 0))
            assert values(fetched.responses[0].partitions[0].records) == [(n, b"%d" % n) for n in range(5)]
            client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("name", PASSING)
def test_whoever_gives_up_a_batch_hears_of_the_gap(tmp_path: Path, name: str) -> None:
    reason, code = PASSING[name]

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t")
            assert await codes(client, 0) == [0]
            with reason(broker, slot_of(broker)):
                assert await codes(client, 1) == [code]
            assert await codes(client, 2, 3, 4, 5, 6) == [code] * 4 + [OUT_OF_ORDER]
            client.close()

    asyncio.run(scenario())


def test_a_new_producer_may_send_its_first_batch_last(tmp_path: Path) -> None:
    """The one that was refused was sent to a new leader while an older one had not answered the first ones."""

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t")
            with handed_over(broker, slot_of(broker)):
                assert await codes(client, 5, 6, 7, 8, 9) == [NOT_LEADER] * 5
                assert await codes(client, 0) == [NOT_LEADER]
            assert await codes(client, *range(10)) == [0] * 10
            client.close()

    asyncio.run(scenario())


def test_a_producer_whose_newest_batches_are_lost_begins_with_what_was_refused(tmp_path: Path) -> None:
    """The partition was made from long-term storage, and takes any sequence of a producer that it knows."""

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t")
            assert await codes(client, 0) == [0]
            writers = slot_of(broker).writers
            assert writers is not None
            writers[7].batches.append(gap_after(writers[7].batches[-1]))
            with full(broker, slot_of(broker)):
                assert await codes(client, 5) == [NOT_ENOUGH_REPLICAS]
            assert await codes(client, 6, 7) == [NOT_ENOUGH_REPLICAS] * 2
            assert await codes(client, 5, 6, 7) == [0] * 3
            client.close()

    asyncio.run(scenario())


def test_a_gap_without_a_reason_is_one(tmp_path: Path) -> None:
    """Of a batch that never came, and of one that will not come again."""

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t", **{"max.message.bytes": "2000"})
            assert await codes(client, 0, 2) == [0, OUT_OF_ORDER]
            large = batch(b"x" * 3_000, producer_id=7, producer_epoch=0, base_sequence=1)
            assert (await client.produce("t", large)).error_code == 10
            assert await codes(client, 2) == [OUT_OF_ORDER]
            client.close()

    asyncio.run(scenario())


def test_nothing_is_out_of_order_in_a_log_that_failed(tmp_path: Path) -> None:
    """Its batches may be stored or not: whoever has the log next can tell when they are sent again."""

    async def scenario() -> None:
        async with running_broker(tmp_path, "containers=4") as broker:
            client = await Client.connect(broker)
            await client.create("t", 4)
            container = next(owner_of(slot_of(broker, n)) for n in range(4) if slot_of(broker, n).container_id)
            number = next(n for n in range(4) if owner_of(slot_of(broker, n)) is container)

            async def code_of(sequence: int) -> int:
                return int((await client.produce("t", sequenced(sequence), partition=number)).error_code)

            assert await code_of(0) == 0
            with failing(container.id):
                assert await code_of(1) == STORAGE_ERROR
            assert [await code_of(sequence) for sequence in (2, 3, 4)] == [STORAGE_ERROR] * 3
            client.close()

    asyncio.run(scenario())


def test_librdkafka_stores_once_what_was_stored_and_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One partition has stored a batch whose answer the client will never get, and another one refuses two in a row.

    By OUT_OF_ORDER_SEQUENCE_NUMBER for the second one the client would raise its epoch, and send the first partition's
    batch anew before it has sent it again.
    """
    log = ClientLog()

    async def scenario() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t", 2)
            stored, refusing = slot_of(broker, 0), slot_of(broker, 1)
            producer = confluent_kafka.Producer(
                {
                    **log.settings,
                    "bootstrap.servers": f"127.0.0.1:{broker._kafka[0].port}",
                    "enable.idempotence": True,
                    "linger.ms": 0,
                    "batch.num.messages": 1,
                    "reconnect.backoff.ms": 1,
                    "retry.backoff.ms": int(RESENT_AFTER_S * 1_000),
                    "retry.backoff.max.ms": int(RESENT_AFTER_S * 1_000),
                }
            )

            async def delivered() -> None:
                deadline = time.monotonic() + WITHIN_S
                while len(producer):
                    assert time.monotonic() < deadline, list(log.lines)[-20:]
                    producer.poll(0)
                    await asyncio.sleep(0.01)

            for partition in (0, 1):
                producer.produce("t", b"begin", partition=partition)
            await delivered()
            gate = Gate(monkeypatch)
            producer.produce("t", b"once", partition=0)
            await until(lambda: stored.end == 2)
            for connection in broker._server.connections:  # type: ignore[union-attr]
                connection.close()
            with about_to_move(broker, refusing):
                for value in (b"first", b"second"):
                    producer.produce("t", value, partition=1)
                await until(lambda: [one.message for one in caplog.records].count("produce refused") >= 2)
                assert stored.durable_end == 1
                gate.open.set()
            await delivered()
            again = await Client.connect(broker)
            fetched = await again.fetch(("t", 0, 0), ("t", 1, 0))
            assert [
                [value for _, value in values(partition.records)] for partition in fetched.responses[0].partitions
            ] == [[b"begin", b"once"], [b"begin", b"first", b"second"]]
            assert not log.raised
            again.close()

    asyncio.run(scenario())
