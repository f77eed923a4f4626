"""Produce: stored batches, refused batches, and the errors (SEMANTICS 12-18)."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.apis.shared import producing
from gateway.broker import Broker
from gateway.logs import facts
from gateway.records.record_batch import GZIP, LZ4, NONE, SNAPPY, ZSTD, read_header
from gateway.records.records import iter_records, seal_batch
from tests.gateway.harness import PRODUCE, Client, batch, produce_body, running_broker, split, values

pytestmark = pytest.mark.slow

Scenario = Callable[[Broker, Client], Coroutine[Any, Any, None]]


def run(directory: Path, scenario: Scenario, *settings: str) -> None:
    """Run a scenario against a broker of its own."""

    async def main() -> None:
        async with running_broker(directory, *settings) as broker:
            client = await Client.connect(broker)
            await client.create("t", 2)
            await scenario(broker, client)
            client.close()

    asyncio.run(main())


@pytest.mark.parametrize("version", range(3, 13))
def test_every_version_stores_and_answers_the_offset(tmp_path: Path, version: int) -> None:
    """The base offset is the slot's next number, in every version."""

    async def scenario(broker: Broker, client: Client) -> None:
        first = await client.produce("t", batch(b"a", b"b"), version=version)
        second = await client.produce("t", batch(b"c"), version=version)
        fetched = await client.fetch(("t", 0, 0))

        assert (first.error_code, first.base_offset) == (0, 0)
        assert (second.error_code, second.base_offset) == (0, 2)
        assert values(fetched.responses[0].partitions[0].records) == [(0, b"a"), (1, b"b"), (2, b"c")]

    run(tmp_path, scenario)


def test_bytes_stay_the_clients_own(tmp_path: Path) -> None:
    """Only base offset and leader epoch change, whatever the codec; the CRC is as sent."""

    async def scenario(broker: Broker, client: Client) -> None:
        sent = [batch(b"x" * 500, codec=codec) for codec in (NONE, GZIP, SNAPPY, LZ4, ZSTD)]
        for one in sent:
            assert (await client.produce("t", one)).error_code == 0
        fetched = await client.fetch(("t", 0, 0))
        stored = split(fetched.responses[0].partitions[0].records)

        assert [bytes(s[16:]) for s in stored] == [bytes(s[16:]) for s in sent]
        assert [read_header(s).base_offset for s in stored] == [0, 1, 2, 3, 4]
        assert {read_header(s).partition_leader_epoch for s in stored} == {broker.store.home.epoch}

    run(tmp_path, scenario)


def _edited(at: int, layout: str, value: int, *, sealed: bool = True) -> bytearray:
    edited = batch(b"a", b"b")
    struct.pack_into(layout, edited, at, value)
    if sealed:
        seal_batch(edited)
    return edited


