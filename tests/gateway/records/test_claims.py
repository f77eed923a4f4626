"""False claims of a batch's header about its records: refused, or put right, on every kind of topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.broker import Broker
from gateway.kafka_configs.topic_config import config_of
from gateway.records.adaptation import is_plain
from gateway.records.compression import compress
from gateway.records.openers import LOOP_UNITS_MAX
from gateway.records.record_batch import (
    DELETE_HORIZON,
    GZIP,
    HEADER,
    HEADER_BYTES,
    LOG_APPEND_TIME,
    LZ4,
    NONE,
    SNAPPY,
    ZSTD,
    BatchHeader,
    read_header,
    validate_batch,
)
from gateway.records.records import Record, build_batch, iter_records, seal_batch, write_varint
from gateway.wire.message import Message
from tests.gateway.harness import PRODUCE, Client, batch, produce_body, running_broker, split, values

pytestmark = pytest.mark.slow

LIST_OFFSETS: Final = 2
Scenario = Callable[[Broker, Client], Coroutine[Any, Any, None]]

KINDS: Final = {
    "default": {},
    "stamped": {"message_timestamp_type": "LogAppendTime"},
    "compacted": {"cleanup_policy": "compact"},
    "gzip": {"compression_type": "gzip"},
    "plain": {"compression_type": "uncompressed"},
}


def run(directory: Path, scenario: Scenario, *settings: str) -> None:
    """Run a scenario against a broker of its own that has a topic of each kind."""

    async def main() -> None:
        async with running_broker(directory, *settings) as broker:
            client = await Client.connect(broker)
            for name, config in KINDS.items():
                await client.create(name, 2, **config)
            await scenario(broker, client)
            client.close()

    asyncio.run(main())


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def with_header(one: bytes | bytearray, **changes: int) -> bytearray:
    """The batch with other claims in its header."""
    fields = BatchHeader(*HEADER.unpack_from(one))._replace(**changes)
    changed = bytearray(HEADER.pack(*fields)) + one[HEADER_BYTES:]
    seal_batch(changed)
    return changed


def with_body(one: bytes | bytearray, body: bytes, **changes: int) -> bytearray:
    """The batch with other bytes in place of its records."""
    head = HEADER.unpack_from(one)
    return with_header(HEADER.pack(*head) + body, batch_length=HEADER_BYTES - 12 + len(body), **changes)


def record(*fields: int | bytes) -> bytes:
    body = bytearray(1)
    for one in fields:
        if isinstance(one, int):
            write_varint(body, one)
        else:
            body += one
    out = bytearray()
    write_varint(out, len(body))
    return bytes(out + body)


def many(count: int, codec: int = NONE, timestamp: int = 0) -> bytearray:
    """More records than are looked at without cause."""
    at = timestamp or now_ms()
    return build_batch([Record(n, at + n, b"k%d" % n, b"v") for n in range(count)], codec)


async def stored(client: Client, topic: str, partition: int = 0, offset: int = 0) -> list[memoryview]:
    fetched = await client.fetch((topic, partition, offset))
    return split(fetched.responses[0].partitions[0].records)


async def offset_at(client: Client, topic: str, timestamp: int) -> tuple[int, int]:
    partition = {"partition_index": 0, "current_leader_epoch": -1, "timestamp": timestamp}
    body = {"replica_id": -1, "isolation_level": 0, "topics": [{"name": topic, "partitions": [partition]}]}
    (found,) = (await client.ask(LIST_OFFSETS, 7, body)).topics[0].partitions
    assert found.error_code == 0
    return found.offset, found.timestamp


NULL_HEADER_KEY = record(0, 0, 1, b"k", -1, 1, -1, -1)
UNREADABLE = {
    "a null header key": with_body(batch(b"a"), NULL_HEADER_KEY),
    "a null header key, compressed": with_body(
        batch(b"a"), compress(GZIP, NULL_HEADER_KEY), attributes=GZIP, max_timestamp=1
    ),
    "more records than declared": with_header(batch(b"a", b"b"), record_count=1, last_offset_delta=0),
    "fewer records than declared": with_header(batch(b"a", b"bbbbbbbbbb"), record_count=3, last_offset_delta=2),
    "a record cut short": with_body(batch(b"a"), bytes(batch(b"a")[HEADER_BYTES:-1])),
    "bytes behind the records": with_body(batch(b"a"), bytes(batch(b"a")[HEADER_BYTES:]) + b"\0"),
    "a header key beyond the record": with_body(batch(b"a"), record(0, 0, 1, b"k", -1, 1, 90, b"h", -1)),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_no_consumer_could_read(tmp_path: Path, name: str) -> None:
    """INVALID_RECORD on every kind of topic, and nothing is stored."""

    async def scenario(broker: Broker, client: Client) -> None:
        codes = {kind: (await client.produce(kind, UNREADABLE[name])).error_code for kind in KINDS}

        assert set(codes.values()) == {87}
        assert [await stored(client, kind) for kind in KINDS] == [[]] * len(KINDS)

    run(tmp_path, scenario)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_codec_that_is_not(tmp_path: Path, codec: int) -> None:
    """Plain records under a codec's bit: CORRUPT_MESSAGE on every kind of topic, few records or many."""

    async def scenario(broker: Broker, client: Client) -> None:
        lies = [with_header(one, attributes=codec) for one in (batch(b"a"), many(500))]
        codes = {(await client.produce(kind, lie)).error_code for kind in KINDS for lie in lies}

        assert codes == {2}

    run(tmp_path, scenario)


