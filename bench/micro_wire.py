"""The cost of one request in the wire layer: `python bench/micro_wire.py`, microseconds of CPU, best of several.

No socket and no store: decoding, checking, encoding, and a frame's way from the scratch buffer to its handler, and the
answer's way back to one write.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

import uvloop

from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.registry import Api, Registry
from gateway.metrics.counters import Metrics
from gateway.network.connection import Connection
from gateway.network.host import ServerLimits
from gateway.network.response_slot import ResponseSlot
from gateway.network.server import Server
from gateway.records.record_batch import validate_batch
from gateway.records.records import Record, build_batch, iter_records
from gateway.wire.codec import request_codec
from gateway.wire.headers import RequestHeader, encode_request_header
from gateway.wire.produce_request import decode_produce
from gateway.wire.responses import FetchedPartition, encode_fetch_response, encode_produce_response

PRODUCE = 0
LOOPS, REPEATS, PIPELINED = 20_000, 7, 64


class NoTransport:
    """Takes every write at once."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("bench", 1)

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass


def show(name: str, work: Callable[[], Any], loops: int = LOOPS, per_loop: int = 1) -> None:
    work()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(loops):
            work()
        best = min(best, time.process_time() - start)
    print(f"{name:<44}{best / loops / per_loop * 1e6:8.2f} µs")


def produce_body(version: int, batch: bytes) -> bytes:
    topic = {"name": "my-topic", "partition_data": [{"index": 3, "records": batch}]}
    values = {"acks": -1, "timeout": 30_000, "topic_data": [topic]}
    return bytes(request_codec(PRODUCE, version).encode(values))


async def frames(body: bytes) -> None:
    """One read with many pipelined requests, for a handler that only answers."""

    def answer(connection: Connection, header: RequestHeader, request: memoryview, reply: ResponseSlot) -> None:
        reply.send((b"x" * 50,))

    metrics = Metrics()
    apis = Registry([Api(key=PRODUCE, name="Produce", versions=range(3, 14), handle_raw=answer)])
    server = Server(ServerLimits(), Dispatcher(None, apis, metrics), metrics)
    connection = Connection(server, None)  # type: ignore[arg-type]
    connection.connection_made(NoTransport())  # type: ignore[arg-type]
    frame = encode_request_header(RequestHeader(PRODUCE, 9, 1, "rdkafka"), True) + body
    read = (struct.pack(">i", len(frame)) + frame) * PIPELINED
    server.scratch[: len(read)] = read

    def turn() -> None:
        connection.get_buffer(0)
        connection.buffer_updated(len(read))
        connection.flush()

    show("frame to handler and answer to write", turn, LOOPS // PIPELINED, PIPELINED)


def main() -> None:
    batch = bytes(build_batch([Record(0, 0, None, b"x" * 100)]))
    for version in (7, 9, 13):
        body = memoryview(bytearray(produce_body(version, batch)))
        show(f"decode Produce v{version}", lambda body=body, version=version: decode_produce(body, version))
        answer = [("my-topic", [(3, 0, 1_234_567, -1, 0)])]
        show(f"encode Produce v{version} response", lambda v=version, a=answer: encode_produce_response(v, a))
    view = memoryview(bytearray(batch))
    show("validate batch of 170 bytes", lambda: validate_batch(view))
    fetched = [("my-topic", [FetchedPartition(3, 0, 99, 99, 0, None, [batch], len(batch))])]
    show("encode Fetch v11 response", lambda: encode_fetch_response(11, fetched))
    thousand = build_batch([Record(n, n, b"key", b"x" * 100) for n in range(1_000)])
    show("iterate, per record", lambda: sum(1 for _ in iter_records(thousand)), 20, 1_000)
    uvloop.run(frames(produce_body(9, batch)))


if __name__ == "__main__":
    main()