BAD = {
    "crc": (_edited(70, ">b", 99, sealed=False), 2),
    "magic 1": (_edited(16, ">b", 1), 87),
    "length": (_edited(8, ">i", 20_000), 87),
    "base offset": (_edited(0, ">q", 7), 87),
    "record count": (_edited(57, ">i", 0), 87),
    "last delta": (_edited(23, ">i", 7), 87),
    "control": (_edited(21, ">H", 0x20), 87),
    "codec": (_edited(21, ">H", 5), 76),
    "negative sequence": (batch(b"a", producer_id=7, producer_epoch=0, base_sequence=-1), 87),
    "transactional": (batch(b"a", producer_id=7, producer_epoch=0, base_sequence=0, transactional=True), 53),
    "too large": (batch(b"x" * 1_100_000), 10),
    "two batches": (batch(b"a") + batch(b"b"), 87),
    "nothing": (b"", 87),
    "null": (None, 87),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_batch_is_refused_and_stores_nothing(tmp_path: Path, name: str) -> None:
    """Kafka's error for each; the connection lives on, and good partitions of the request are stored."""
    bad, code = BAD[name]

    async def scenario(broker: Broker, client: Client) -> None:
        answer = await client.ask(PRODUCE, 8, produce_body("t", [(0, bad), (1, batch(b"good"))]))
        refused, stored = answer.responses[0].partition_responses

        assert (refused.error_code, refused.base_offset) == (code, -1)
        assert (stored.error_code, stored.base_offset) == (0, 0)
        assert broker.topics.get("t").slot(0).end == 0  # type: ignore[union-attr]

    run(tmp_path, scenario)


def test_what_is_refused_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each request: place, reason, client; no bytes of the batch."""

    async def scenario(broker: Broker, client: Client) -> None:
        bad = batch(b"secret")
        bad[-1] ^= 1
        await client.ask(PRODUCE, 8, produce_body("t", [(0, batch(b"a")), (1, bad), (9, batch(b"b"))]))
        await client.produce("t", batch(b"c"))

    run(tmp_path, scenario)

    (line,) = [record for record in caplog.records if record.message == "produce refused"]
    told = facts(line)
    assert (told["topic"], told["partition"], told["error"], told["partitions_refused"]) == ("t", 1, 2, 2)
    assert (told["reason"], told["client"]) == ("the batch's CRC does not match", "test")
    assert "secret" not in repr(told)


def test_unknown_partitions_and_topics(tmp_path: Path) -> None:
    """A partition that the topic does not have, and a topic that is not there: UNKNOWN_TOPIC_OR_PARTITION."""

    async def scenario(broker: Broker, client: Client) -> None:
        codes = [
            (await client.produce("t", batch(b"a"), partition=2)).error_code,
            (await client.produce("t", batch(b"a"), partition=-1)).error_code,
            (await client.produce("no such topic", batch(b"a"))).error_code,
        ]

        assert codes == [3, 3, 3]

    run(tmp_path, scenario)


def test_acks(tmp_path: Path) -> None:
    """0 has no answer, closes on an error; other values than -1, 0, 1 are refused."""

    async def scenario(broker: Broker, client: Client) -> None:
        client.send(PRODUCE, 8, produce_body("t", [(0, batch(b"a"))], acks=0))
        after = await client.produce("t", batch(b"b"), acks=1)
        odd = await client.produce("t", batch(b"c"), acks=2)
        client.send(PRODUCE, 8, produce_body("t", [(9, batch(b"d"))], acks=0))

        assert (after.error_code, after.base_offset) == (0, 1)
        assert odd.error_code == 21
        assert await client.closed()

    run(tmp_path, scenario)


def test_zstd_needs_version_7(tmp_path: Path) -> None:
    """Older producers cannot know zstd: UNSUPPORTED_COMPRESSION_TYPE."""

    async def scenario(broker: Broker, client: Client) -> None:
        old = await client.produce("t", batch(b"a", codec=ZSTD), version=6)
        new = await client.produce("t", batch(b"a", codec=ZSTD), version=7)

        assert (old.error_code, new.error_code) == (76, 0)

    run(tmp_path, scenario)


def test_pipelined_requests_share_syncs_and_keep_their_order(tmp_path: Path) -> None:
    """Hundreds of requests in flight on one connection: answers in order, far fewer syncs than requests."""

    async def scenario(broker: Broker, client: Client) -> None:
        before = broker.store.home.log.stats.syncs
        sent = [client.send(PRODUCE, 8, produce_body("t", [(0, batch(b"%d" % n))])) for n in range(500)]
        answers = [await client.receive(one) for one in sent]

        assert [a.responses[0].partition_responses[0].base_offset for a in answers] == list(range(500))
        assert broker.store.home.log.stats.syncs - before < 250

    run(tmp_path, scenario)


def _idempotent(*values_: bytes, sequence: int, epoch: int = 0) -> bytearray:
    return batch(*values_, producer_id=7, producer_epoch=epoch, base_sequence=sequence)


def test_idempotence(tmp_path: Path) -> None:
    """A duplicate gets the original's offset, a gap 45, a stale epoch 47, a new epoch begins at 0."""

    async def scenario(broker: Broker, client: Client) -> None:
        steps = [
            (_idempotent(b"a", b"b", sequence=0), (0, 0)),
            (_idempotent(b"c", sequence=2), (0, 2)),
            (_idempotent(b"a", b"b", sequence=0), (0, 0)),
            (_idempotent(b"e", sequence=4), (45, -1)),
            (_idempotent(b"d", sequence=5, epoch=1), (45, -1)),
            (_idempotent(b"d", sequence=0, epoch=1), (0, 3)),
            (_idempotent(b"x", sequence=3, epoch=0), (47, -1)),
        ]
        for sent, expected in steps:
            answer = await client.produce("t", sent)
            assert (answer.error_code, answer.base_offset) == expected

    run(tmp_path, scenario)


def test_a_duplicate_in_flight_waits_with_its_original(tmp_path: Path) -> None:
    """Both are answered with the same offset, and only one is stored."""

    async def scenario(broker: Broker, client: Client) -> None:
        other = await Client.connect(broker)
        body = produce_body("t", [(0, _idempotent(b"a", sequence=0))])
        first, second = client.send(PRODUCE, 8, body), other.send(PRODUCE, 8, body)
        answers = [await client.receive(first), await other.receive(second)]

        assert [a.responses[0].partition_responses[0].base_offset for a in answers] == [0, 0]
        assert broker.topics.get("t").slot(0).end == 1  # type: ignore[union-attr]
        other.close()

    run(tmp_path, scenario)


def test_log_append_time(tmp_path: Path) -> None:
    """The broker's clock stamps the batch and the answer, and the CRC covers it."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("stamped", message_timestamp_type="LogAppendTime")
        before = time.time_ns() // 1_000_000
        answer = await client.ask(PRODUCE, 8, produce_body("stamped", [(0, batch(b"a", b"b"))]))
        fetched = await client.fetch(("stamped", 0, 0))
        (stored,) = split(fetched.responses[0].partitions[0].records)
        header = read_header(stored)

        assert header.is_log_append_time
        assert header.max_timestamp >= before
        assert answer.responses[0].partition_responses[0].log_append_time == header.max_timestamp
        assert [r.timestamp for r in iter_records(stored)] == [header.max_timestamp] * 2

    run(tmp_path, scenario)


def test_timestamps_out_of_bounds(tmp_path: Path) -> None:
    """Too far ahead, or too old where the topic says so: INVALID_TIMESTAMP with the record's place."""

    async def scenario(broker: Broker, client: Client) -> None:
        now = time.time_ns() // 1_000_000
        await client.create("recent", message_timestamp_before_max_ms="60000")
        ahead = await client.produce("t", batch(b"a", timestamp=now + 7_200_000))
        old = await client.produce("recent", batch(b"a", timestamp=now - 120_000))
        fine = await client.produce("recent", batch(b"a", timestamp=now - 1_000))

        assert (ahead.error_code, [e.batch_index for e in ahead.record_errors]) == (32, [0])
        assert (old.error_code, fine.error_code) == (32, 0)

    run(tmp_path, scenario)


def test_compacted_topics_need_keys(tmp_path: Path) -> None:
    """A null key: INVALID_RECORD with record_errors."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("compacted", cleanup_policy="compact")
        without = await client.produce("compacted", batch(b"a", key=None))
        with_key = await client.produce("compacted", batch(b"a"))

        assert (without.error_code, [e.batch_index for e in without.record_errors]) == (87, [0])
        assert with_key.error_code == 0

    run(tmp_path, scenario)


def test_a_topic_with_a_codec_of_its_own(tmp_path: Path) -> None:
    """Batches are stored under the topic's codec; offsets, values and producer fields stay."""

    async def scenario(broker: Broker, client: Client) -> None:
        await client.create("zipped", compression_type="gzip")
        answer = await client.produce("zipped", _idempotent(b"a" * 300, b"b", sequence=0))
        fetched = await client.fetch(("zipped", 0, 0))
        (stored,) = split(fetched.responses[0].partitions[0].records)
        header = read_header(stored)

        assert answer.error_code == 0
        assert (header.codec, header.producer_id, header.base_sequence) == (GZIP, 7, 0)
        assert values(stored) == [(0, b"a" * 300), (1, b"b")]

    run(tmp_path, scenario)


def test_writer_state_survives_a_restart(tmp_path: Path) -> None:
    """After a restart a duplicate is still known, and the sequence goes on."""

    async def write(broker: Broker, client: Client) -> None:
        assert (await client.produce("t", _idempotent(b"a", b"b", sequence=0))).base_offset == 0

    async def again() -> None:
        async with running_broker(tmp_path) as broker:
            client = await Client.connect(broker)
            duplicate = await client.produce("t", _idempotent(b"a", b"b", sequence=0))
            following = await client.produce("t", _idempotent(b"c", sequence=2))

            assert (duplicate.error_code, duplicate.base_offset) == (0, 0)
            assert (following.error_code, following.base_offset) == (0, 2)
            client.close()

    run(tmp_path, write)
    asyncio.run(again())


def test_large_requests_are_stored_whole(tmp_path: Path) -> None:
    """A batch close to the limit comes back as it was sent."""

    async def scenario(broker: Broker, client: Client) -> None:
        big = batch(bytes(range(256)) * 4000)
        answer = await client.produce("t", big)
        fetched = await client.fetch(("t", 0, 0))
        (stored,) = split(fetched.responses[0].partitions[0].records)

        assert answer.error_code == 0
        assert bytes(stored[16:]) == bytes(big[16:])

    run(tmp_path, scenario)


def test_sealed_topic(tmp_path: Path) -> None:
    """A sealed topic answers POLICY_VIOLATION, recognises earlier batches, and is still read."""

    async def scenario(broker: Broker, client: Client) -> None:
        stream = broker.topics.get("t")
        assert stream is not None
        kept = batch(b"kept", producer_id=7, producer_epoch=0, base_sequence=0)
        assert (await client.produce("t", kept)).error_code == 0
        await broker.store.seal_stream(stream)
        refused = await client.produce("t", batch(b"late"))
        again = await client.produce("t", kept)
        fetched = await client.fetch(("t", 0, 0))

        assert (refused.error_code, refused.base_offset) == (44, -1)
        assert (again.error_code, again.base_offset) == (0, 0)
        assert values(fetched.responses[0].partitions[0].records) == [(0, b"kept")]

    run(tmp_path, scenario)


def test_an_answer_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    """Its connection ends, so that its client sends the batches again: nothing else would answer them."""

    def fails(*_: object) -> bytes:
        raise ValueError("no such answer")

    async def scenario(broker: Broker, client: Client) -> None:
        monkeypatch.setattr(producing, "encode_produce_response", fails)
        client.send(PRODUCE, 8, produce_body("t", [(0, batch(b"a"))]))
        assert await client.closed()
        monkeypatch.undo()
        again = await Client.connect(broker)

        assert (await again.produce("t", batch(b"b"))).base_offset == 1
        assert "Produce v8 failed" in lines()
        again.close()

    run(tmp_path, scenario)
