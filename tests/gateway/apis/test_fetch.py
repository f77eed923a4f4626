"""Fetch: limits, waiting, errors."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.apis import fetch
from gateway.broker import Broker
from gateway.records.record_batch import ZSTD
from gateway.wire.message import Message
from tests.gateway.harness import FETCH, Client, batch, fetch_body, running_broker, split, values

pytestmark = pytest.mark.slow

Scenario = Callable[[Broker, Client], Coroutine[Any, Any, None]]
DELETE_TOPICS, DELETE_RECORDS = 20, 21


def run(directory: Path, scenario: Scenario, *settings: str, uv: bool = False) -> None:
    """Run a scenario against a broker of its own, with topic t of four partitions. `uv`: on the loop of a real one."""

    async def main() -> None:
        async with running_broker(directory, *settings) as broker:
            client = await Client.connect(broker)
            await client.create("t", 4)
            await scenario(broker, client)
            client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uv else None) as runner:
        runner.run(main())


def partitions(answer: Message) -> dict[int, Message]:
    """The partitions of an answer about one topic, by number."""
    return {p.partition_index: p for topic in answer.responses for p in topic.partitions}


def found(answer: Message) -> dict[int, list[tuple[int, bytes | None]]]:
    """Partition to (offset, value), where there are any."""
    read = {index: values(p.records) for index, p in partitions(answer).items()}
    return {index: records for index, records in read.items() if records}


@pytest.mark.parametrize("version", range(4, 19))
def test_every_version_reads(tmp_path: Path, version: int) -> None:
    """Produced records come back, by name or by id, with high watermark and log start."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a", b"b"))
        stream = broker.topics.get("t")
        assert stream is not None
        answer = await client.fetch(("t", 0, 0), version=version, ids={"t": stream.uuid})
        one = partitions(answer)[0]

        assert values(one.records) == [(0, b"a"), (1, b"b")]
        assert (one.error_code, one.high_watermark, one.last_stable_offset) == (0, 2, 2)
        assert one.aborted_transactions is None

    run(tmp_path, scenario)


def test_an_offset_inside_a_batch_returns_the_whole_batch(tmp_path: Path) -> None:
    """The client skips records that it has."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a", b"b", b"c"))
        answer = await client.fetch(("t", 0, 2))

        assert found(answer) == {0: [(0, b"a"), (1, b"b"), (2, b"c")]}

    run(tmp_path, scenario)


def test_the_first_batch_is_returned_whatever_the_limits(tmp_path: Path) -> None:
    """One whole batch of the first partition that has any; from then on limits apply (KIP-74)."""

    async def scenario(broker: Broker, client: Client) -> None:
        for index in range(3):
            await client.produce("t", batch(b"x" * 1000), partition=index)
            await client.produce("t", batch(b"y" * 1000), partition=index)
        tiny = await client.fetch(("t", 3, 0), ("t", 0, 0), ("t", 1, 0), max_bytes=10, partition_max_bytes=10)
        room = await client.fetch(("t", 0, 0), ("t", 1, 0), max_bytes=3_000, partition_max_bytes=10)

        assert {i: len(split(p.records)) for i, p in partitions(tiny).items()} == {3: 0, 0: 1, 1: 0}
        assert {i: len(split(p.records)) for i, p in partitions(room).items()} == {0: 1, 1: 0}

    run(tmp_path, scenario)


def test_at_the_end_there_is_nothing_and_no_error(tmp_path: Path) -> None:
    """Empty records, never null; beyond the end, and before the start, OFFSET_OUT_OF_RANGE with -1 everywhere."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a"))
        await client.produce("t", batch(b"b"))
        trim = {"topics": [{"name": "t", "partitions": [{"partition_index": 0, "offset": 1}]}], "timeout": 1000}
        assert (await client.ask(DELETE_RECORDS, 1, trim)).topics[0].partitions[0].low_watermark == 1
        at_end = partitions(await client.fetch(("t", 0, 2)))[0]
        beyond = partitions(await client.fetch(("t", 0, 3)))[0]
        before = partitions(await client.fetch(("t", 0, 0)))[0]

        assert (at_end.error_code, at_end.high_watermark, at_end.log_start_offset) == (0, 2, 1)
        assert at_end.records is not None
        assert len(at_end.records) == 0
        for refused in (beyond, before):
            assert (refused.error_code, refused.high_watermark, refused.log_start_offset) == (1, -1, -1)

    run(tmp_path, scenario)


