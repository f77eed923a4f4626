"""A bare server: how fast can produce and fetch be in CPython with next to nothing around them?

`PORT=9392 NPART=1 python bench/bare_server.py LOGFILE` makes each topic, of NPART partitions, when a client asks for
it. It keeps all records in memory beside a log that is synced for every group of batches, and recovers nothing. Of a
batch it checks the CRC. It is for measuring beside, as `bare server within limits`.

Keeps: a batch is acknowledged, and read, after its sync only. An answer to a fetch has at most the bytes that its
client asks for, of each partition and in all, except for its first batch (KIP-74): a bare server that goes beyond them
answers fewer fetches for the same records.
"""

from __future__ import annotations

import asyncio
import bisect
import importlib
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvloop
from crc32c import crc32c
from kio.serial import entity_reader

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS = 0, 1, 2, 3, 18
VERSIONS: Final = {PRODUCE: (3, 7), FETCH: (4, 11), LIST_OFFSETS: (1, 1), METADATA: (1, 4), API_VERSIONS: (0, 2)}
FETCH_SESSIONS: Final = 7
FETCH_LOG_START: Final = 5
FETCH_READ_REPLICA: Final = 11
PARTS_MAX: Final = 1024
WRITE_BUFFER_BYTES: Final = 64 << 20
UNSUPPORTED_VERSION: Final = 35
EARLIEST: Final = -2

Buffer = bytes | memoryview


def _readers(name: str, kind: str, versions: tuple[int, int]) -> dict[int, Callable[..., Any]]:
    return {
        version: entity_reader(getattr(importlib.import_module(f"kio.schema.{name}.v{version}.request"), kind))
        for version in range(versions[0], versions[1] + 1)
    }


_produces: Final = _readers("produce", "ProduceRequest", VERSIONS[PRODUCE])
_fetches: Final = _readers("fetch", "FetchRequest", VERSIONS[FETCH])


@dataclass(slots=True)
class Entry:
    """One batch: its offsets [first, end), and its bytes."""

    first: int
    end: int
    parts: tuple[Buffer, Buffer]
    size: int


@dataclass(slots=True)
class Partition:
    """All batches of one partition; readers see those before `synced`."""

    entries: list[Entry] = field(default_factory=list)
    end: int = 0
    synced: int = 0
    waiters: list[Callable[[], None]] = field(default_factory=list)


