"""A Kafka client of our own, in plain structs: it says what was acknowledged and retries nothing by itself.

Real clients hide what these tests are about (retries, batching, reconnects). This one shares no code with the
gateway, so that an encoding mistake cannot cancel itself out. Versions are the last before "flexible" ones, where these
have what is needed.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

TIMEOUT_S: Final = 20.0
LOADING_MS: Final = 1_000
BATCH_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
CRC_FROM: Final = 21
NO_SEQUENCE: Final = -1
TRANSACTIONAL: Final = 0x10

NONE: Final = 0
OUT_OF_RANGE: Final = 1
UNKNOWN_TOPIC: Final = 3
OUT_OF_ORDER_SEQUENCE: Final = 45
STORAGE_ERROR: Final = 56


class Disconnected(Exception):
    """The gateway went away; the outcome of requests in flight is unknown."""


class Refused(Exception):
    """The gateway answered with an error code."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: error {code}")
        self.code = code


def check(what: str, code: int) -> None:
    if code:
        raise Refused(what, code)


def string(value: str | None) -> bytes:
    if value is None:
        return struct.pack(">h", -1)
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw


def varlen(value: str) -> bytes:
    """A string as "flexible" versions write it."""
    raw = value.encode()
    assert len(raw) < 127
    return bytes([len(raw) + 1]) + raw