def test_leader_epochs(tmp_path: Path) -> None:
    """-1 is no check; lower is fenced (74), higher unknown (75); both answer at once."""

    async def scenario(broker: Broker, client: Client) -> None:
        broker.store.home.epoch = 5
        codes = [
            partitions(await client.fetch(("t", 0, 0), leader_epoch=epoch, max_wait=0 if epoch in (-1, 5) else 9_000))[
                0
            ].error_code
            for epoch in (-1, 4, 5, 6)
        ]

        assert codes == [0, 74, 0, 75]

    run(tmp_path, scenario)


def test_read_committed_gets_a_list_of_aborted_transactions(tmp_path: Path) -> None:
    """Empty where there are none; read_uncommitted gets null."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a"))
        committed = partitions(await client.fetch(("t", 0, 0), isolation_level=1))[0]

        assert committed.aborted_transactions == []
        assert values(committed.records) == [(0, b"a")]

    run(tmp_path, scenario)


def test_zstd_topics_need_version_10(tmp_path: Path) -> None:
    """UNSUPPORTED_COMPRESSION_TYPE to older consumers, by the topic's setting; a producer's own codec they may read."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("z", compression_type="zstd")
        for topic in ("z", "t"):
            await client.produce(topic, batch(b"a", codec=ZSTD))
        old, new = [await client.fetch(("z", 0, 0), ("t", 0, 0), version=version) for version in (9, 10)]

        assert {t.topic: t.partitions[0].error_code for t in old.responses} == {"z": 76, "t": 0}
        assert {t.topic: t.partitions[0].error_code for t in new.responses} == {"z": 0, "t": 0}

    run(tmp_path, scenario)


def test_nobody_replicates_from_here(tmp_path: Path) -> None:
    """A fetch that says it is a replica's is refused."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a"))
        answer = await client.fetch(("t", 0, 0), replica_id=0)

        assert (partitions(answer)[0].error_code, found(answer)) == (6, {})

    run(tmp_path, scenario)


def test_waiting_ends_with_data(tmp_path: Path) -> None:
    """A fetch that waits is answered as soon as there is something, long before its time is up."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0), ("t", 1, 0)], max_wait=15_000))
        await other.produce("t", batch(b"a"), partition=1)
        answer = await client.receive(waiting)

        assert found(answer) == {1: [(0, b"a")]}
        assert broker.topics.get("t").slot(0).watchers is None  # type: ignore[union-attr]
        other.close()

    run(tmp_path, scenario)


def test_waiting_ends_with_a_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would answer the fetch that meets it: its connection ends, and the producer that woke it hears nothing."""
    waits = asyncio.Event()
    choose = fetch._Fetch.choose

    def choosing(one: fetch._Fetch, *args: Any) -> None:
        if waits.is_set():
            raise ValueError("a defect")
        waits.set()
        choose(one, *args)

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        monkeypatch.setattr(fetch._Fetch, "choose", choosing)
        client.send(FETCH, 11, fetch_body([("t", 0, 0)], max_wait=15_000))
        await waits.wait()
        assert (await other.produce("t", batch(b"a"))).error_code == 0
        assert await client.closed()
        monkeypatch.undo()

        assert found(await other.fetch(("t", 0, 0))) == {0: [(0, b"a")]}
        assert broker.topics.get("t").slot(0).watchers is None  # type: ignore[union-attr]
        other.close()

    run(tmp_path, scenario)


def test_waiting_ends_with_enough_bytes(tmp_path: Path) -> None:
    """Less than min_bytes wakes nobody; all gathered bytes are returned."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0), ("t", 1, 0)], max_wait=15_000, min_bytes=2_000))
        await other.produce("t", batch(b"x" * 700), partition=0)
        await other.produce("t", batch(b"y" * 700), partition=1)
        early = await other.fetch(("t", 0, 0))
        await other.produce("t", batch(b"z" * 700), partition=0)
        answer = await client.receive(waiting)

        assert len(found(early)[0]) == 1
        assert {index: len(records) for index, records in found(answer).items()} == {0: 2, 1: 1}
        other.close()

    run(tmp_path, scenario)


