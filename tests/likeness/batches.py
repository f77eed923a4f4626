"""Damaged batches, and what Kafka answers to each: `python -m tests.likeness.batches` asks it again.

`batches.json` has its answers by kind of topic: the error code, and the places of the records that are named for it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gateway.records.compression import compress
from gateway.records.record_batch import GZIP, HEADER, HEADER_BYTES, NONE, ZSTD, BatchHeader
from gateway.records.records import Record, build_batch, seal_batch
from tests.gateway.harness import PRODUCE, Client, produce_body
from tests.gateway.records.test_record_check import BAD, raw

ANSWERS: Final = Path(__file__).with_name("batches.json")
KINDS: Final[dict[str, dict[str, str]]] = {
    "default": {},
    "stamped": {"message_timestamp_type": "LogAppendTime"},
    "compacted": {"cleanup_policy": "compact"},
    "gzip": {"compression_type": "gzip"},
}
CODECS: Final = {"none": NONE, "gzip": GZIP, "zstd": ZSTD}
BEFORE: Final = (0, 20)
Answers = dict[str, dict[str, list[Any]]]


def batches() -> Iterator[tuple[str, bytes]]:
    """Batches by name, in which the last record is damaged or odd."""
    at = time.time_ns() // 1_000_000
    for codec, number in CODECS.items():
        for before in BEFORE:
            good = b"".join(raw(0, n, 1, b"k", 1, b"v", 0) for n in range(before))
            odd = {
                "a wrong offset": raw(0, before + 7, 1, b"k", -1, 0),
                "no key": raw(0, before, -1, -1, 0),
                "a timestamp far ahead": raw(10**11, before, 1, b"k", -1, 0),
                "a timestamp after the newest": raw(500, before, 1, b"k", -1, 0),
            }
            for name, last in {**BAD, **odd}.items():
                body = compress(number, good + last)
                head = build_batch([Record(n, at, b"k", b"v") for n in range(before + 1)])[:HEADER_BYTES]
                fields = BatchHeader(*HEADER.unpack_from(head))
                fields = fields._replace(attributes=number, batch_length=HEADER_BYTES - 12 + len(body))
                batch = bytearray(HEADER.pack(*fields)) + body
                seal_batch(batch)
                yield f"{codec}, {before} before: {name}", bytes(batch)


async def ask(client: Client) -> Answers:
    """The answers of a server that has a topic of each kind."""
    answers: Answers = {}
    for name, batch in batches():
        answers[name] = {}
        for kind in KINDS:
            answer = await client.ask(PRODUCE, 8, produce_body(kind, [(0, batch)]))
            (one,) = answer.responses[0].partition_responses
            answers[name][kind] = [int(one.error_code), [error.batch_index for error in one.record_errors]]
    return answers


def main() -> None:
    from bench.servers import Kafka, create_topic

    directory = Path(__file__).parents[2] / "build" / "likeness-batches"
    shutil.rmtree(directory, ignore_errors=True)
    server = Kafka(directory)
    try:
        for kind, config in KINDS.items():
            create_topic(server.bootstrap, kind, 1, {key.replace("_", "."): value for key, value in config.items()})

        async def asked() -> Answers:
            client = Client(*await asyncio.open_connection("127.0.0.1", int(server.bootstrap.rpartition(":")[2])))
            return await ask(client)

        answers = asyncio.run(asked())
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    lines = (f"{json.dumps(name)}: {json.dumps(kinds)}" for name, kinds in answers.items())
    ANSWERS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