def array(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


class Reader:
    """A reader that takes fields off a response."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, form: str) -> tuple[int, ...]:
        packed = struct.Struct(">" + form)
        fields = packed.unpack_from(self._data, self._at)
        self._at += packed.size
        return fields

    def one(self, form: str) -> int:
        return self.take(form)[0]

    def string(self) -> str | None:
        length = self.one("h")
        return None if length < 0 else self._bytes(length).decode()

    def blob(self) -> bytes:
        return self._bytes(max(self.one("i"), 0))

    def _bytes(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def times(self) -> Iterator[int]:
        yield from range(max(self.one("i"), 0))


@dataclass(frozen=True, slots=True)
class Produced:
    """The answer for one batch."""

    code: int
    offset: int
    throttle_ms: int = 0


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer for one partition."""

    code: int
    high_watermark: int
    start: int
    records: bytes
    stable_end: int
    aborted: tuple[tuple[int, int], ...]
    """Producer id and first offset of each."""


class Connection:
    """One socket. Requests may be pipelined with `send` and `receive`."""

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S, source: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._correlation = 0
        try:
            self._socket = socket.create_connection(
                (host, int(port)), timeout=timeout_s, source_address=(source, 0) if source else None
            )
        except OSError as gone:
            raise Disconnected(str(gone)) from gone
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, key: int, version: int, body: bytes, *, flexible: bool = False) -> None:
        self._correlation += 1
        head = struct.pack(">hhi", key, version, self._correlation) + string("faults") + b"\0" * flexible
        try:
            self._socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        except OSError as gone:
            raise Disconnected(str(gone)) from gone

    def receive(self) -> Reader:
        (length,) = struct.unpack(">i", self._exactly(4))
        data = self._exactly(length)
        return Reader(data[4:])

    def has_answer(self) -> bool:
        """Whether some of an answer has come by now."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def call(self, key: int, version: int, body: bytes) -> Reader:
        self.send(key, version, body)
        return self.receive()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self._socket.recv(count - len(data))
            except OSError as gone:
                raise Disconnected(str(gone)) from gone
            if not part:
                raise Disconnected("closed by the gateway")
            data += part
        return bytes(data)

    # Producing

    def send_produce(
        self, topic: str, partition: int, records: bytes, acks: int = -1, transactional_id: str | None = None
    ) -> None:
        one = struct.pack(">ii", partition, len(records)) + records
        topics = array([string(topic) + array([one])])
        self.send(0, 8, string(transactional_id) + struct.pack(">hi", acks, 30_000) + topics)

    def receive_produced(self) -> Produced:
        answer = self.receive()
        code, offset = -1, -1
        for _ in answer.times():
            answer.string()
            for _ in answer.times():
                _, code, offset, _, _ = answer.take("ihqqq")
                for _ in answer.times():
                    answer.one("i")
                    answer.string()
                answer.string()
        return Produced(code, offset, answer.one("i"))

    def produce(self, topic: str, partition: int, records: bytes) -> Produced:
        self.send_produce(topic, partition, records)
        return self.receive_produced()

    def init_producer_id(self) -> tuple[int, int]:
        answer = self.call(22, 1, string(None) + struct.pack(">i", 60_000))
        _, code, producer_id, epoch = answer.take("ihqh")
        check("InitProducerId", code)
        return producer_id, epoch

    # Reading

    def fetch(
        self,
        topic: str,
        partition: int,
        offset: int,
        max_wait_ms: int = 0,
        max_bytes: int = 1 << 20,
        *,
        committed: bool = False,
    ) -> Fetched:
        self.send_fetch({topic: {partition: offset}}, max_wait_ms, max_bytes, committed=committed)
        return self.receive_fetched()[topic, partition]

    def fetch_some(
        self, topic: str, partition: int, offset: int, max_bytes: int = 1 << 20, *, committed: bool = False
    ) -> Fetched:
        """As `fetch`, but asks again while there is something behind the offset that only has to be loaded."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            fetched = self.fetch(topic, partition, offset, LOADING_MS, max_bytes, committed=committed)
            end = fetched.stable_end if committed else fetched.high_watermark
            if fetched.code or fetched.records or offset >= end:
                return fetched
            assert time.monotonic() < deadline, f"nothing to read at {topic}-{partition} {offset}"

    def send_fetch(
        self, wanted: Mapping[str, Mapping[int, int]], max_wait_ms: int, max_bytes: int, *, committed: bool = False
    ) -> None:
        topics = [
            string(topic)
            + array(
                [
                    struct.pack(">iiqqi", partition, -1, offset, -1, max_bytes)
                    for partition, offset in partitions.items()
                ]
            )
            for topic, partitions in wanted.items()
        ]
        head = struct.pack(">iiiibii", -1, max_wait_ms, 1, max_bytes, committed, 0, -1)
        self.send(1, 11, head + array(topics) + array([]) + string(""))

    def receive_fetched(self) -> dict[tuple[str, int], Fetched]:
        answer = self.receive()
        _, code, _ = answer.take("ihi")
        check("Fetch", code)
        result = {}
        for _ in answer.times():
            topic = answer.string() or ""
            for _ in answer.times():
                partition, code, high_watermark, stable_end, start = answer.take("ihqqq")
                aborted = tuple(
                    (producer_id, first) for _ in answer.times() for producer_id, first in [answer.take("qq")]
                )
                answer.one("i")
                fetched = Fetched(code, high_watermark, start, answer.blob(), stable_end, aborted)
                result[topic, partition] = fetched
        return result

    def list_offset(self, topic: str, partition: int, timestamp: int) -> int:
        wanted = array([string(topic) + array([struct.pack(">iq", partition, timestamp)])])
        answer = self.call(2, 2, struct.pack(">ib", -1, 0) + wanted)
        answer.one("i")
        for _ in answer.times():
            answer.string()
            for _ in answer.times():
                _, code, _, offset = answer.take("ihqq")
                check("ListOffsets", code)
        return offset

    def tier_offset(self, topic: str, partition: int, timestamp: int) -> int:
        """As `list_offset`, in the "flexible" version that knows the borders of the tiers."""
        tags = b"\0"
        one = struct.pack(">iiq", partition, -1, timestamp) + tags
        wanted = b"\x02" + varlen(topic) + b"\x02" + one + tags
        self.send(2, 9, struct.pack(">ib", -1, 0) + wanted + tags, flexible=True)
        answer = self.receive()
        answer.take("bi")  # tags of the header, throttle time
        answer.take(f"b{1 + len(topic.encode())}xb")
        _, code, _, offset, _ = answer.take("ihqqi")
        check("ListOffsets", code)
        return offset

    # Topics

    def create_topic(self, topic: str, partitions: int, configs: Mapping[str, str] | None = None) -> None:
        settings = array([string(key) + string(value) for key, value in (configs or {}).items()])
        one = string(topic) + struct.pack(">ih", partitions, 1) + array([]) + settings
        answer = self.call(19, 4, array([one]) + struct.pack(">ib", 30_000, 0))
        answer.one("i")
        for _ in answer.times():
            answer.string()
            check(f"CreateTopics {topic}", answer.one("h"))
            answer.string()

    def alter_topic(self, topic: str, configs: Mapping[str, str]) -> None:
        """Set these, and leave others as they are."""
        changes = array([string(key) + b"\0" + string(value) for key, value in configs.items()])
        answer = self.call(44, 0, array([b"\x02" + string(topic) + changes]) + b"\0")
        answer.one("i")
        for _ in answer.times():
            check(f"IncrementalAlterConfigs {topic}", answer.one("h"))
            answer.string()
            answer.one("b")
            answer.string()

    def delete_topic(self, topic: str) -> None:
        answer = self.call(20, 3, array([string(topic)]) + struct.pack(">i", 30_000))
        answer.one("i")
        for _ in answer.times():
            answer.string()
            check(f"DeleteTopics {topic}", answer.one("h"))

    def create_partitions(self, topic: str, count: int) -> None:
        one = string(topic) + struct.pack(">ii", count, -1)
        answer = self.call(37, 1, array([one]) + struct.pack(">ib", 30_000, 0))
        answer.one("i")
        for _ in answer.times():
            answer.string()
            check(f"CreatePartitions {topic}", answer.one("h"))
            answer.string()

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        wanted = array([string(topic) + array([struct.pack(">iq", partition, before)])])
        answer = self.call(21, 1, wanted + struct.pack(">i", 30_000))
        answer.one("i")
        for _ in answer.times():
            answer.string()
            for _ in answer.times():
                _, low, code = answer.take("iqh")
                check(f"DeleteRecords {topic}", code)
        return low

    # Groups

    def commit_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        one = struct.pack(">iqi", partition, offset, -1) + string("")
        head = string(group) + struct.pack(">i", -1) + string("") + string(None)
        answer = self.call(8, 7, head + array([string(topic) + array([one])]))
        answer.one("i")
        for _ in answer.times():
            answer.string()
            for _ in answer.times():
                check("OffsetCommit", answer.take("ih")[1])

    def committed_offset(self, group: str, topic: str, partition: int) -> int:
        wanted = array([string(topic) + array([struct.pack(">i", partition)])])
        answer = self.call(9, 5, string(group) + wanted)
        answer.one("i")
        offset = -1
        for _ in answer.times():
            answer.string()
            for _ in answer.times():
                _, offset, _ = answer.take("iqi")
                answer.string()
                check("OffsetFetch", answer.one("h"))
        check("OffsetFetch", answer.one("h"))
        return offset