def test_waiting_ends_with_time(tmp_path: Path) -> None:
    """When nothing comes, the answer is empty and without error."""

    async def scenario(broker: Broker, client: Client) -> None:
        answer = await client.fetch(("t", 0, 0), max_wait=50)

        assert (found(answer), partitions(answer)[0].error_code) == ({}, 0)

    run(tmp_path, scenario)


def test_waiting_ends_with_deletion(tmp_path: Path) -> None:
    """A topic that goes while a fetch waits: UNKNOWN_TOPIC_OR_PARTITION, at once."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0)], max_wait=15_000))
        await other.ask(DELETE_TOPICS, 4, {"topic_names": ["t"], "timeout": 1000})
        answer = await client.receive(waiting)

        assert partitions(answer)[0].error_code == 3
        other.close()

    run(tmp_path, scenario)


def test_a_client_that_leaves_while_it_waits_leaves_nothing(tmp_path: Path) -> None:
    """The watchers of a fetch are gone with the connection, not when its time is up."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        other.send(FETCH, 11, fetch_body([("t", 0, 0)], max_wait=2**31 - 1))
        slot = broker.topics.get("t").slot(0)  # type: ignore[union-attr]
        await _until(lambda: slot.watchers is not None)
        other.close()
        await _until(lambda: slot.watchers is None)

    run(tmp_path, scenario)


def test_a_stop_answers_those_who_wait(tmp_path: Path) -> None:
    """A long poll does not hold up a clean stop."""

    async def main() -> Message:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.create("t", 4)
            waiting = client.send(FETCH, 11, fetch_body([("t", 0, 0)], max_wait=2**31 - 1))
            await _until(lambda: bool(broker.fetch_sessions.waiting))
        return await client.receive(waiting)

    assert found(asyncio.run(asyncio.wait_for(main(), 30))) == {}


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  what it waits for happens on this loop
            await asyncio.sleep(0)


def test_what_left_memory_is_read_from_disk(tmp_path: Path) -> None:
    """With next to no cache and small log files, every offset of every partition still reads the same."""

    async def scenario(broker: Broker, client: Client) -> None:
        for n in range(400):
            await client.produce("t", batch(b"%d-" % n + b"x" * 10_000), partition=n % 2)
        read: dict[int, list[bytes | None]] = {0: [], 1: []}
        while sum(map(len, read.values())) < 400:
            answer = await client.fetch(("t", 0, len(read[0])), ("t", 1, len(read[1])), partition_max_bytes=60_000)
            for index, records in found(answer).items():
                assert [offset for offset, _ in records] == list(
                    range(len(read[index]), len(read[index]) + len(records))
                )
                read[index] += [value for _, value in records]
        heads = {index: [value.partition(b"-")[0] for value in all_ if value] for index, all_ in read.items()}

        assert heads == {i: [b"%d" % n for n in range(i, 400, 2)] for i in (0, 1)}
        assert len(broker.store.home.files.complete) > 2

    run(tmp_path, scenario, "log.cache.bytes=1048576", "log.file.bytes=1048576")