LEAVES_LOOP: Final = LOOP_UNITS_MAX + 1
"""Records of a batch that is opened off the event loop."""
CLAIMS: Final = {"missing": -1, "small": 1, "large": 2**62, "as it was": None}


@pytest.mark.parametrize(
    ("claim", "codec", "count"),
    [
        *((claim, codec, 2) for claim in CLAIMS for codec in (NONE, SNAPPY)),
        *((claim, codec, LEAVES_LOOP) for claim, codec in (("missing", NONE), ("small", ZSTD), ("as it was", NONE))),
    ],
)
def test_the_largest_timestamp_is_that_of_the_records(tmp_path: Path, claim: str, codec: int, count: int) -> None:
    """Whatever a header claims: look-ups find the records, and Fetch hands out what Kafka computes."""

    async def scenario(broker: Broker, client: Client) -> None:
        sent = many(count, codec)
        first = read_header(sent).base_timestamp
        claimed = CLAIMS[claim]
        changed = sent if claimed is None else with_header(sent, max_timestamp=claimed)
        for kind in ("default", "compacted", "gzip", "plain"):
            assert (await client.produce(kind, changed)).error_code == 0
            (one,) = await stored(client, kind)
            assert read_header(one).max_timestamp == first + count - 1
            assert list(iter_records(one)) == list(iter_records(sent))
            assert await offset_at(client, kind, first + count - 1) == (count - 1, first + count - 1)
            assert await offset_at(client, kind, first + count) == (-1, -1)
            assert await offset_at(client, kind, -3) == (count - 1, first + count - 1)
        (one,) = await stored(client, "default")
        assert bytes(one[16:]) == bytes(sent[16:])  # as if the producer had written the truth

    run(tmp_path, scenario)


def test_a_base_that_no_record_has(tmp_path: Path) -> None:
    """A base timestamp of 0 and deltas that make up for it: the largest timestamp is looked up all the same."""

    async def scenario(broker: Broker, client: Client) -> None:
        at = now_ms()
        body = b"".join(record(at + n, n, 1, b"k", -1, 0) for n in range(100))
        odd = with_body(many(100), body, base_timestamp=0, max_timestamp=at - 1000)

        assert (await client.produce("default", odd)).error_code == 0
        assert await offset_at(client, "default", at + 99) == (99, at + 99)

    run(tmp_path, scenario)


