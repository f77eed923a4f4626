"""A whole broker in this process, on the real store and real sockets, and a client that speaks exact versions."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.broker import Broker
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import DataDirectory
from gateway.disks import wanted_of
from gateway.network.binding import bind_all
from gateway.records.records import Record, build_batch, iter_records
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible
from gateway.wire.message import Message

PRODUCE, FETCH, CREATE_TOPICS = 0, 1, 19
ANSWER_SECONDS_MAX = 60
# Log files are filled with zeros before use: small ones, so that a start writes little.
SETTINGS = ("group.initial.rebalance.delay.ms=0", "log.file.bytes=4194304")
Part = bytes | bytearray | memoryview


@asynccontextmanager
async def running_broker(directory: Path, *settings: str) -> AsyncIterator[Broker]:
    """Start a broker on a free port of 127.0.0.1; stop it cleanly afterwards."""
    config = load(environ={}, assignments=[*SETTINGS, *settings])
    data = DataDirectory.acquire(directory, "0.1.0", wanted_of(config))
    broker = Broker(config, data, bind_all([parse_kafka_listener("127.0.0.1:0")]), None)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
        data.release()


class Client:
    """One connection; requests are sent in any version, and may be pipelined."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._correlation_id = 0
        self.client_id = "test"

    @classmethod
    async def connect(cls, broker: Broker) -> Client:
        binding = broker._kafka[0]
        return cls(*await asyncio.open_connection("127.0.0.1", binding.port))

    def send(self, key: int, version: int, body: Mapping[str, Any]) -> tuple[int, int, int]:
        """Send a request; pass the returned value to `receive`."""
        return self.send_encoded(key, version, bytes(request_codec(key, version).encode(body)))

    def send_encoded(self, key: int, version: int, body: bytes) -> tuple[int, int, int]:
        """Send a request whose body is given as bytes, right or wrong."""
        self._correlation_id += 1
        header = RequestHeader(key, version, self._correlation_id, self.client_id)
        frame = encode_request_header(header, request_codec(key, version).flexible) + body
        self._writer.write(struct.pack(">i", len(frame)) + frame)
        return key, version, self._correlation_id

    async def receive(self, sent: tuple[int, int, int]) -> Message:
        """The next answer, which must be the one to `sent`."""
        key, version, correlation_id = sent
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            (size,) = struct.unpack(">i", await self._reader.readexactly(4))
            answer = await self._reader.readexactly(size)
        assert struct.unpack_from(">i", answer)[0] == correlation_id
        codec = response_codec(key, version)
        start = 5 if response_header_is_flexible(key, codec.flexible) else 4
        return codec.decode(memoryview(answer), start)

    async def ask(self, key: int, version: int, body: Mapping[str, Any]) -> Message:
        return await self.receive(self.send(key, version, body))

    async def closed(self) -> bool:
        """Whether the server ends the connection without another byte."""
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            return not await self._reader.read(1)

    def close(self) -> None:
        self._writer.close()

    # The common requests in short

    async def create(self, topic: str, partitions: int = 1, **configs: str) -> None:
        wanted = [{"name": k.replace("_", "."), "value": v} for k, v in configs.items()]
        topics = [{"name": topic, "num_partitions": partitions, "replication_factor": 1, "configs": wanted}]
        answer = await self.ask(CREATE_TOPICS, 5, {"topics": topics, "timeout": 10_000})
        assert [t.error_code for t in answer.topics] == [0]

    async def produce(
        self, topic: str, batch: Part | None, *, partition: int = 0, acks: int = -1, version: int = 8
    ) -> Message:
        """The answer for the one partition."""
        answer = await self.ask(PRODUCE, version, produce_body(topic, [(partition, batch)], acks))
        return answer.responses[0].partition_responses[0]  # type: ignore[no-any-return]

    async def fetch(self, *wanted: tuple[str, int, int], version: int = 11, **options: Any) -> Message:
        return await self.ask(FETCH, version, fetch_body(wanted, **options))


def produce_body(topic: str, batches: Sequence[tuple[int, Part | None]], acks: int = -1) -> dict[str, Any]:
    partitions = [{"index": index, "records": batch} for index, batch in batches]
    return {"acks": acks, "timeout": 10_000, "topic_data": [{"name": topic, "partition_data": partitions}]}


def fetch_body(
    wanted: Sequence[tuple[str, int, int]],
    *,
    max_wait: int = 0,
    min_bytes: int = 1,
    max_bytes: int = 50_000_000,
    partition_max_bytes: int = 1_000_000,
    session_id: int = 0,
    session_epoch: int = -1,
    forget: Sequence[tuple[str, int]] = (),
    isolation_level: int = 0,
    leader_epoch: int = -1,
    replica_id: int = -1,
    ids: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`wanted` are (topic, partition, offset); `ids` maps topics to ids for versions that use them."""
    topics: dict[str, list[dict[str, Any]]] = {}
    for topic, index, offset in wanted:
        topics.setdefault(topic, []).append(
            {
                "partition": index,
                "fetch_offset": offset,
                "partition_max_bytes": partition_max_bytes,
                "current_leader_epoch": leader_epoch,
            }
        )
    named = lambda topic: {"topic": topic, "topic_id": (ids or {}).get(topic)}  # noqa: E731
    return {
        "replica_id": replica_id,
        "max_wait": max_wait,
        "min_bytes": min_bytes,
        "max_bytes": max_bytes,
        "isolation_level": isolation_level,
        "session_id": session_id,
        "session_epoch": session_epoch,
        "topics": [{**named(topic), "partitions": partitions} for topic, partitions in topics.items()],
        "forgotten_topics_data": [{**named(topic), "partitions": [index]} for topic, index in forget],
    }


def batch(
    *values: bytes | None, key: bytes | None = b"k", timestamp: int = 1_700_000_000_000, **options: Any
) -> bytearray:
    """A producer's batch of these values."""
    return build_batch([Record(i, timestamp + i, key, value) for i, value in enumerate(values)], **options)


def split(records: memoryview | bytes | None) -> list[memoryview]:
    """The batches of a partition's records."""
    rest, found = memoryview(records or b""), []
    while rest:
        (size,) = struct.unpack_from(">i", rest, 8)
        found.append(rest[: size + 12])
        rest = rest[size + 12 :]
    return found


def values(records: memoryview | bytes | None) -> list[tuple[int, bytes | None]]:
    """(offset, value) of every record."""
    return [(record.offset, record.value) for one in split(records) for record in iter_records(one)]