def varint(value: int) -> bytes:
    """Zigzag, base 128."""
    left = (value << 1) ^ (value >> 63)
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def encode_batch(
    values: Sequence[bytes],
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = NO_SEQUENCE,
    timestamp_ms: int | None = None,
    keys: Sequence[bytes] | None = None,
    *,
    transactional: bool = False,
) -> bytes:
    """A record batch, uncompressed, keys null unless given."""
    records = bytearray()
    for delta, value in enumerate(values):
        key = varint(-1) if keys is None else varint(len(keys[delta])) + keys[delta]
        body = b"\0" + varint(0) + varint(delta) + key + varint(len(value)) + value + varint(0)
        records += varint(len(body)) + body
    at = time.time_ns() // 1_000_000 if timestamp_ms is None else timestamp_ms
    count = len(values)
    attributes = TRANSACTIONAL if transactional else 0
    rest = struct.pack(">hiqqqhii", attributes, count - 1, at, at, producer_id, epoch, sequence, count)
    covered = rest + records
    length = len(covered) + CRC_FROM - 12
    return struct.pack(">qiibI", 0, length, -1, 2, crc32c(covered)) + covered


def decode_batches(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and value of every record in whole batches, each batch's CRC checked."""
    for _, _, records in decode_keyed(data):
        for offset, _, value in records:
            yield offset, value


def decode_keyed(data: bytes) -> Iterator[tuple[int, int, list[tuple[int, bytes | None, bytes]]]]:
    """Every whole batch, its CRC checked: first offset, the one behind the last, and offset, key, value of its records.

    Compaction leaves batches their offsets, and takes records out of them.
    """
    position = 0
    while len(data) - position >= BATCH_HEADER.size:
        base, length, _, magic, crc, _, last_delta, _, _, _, _, _, count = BATCH_HEADER.unpack_from(data, position)
        end = position + 12 + length
        if end > len(data):
            return
        assert magic == 2
        assert crc == crc32c(data[position + CRC_FROM : end]), f"batch at offset {base} fails its CRC"
        at = position + BATCH_HEADER.size
        records = []
        for _ in range(count):
            record, at = _decode_record(data, at, base)
            records.append(record)
        yield base, base + last_delta + 1, records
        position = end


def _decode_record(data: bytes, at: int, base: int) -> tuple[tuple[int, bytes | None, bytes], int]:
    length, at = _read_varint(data, at)
    end = at + length
    _, at = _read_varint(data, at + 1)
    delta, at = _read_varint(data, at)
    key_length, at = _read_varint(data, at)
    key = None if key_length < 0 else data[at : at + key_length]
    value_length, at = _read_varint(data, at + max(key_length, 0))
    return (base + delta, key, data[at : at + value_length]), end


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    shift = value = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