def test_retention_goes_by_the_records(tmp_path: Path) -> None:
    """A header of 1 over records of now deletes nothing; one of the far future keeps nothing that is old."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("short", 3, retention_ms="60000")
        for partition, count in ((0, 2), (1, 5_000)):
            young = with_header(many(count), max_timestamp=1)
            old = with_header(many(count, timestamp=now_ms() - 3_600_000), max_timestamp=now_ms() + 10**12)
            assert (await client.produce("short", old, partition=partition)).error_code == 0
            assert (await client.produce("short", young, partition=partition)).error_code == 0
        await broker.store.containers[0].retention.enforce()

        slots = broker.topics.get("short")
        assert slots is not None
        assert [(slots.slot(n).start, slots.slot(n).end) for n in (0, 1)] == [(2, 4), (5_000, 10_000)]

    run(tmp_path, scenario)


def test_records_without_timestamps(tmp_path: Path) -> None:
    """They are stored as sent and found by no look-up, and a header cannot give them one."""

    async def scenario(broker: Broker, client: Client) -> None:
        for kind in ("default", "compacted"):
            for partition, count in ((0, 2), (1, 100)):
                without = build_batch([Record(n, -1, b"k", b"v") for n in range(count)])
                for claim in (-1, now_ms()):
                    sent = with_header(without, max_timestamp=claim)
                    assert (await client.produce(kind, sent, partition=partition)).error_code == 0
                assert [bytes(one[16:]) for one in await stored(client, kind, partition)] == [bytes(without[16:])] * 2
            assert await offset_at(client, kind, 0) == (-1, -1)

    run(tmp_path, scenario)


def test_bounds_go_by_the_records(tmp_path: Path) -> None:
    """A header that claims to be in bounds does not get records past message.timestamp.before and after.max.ms."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("recent", message_timestamp_before_max_ms="60000")
        at = now_ms()
        late = with_header(batch(b"a", timestamp=at + 7_200_000), max_timestamp=at)
        early = with_header(batch(b"a", timestamp=at - 120_000), max_timestamp=at)
        wraps = with_body(batch(b"a", timestamp=at), record(2**63 - 1, 0, 1, b"k", -1, 0))

        for topic, sent in (("default", late), ("recent", early), ("compacted", late), ("default", wraps)):
            refused = await client.produce(topic, sent)
            assert (refused.error_code, [e.batch_index for e in refused.record_errors]) == (32, [0])

    run(tmp_path, scenario)


def test_bits_that_are_the_brokers(tmp_path: Path) -> None:
    """A producer's LogAppendTime and delete horizon are cleared; LogAppendTime without a time, or twice, is refused."""

    async def scenario(broker: Broker, client: Client) -> None:
        at = now_ms()
        sent = batch(b"a", b"b", timestamp=at)
        for bit in (LOG_APPEND_TIME, DELETE_HORIZON, LOG_APPEND_TIME | DELETE_HORIZON):
            for kind in ("default", "compacted", "plain"):
                assert (await client.produce(kind, with_header(sent, attributes=bit))).error_code == 0
                one = (await stored(client, kind))[-1]
                assert bytes(one[16:]) == bytes(sent[16:])
                assert validate_batch(memoryview(bytearray(8) + one[8:])).record_count == 2

        none = await client.produce("default", with_header(sent, attributes=LOG_APPEND_TIME, max_timestamp=-1))
        twice = await client.produce("stamped", with_header(sent, attributes=LOG_APPEND_TIME))
        for refused in (none, twice):
            assert (refused.error_code, [e.batch_index for e in refused.record_errors]) == (32, [0, 1])
        assert (await client.produce("stamped", with_header(sent, attributes=DELETE_HORIZON))).error_code == 0
        (one,) = await stored(client, "stamped")
        assert read_header(one).attributes == LOG_APPEND_TIME

    run(tmp_path, scenario)