class Log:
    """One thread that writes all batches that wait, syncs once, and says so on the loop."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        self._loop = asyncio.get_running_loop()
        self._waiting: tuple[list[Buffer], list[Callable[[], None]]] = [], []
        self._came = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def append(self, parts: list[Buffer], synced: Callable[[], None]) -> None:
        """Write these bytes; call back once they are synced."""
        with self._came:
            self._waiting[0].extend(parts)
            self._waiting[1].append(synced)
            self._came.notify()

    def _run(self) -> None:
        while True:
            with self._came:
                while not self._waiting[1]:
                    self._came.wait()
                (parts, heard), self._waiting = self._waiting, ([], [])
            for at in range(0, len(parts), PARTS_MAX):
                os.writev(self._fd, parts[at : at + PARTS_MAX])
            os.fdatasync(self._fd)
            self._loop.call_soon_threadsafe(_call_all, heard)


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()


class Server:
    """The partitions, the log, and a way to answer each API."""

    def __init__(self, log: Log, port: int, partitions: int) -> None:
        self._log = log
        self._port = port
        self._count = partitions
        self._partitions: dict[tuple[str, int], Partition] = {}

    def partition(self, topic: str, index: int) -> Partition:
        found = self._partitions.get((topic, index))
        if found is None:
            found = self._partitions[topic, index] = Partition()
        return found

    def api_versions(self, version: int) -> bytes:
        answered = 0 if version <= VERSIONS[API_VERSIONS][1] else UNSUPPORTED_VERSION
        apis = b"".join(struct.pack(">hhh", key, *versions) for key, versions in VERSIONS.items())
        throttle = struct.pack(">i", 0) if not answered and version else b""
        return struct.pack(">hi", answered, len(VERSIONS)) + apis + throttle

    def metadata(self, version: int, message: bytes, at: int) -> bytes:
        topics = list(_strings(message, at))
        body = bytearray(struct.pack(">i", 0) if version >= 3 else b"")
        body += struct.pack(">ii", 1, 1) + _text("127.0.0.1") + struct.pack(">ih", self._port, -1)
        body += struct.pack(">h", -1) if version >= 2 else b""  # no name of a cluster
        body += struct.pack(">ii", 1, len(topics))
        for topic in topics:
            body += struct.pack(">h", 0) + _text(topic) + b"\0" + struct.pack(">i", self._count)
            for index in range(self._count):
                body += struct.pack(">hiiiiii", 0, index, 1, 1, 1, 1, 1)
        return bytes(body)

    def list_offsets(self, message: bytes, at: int) -> bytes:
        """The first or the last offset of the partitions of one topic: what a consumer of the benchmark asks for."""
        length = struct.unpack_from(">h", message, at + 8)[0]
        topic = message[at + 10 : at + 10 + length].decode()
        at += 10 + length
        (count,) = struct.unpack_from(">i", message, at)
        body = bytearray(struct.pack(">i", 1) + _text(topic) + struct.pack(">i", count))
        for index, time_ms in struct.iter_unpack(">iq", message[at + 4 : at + 4 + 12 * count]):
            end = self.partition(topic, index).synced
            body += struct.pack(">ihqq", index, 0, -1, 0 if time_ms == EARLIEST else end)
        return bytes(body)

    def produce(self, version: int, message: bytes, at: int, send: Callable[..., None]) -> None:
        request, _ = _produces[version](message, at)
        written: list[Buffer] = []
        appended = [
            (topic.name, [self._append(topic.name, one, written) for one in topic.partition_data])
            for topic in request.topic_data
        ]
        self._log.append(written, partial(self._synced, version, appended, send))

    def _append(self, topic: str, produced: Any, written: list[Buffer]) -> tuple[int, Partition, Entry]:
        records = produced.records
        (crc,) = struct.unpack_from(">I", records, 17)
        if crc32c(memoryview(records)[21:]) != crc:
            raise ValueError(f"the CRC of a batch for {topic} does not match")
        partition = self.partition(topic, produced.index)
        (last_delta,) = struct.unpack_from(">i", records, 23)
        first, rest = struct.pack(">q", partition.end), memoryview(records)[8:]
        entry = Entry(partition.end, partition.end + last_delta + 1, (first, rest), len(records))
        partition.entries.append(entry)
        partition.end = entry.end
        written += (struct.pack(">Iq", len(records), entry.first), first, rest)
        return produced.index, partition, entry

    def _synced(
        self, version: int, appended: list[tuple[str, list[tuple[int, Partition, Entry]]]], send: Callable[..., None]
    ) -> None:
        body = bytearray(struct.pack(">i", len(appended)))
        for topic, partitions in appended:
            body += _text(topic) + struct.pack(">i", len(partitions))
            for index, partition, entry in partitions:
                body += struct.pack(">ihqq", index, 0, entry.first, -1)
                body += struct.pack(">q", 0) if version >= FETCH_LOG_START else b""
                partition.synced = max(partition.synced, entry.end)
                waiters, partition.waiters = partition.waiters, []
                _call_all(waiters)
        send(bytes(body) + struct.pack(">i", 0))

    def fetch(self, version: int, message: bytes, at: int, send: Callable[..., None]) -> None:
        request, _ = _fetches[version](message, at)
        self._fetch(version, request, send, time.monotonic() + request.max_wait.total_seconds())

    def _fetch(self, version: int, request: Any, send: Callable[..., None], deadline_s: float) -> None:
        """Answer if there is enough or time is up; else try again at the next sync."""
        size, parts = 0, [struct.pack(">ihi", 0, 0, 0) if version >= FETCH_SESSIONS else struct.pack(">i", 0)]
        parts.append(struct.pack(">i", len(request.topics)))
        for topic in request.topics:
            parts.append(_text(topic.topic) + struct.pack(">i", len(topic.partitions)))
            for wanted in topic.partitions:
                partition = self.partition(topic.topic, wanted.partition)
                room = min(wanted.partition_max_bytes, request.max_bytes - size)
                found = list(_entries(partition, wanted.fetch_offset, room, at_least_one=not size))
                length = sum(entry.size for entry in found)
                parts.append(_fetched(version, wanted.partition, partition.synced, length))
                for entry in found:
                    parts += entry.parts
                size += length
        left_s = deadline_s - time.monotonic()
        if size >= request.min_bytes or left_s <= 0:
            send(*parts)
            return
        waited = [
            self.partition(topic.topic, wanted.partition) for topic in request.topics for wanted in topic.partitions
        ]
        _once(partial(self._fetch, version, request, send, deadline_s), left_s, waited)


def _entries(partition: Partition, offset: int, room: int, *, at_least_one: bool) -> Iterator[Entry]:
    """Synced batches from the one that holds `offset`, as many as fit."""
    entries = partition.entries
    for number in range(bisect.bisect_right(entries, offset, key=lambda entry: entry.end), len(entries)):
        entry = entries[number]
        if entry.end > partition.synced or (entry.size > room and not at_least_one):
            return
        room -= entry.size
        at_least_one = False
        yield entry


def _fetched(version: int, index: int, end: int, size: int) -> bytes:
    head = struct.pack(">ihqq", index, 0, end, end)
    head += struct.pack(">q", 0) if version >= FETCH_LOG_START else b""
    head += struct.pack(">i", -1)  # no aborted transactions
    head += struct.pack(">i", -1) if version >= FETCH_READ_REPLICA else b""
    return head + struct.pack(">i", size)


def _once(again: Callable[[], None], after_s: float, waited: list[Partition]) -> None:
    """Call back after this time, or when one of the partitions has more."""
    called = False

    def call() -> None:
        nonlocal called
        if not called:
            called = True
            timer.cancel()
            again()

    timer = asyncio.get_running_loop().call_later(after_s, call)
    for partition in waited:
        partition.waiters.append(call)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def _strings(message: bytes, at: int) -> Iterator[str]:
    (count,) = struct.unpack_from(">i", message, at)
    at += 4
    for _ in range(max(count, 0)):
        (length,) = struct.unpack_from(">h", message, at)
        yield message[at + 2 : at + 2 + length].decode()
        at += 2 + length


class Connection(asyncio.Protocol):
    """Requests of one client, each answered in its turn."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = bytearray()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) - at >= 4:
            (length,) = struct.unpack_from(">i", received, at)
            if len(received) - at - 4 < length:
                break
            self._handle(bytes(memoryview(received)[at + 4 : at + 4 + length]))
            at += 4 + length
        del received[:at]

    def _handle(self, message: bytes) -> None:
        key, version, correlation, id_length = struct.unpack_from(">hhih", message)
        at, send, server = 10 + max(id_length, 0), partial(self._send, correlation), self._server
        if key == PRODUCE:
            server.produce(version, message, at, send)
        elif key == FETCH:
            server.fetch(version, message, at, send)
        elif key == LIST_OFFSETS:
            send(server.list_offsets(message, at))
        elif key == METADATA:
            send(server.metadata(version, message, at))
        elif key == API_VERSIONS:
            send(server.api_versions(version))
        else:
            self._transport.abort()

    def _send(self, correlation: int, *parts: Buffer) -> None:
        self._transport.writelines([struct.pack(">ii", 4 + sum(map(len, parts)), correlation), *parts])


async def _serve(path: str, port: int, partitions: int) -> None:
    server = Server(Log(path), port, partitions)
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", port)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(os.environ["PORT"]), int(os.environ["NPART"])))