def test_a_container_that_is_not_here(tmp_path: Path) -> None:
    """Both ask for another leader (6), and are served again when the container is back."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.produce("t", batch(b"a"))
        away = broker.store.containers.pop(0)
        produced = await client.produce("t", batch(b"b"))
        fetched = partitions(await client.fetch(("t", 0, 0)))[0]
        assert (produced.error_code, fetched.error_code) == (6, 6)

        at_the_end = partitions(await client.fetch(("t", 0, 1)))[0]
        assert at_the_end.error_code == 6

        broker.store.containers[0] = away
        assert (await client.produce("t", batch(b"b"))).error_code == 0
        assert len(values(partitions(await client.fetch(("t", 0, 0)))[0].records)) == 2

    run(tmp_path, scenario)


async def _slow(broker: Broker) -> Client:
    """A client whose socket takes little by itself."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    own.connect(("127.0.0.1", broker._kafka[0].port))
    return Client(*await asyncio.open_connection(sock=own))


def test_answers_that_nobody_takes_leave_the_log_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that a socket does not take are copied once the log wants its memory back, and still answer the fetch."""
    monkeypatch.setattr("core.log.slabs.VIEWED_BYTES_MIN", 1 << 20)

    async def scenario(broker: Broker, client: Client) -> None:
        slabs = broker.store.home.log.slabs
        for _ in range(8):
            await client.produce("t", batch(b"x" * 900_000))
        lazy = [await _slow(broker) for _ in range(4)]
        sent = []
        for one in lazy:
            one._writer.transport.pause_reading()  # type: ignore[attr-defined]
            sent.append(
                one.send(FETCH, 11, fetch_body([("t", 0, 0)], max_bytes=7_000_000, partition_max_bytes=7_000_000))
            )
        await _until(lambda: broker.metrics.fetched_bytes >= 4 * 6_000_000)
        for _ in range(30):
            await client.produce("t", batch(b"y" * 900_000), partition=1)
        assert slabs.viewed <= slabs.limit // 8
        assert slabs.used <= slabs.limit

        for one, request in zip(lazy, sent, strict=True):
            one._writer.transport.resume_reading()  # type: ignore[attr-defined]
            read = values(partitions(await one.receive(request))[0].records)
            assert read == [(n, b"x" * 900_000) for n in range(len(read))]
            assert len(read) >= 6
            one.close()

    run(tmp_path, scenario, "log.cache.bytes=16777216", "queued.max.response.bytes=1073741824", uv=True)


def test_whoever_reads_goes_on_whatever_others_do(tmp_path: Path) -> None:
    """Peers that take nothing use all the room for answers; others get small ones, from memory and from disk, also
    where one that must be read stands before others that are ready."""

    async def scenario(broker: Broker, client: Client) -> None:
        for index, count in ((0, 10), (1, 90)):
            for _ in range(count):
                await client.produce("t", batch(b"x" * 100_000), partition=index)
        lazy = [await _slow(broker) for _ in range(8)]
        for one in lazy:
            one._writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(8):
                one.send(FETCH, 11, fetch_body([("t", 1, 0)]))
        budget = broker._server.host.output_budget  # type: ignore[union-attr]
        await _until(lambda: budget.exhausted)

        reader = await Client.connect(broker)
        for _ in range(5):
            sent = [reader.send(FETCH, 11, fetch_body([("t", *place)])) for place in ((0, 0), (1, 88), (1, 89))]
            for request in sent:
                (one_partition,) = [p for p in partitions(await reader.receive(request)).values() if p.records]
                assert values(one_partition.records)[0][1] == b"x" * 100_000
        assert budget.exhausted
        counters = broker.store.containers[0].reader.counters
        assert min(counters.log.reads, counters.memory.reads) >= 5
        for one in (*lazy, reader):
            one.close()

    run(
        tmp_path,
        scenario,
        "log.cache.bytes=1048576",
        "log.file.bytes=1048576",
        "queued.max.response.bytes=1048576",
        uv=True,
    )