def test_header_keys_need_not_be_utf8(tmp_path: Path) -> None:
    """They come back as they were sent, under the topic's codec too."""

    async def scenario(broker: Broker, client: Client) -> None:
        body = record(0, 0, 1, b"k", 1, b"v", 1, 2, b"\xff\xfe", 1, b"x")
        sent = with_body(batch(b"v", timestamp=now_ms()), body)
        for kind in KINDS:
            assert (await client.produce(kind, sent)).error_code == 0
            (one,) = await stored(client, kind)
            (read,) = iter_records(one)
            assert [(key.encode(errors="surrogateescape"), value) for key, value in read.headers] == [
                (b"\xff\xfe", b"x")
            ]

    run(tmp_path, scenario)


def test_numbers_that_are_not_the_places(tmp_path: Path) -> None:
    """Offset deltas of 0 throughout become the places: consumers go by them."""

    async def scenario(broker: Broker, client: Client) -> None:
        body = b"".join(record(n, 0, 1, b"k", 2, b"v%d" % n, 0) for n in range(3))
        for kind in KINDS:
            assert (
                await client.produce(kind, with_body(batch(b"", b"", b"", timestamp=now_ms()), body))
            ).error_code == 0
            (one,) = await stored(client, kind)
            assert values(one) == [(0, b"v0"), (1, b"v1"), (2, b"v2")]

    run(tmp_path, scenario)


def test_too_large_under_the_topics_codec(tmp_path: Path) -> None:
    """max.message.bytes holds for what is stored: a small gzip batch may be a large plain one."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("tight", compression_type="zstd", max_message_bytes="2000")
        bomb = build_batch([Record(n, now_ms(), b"k", b"x" * 1000) for n in range(2_000)], GZIP)
        fits = batch(b"x" * 1_900, codec=LZ4, timestamp=now_ms())

        assert (await client.produce("plain", bomb)).error_code == 10
        assert (await client.produce("default", bomb)).error_code == 0
        assert (await client.produce("plain", batch(b"x" * 100_000, codec=GZIP))).error_code == 0
        assert (await client.produce("tight", fits)).error_code == 0
        await client.create("loose", compression_type="uncompressed", max_message_bytes="2000")
        assert (await client.produce("loose", batch(b"x" * 2_100, codec=LZ4))).error_code == 10
        assert (await client.produce("loose", fits)).error_code == 0

    run(tmp_path, scenario)


def test_a_partition_named_twice(tmp_path: Path) -> None:
    """As with Kafka: the last batch counts, wherever in the request it is, and there is one answer."""

    def parts(answer: Message) -> list[tuple[str, list[tuple[int, int, int]]]]:
        return [
            (one.name, [(p.index, p.error_code, p.base_offset) for p in one.partition_responses])
            for one in answer.responses
        ]

    async def scenario(broker: Broker, client: Client) -> None:
        twice = [(0, batch(b"first")), (1, batch(b"other")), (0, batch(b"last"))]
        once = await client.ask(PRODUCE, 8, produce_body("default", twice))
        body = produce_body("default", [(0, b"bad"), (1, batch(b"B"))])
        body["topic_data"] += produce_body("plain", [(0, batch(b"P"))])["topic_data"]
        body["topic_data"] += produce_body("default", [(0, batch(b"A"))])["topic_data"]
        apart = [await client.ask(PRODUCE, version, body) for version in (3, 9)]
        bad = await client.ask(PRODUCE, 8, produce_body("default", [(0, batch(b"x")), (9, batch(b"y")), (0, b"bad")]))

        assert parts(once) == [("default", [(0, 0, 0), (1, 0, 0)])]
        assert parts(apart[0]) == [("default", [(0, 0, 1), (1, 0, 1)]), ("plain", [(0, 0, 0)])]
        assert parts(apart[1]) == [("default", [(0, 0, 2), (1, 0, 2)]), ("plain", [(0, 0, 1)])]
        assert parts(bad) == [("default", [(0, 87, -1), (9, 3, -1)])]
        fetched = await client.fetch(("default", 0, 0))
        assert values(fetched.responses[0].partitions[0].records) == [(0, b"last"), (1, b"A"), (2, b"A")]

    run(tmp_path, scenario)


def test_the_cheap_look_at_a_large_batch(tmp_path: Path) -> None:
    """With record.validation=header a large batch of an honest client is stored unopened, whatever its codec."""

    async def scenario(broker: Broker, client: Client) -> None:
        stream = broker.topics.get("default")
        assert stream is not None
        for sent in (memoryview(many(1_000, codec)) for codec in (NONE, GZIP, SNAPPY, LZ4, ZSTD)):
            assert is_plain(read_header(sent), sent, config_of(stream), now_ms(), False)

    run(tmp_path, scenario)


def last_record(changed: bytes, codec: int) -> bytearray:
    """A batch of a hundred records, of which the last one is another."""
    one = many(100, NONE)
    good = b"".join(record(n, n, 1, b"k", 1, b"v", 0) for n in range(99))
    return with_body(one, compress(codec, good + changed), attributes=codec)


LAST: Final = {
    "a null header key": record(99, 99, 1, b"k", -1, 1, -1, -1),
    "a value that is longer than its record": record(99, 99, 1, b"k", 60, b"v", 0),
    "a record that is not there": b"",
    "a record more": record(99, 99, 1, b"k", -1, 0) + record(99, 100, 1, b"k", -1, 0),
    "bytes behind it": record(99, 99, 1, b"k", -1, 0) + b"\0",
}


@pytest.mark.parametrize("codec", [NONE, GZIP, SNAPPY, LZ4, ZSTD])
def test_every_record_of_every_batch(tmp_path: Path, codec: int) -> None:
    """With record.validation=full a fault in the last record of a large batch is found, on every kind of topic."""

    async def scenario(broker: Broker, client: Client) -> None:
        for changed in LAST.values():
            sent = last_record(changed, codec)
            codes = {(await client.produce(kind, sent)).error_code for kind in KINDS}
            assert codes == {87}
        assert [await stored(client, kind) for kind in KINDS] == [[]] * len(KINDS)

        untold = with_header(last_record(record(500, 99, 1, b"k", 1, b"v", 0), codec), max_timestamp=now_ms())
        assert (await client.produce("default", untold)).error_code == 0
        (one,) = await stored(client, "default")
        assert read_header(one).max_timestamp == read_header(untold).base_timestamp + 500

    run(tmp_path, scenario, "record.validation=full")


def test_only_the_header(tmp_path: Path) -> None:
    """With record.validation=header such a batch is stored where its topic does not ask for a look."""

    async def scenario(broker: Broker, client: Client) -> None:
        sent = last_record(LAST["a null header key"], NONE)

        codes = [(await client.produce(kind, sent)).error_code for kind in ("default", "plain", "compacted", "gzip")]
        assert codes == [0, 0, 87, 87]

    run(tmp_path, scenario, "record.validation=header")


@pytest.mark.parametrize("codec", [NONE, ZSTD])
def test_full_takes_what_clients_send(tmp_path: Path, codec: int) -> None:
    """Honest batches of any size are stored as they were sent: checked at once, or off the event loop."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("large", max_message_bytes="10000000")
        for count, value in ((1, 10), (9_000, 100), (100, 50_000), (60_000, 1)):
            at = now_ms()
            sent = build_batch([Record(n, at, b"k", bytes(value)) for n in range(count)], codec)
            answer = await client.produce("large", sent)
            assert answer.error_code == 0
            (one,) = await stored(client, "large", offset=answer.base_offset)
            assert bytes(one[16:]) == bytes(sent[16:])

    run(tmp_path, scenario, "record.validation=full")
