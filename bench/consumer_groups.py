"""What consumer groups (KIP-848) cost: `python -m bench.consumer_groups`.

Keeps: members are heartbeats on sockets, without a library, so that the server is measured and not a thousand clients;
they behave as clients must: they give up at once what they are told to, and beat at the server's interval.

- A group of many members over many partitions that all join at once: seconds until each has its share; then the
  server's CPU at rest, in % of a core.
- A group of 100 members, one of which leaves: seconds until the others have its partitions, and how many of the others'
  own partitions moved (a partition that stays with its member is read on without a gap).

A Kafka stands beside if `--kafka` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import struct
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import confluent_kafka

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Kafka, Penstock, Server
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible

RESULT: Final = Path(__file__).resolve().parent / "results" / "consumer-groups.json"
HEARTBEAT: Final = 68
VERSION: Final = 1
CONNECTIONS: Final = 50
REBALANCE_TIMEOUT_MS: Final = 60_000
CONVERGES_WITHIN_S: Final = 120.0
REST_S: Final = 30.0
FOUND_WITHIN_S: Final = 30.0
SETTLE_S: Final = 10.0
FEW: Final = 100

Owned = dict[UUID, frozenset[int]]


class Connection:
    """One socket that many members share; requests are answered in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ask = request_codec(HEARTBEAT, VERSION)
        self._answer = response_codec(HEARTBEAT, VERSION)
        self._start = 5 if response_header_is_flexible(HEARTBEAT, self._answer.flexible) else 4
        self._waiting: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def heartbeat(self, body: dict[str, Any]) -> Any:
        header = encode_request_header(RequestHeader(HEARTBEAT, VERSION, 1, "bench"), self._ask.flexible)
        frame = header + bytes(self._ask.encode(body))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(answer)
        self._writer.write(struct.pack(">i", len(frame)) + frame)
        return await answer

    async def _read(self) -> None:
        while True:
            (size,) = struct.unpack(">i", await self._reader.readexactly(4))
            data = await self._reader.readexactly(size)
            answer = await self._waiting.get()
            if not answer.done():  # its member may have left
                answer.set_result(self._answer.decode(memoryview(data), self._start))

    def close(self) -> None:
        self._reading.cancel()
        self._writer.close()


@dataclass
class Member:
    """One member, as a client's heartbeat thread."""

    connection: Connection
    group: str
    name: str
    topic: str
    epoch: int = 0
    owned: Owned = field(default_factory=dict)
    moved: int = 0
    beats: int = 0

    @property
    def count(self) -> int:
        return sum(map(len, self.owned.values()))

    async def live(self) -> None:
        while True:
            interval_s, is_told = await self.beat(self.epoch)
            if not is_told:
                await asyncio.sleep(interval_s)

    async def beat(self, epoch: int, *, says: bool = False) -> tuple[float, bool]:
        """One heartbeat; the time to the next, and whether the member was told another assignment."""
        joins = epoch == 0
        body: dict[str, Any] = {
            "group_id": self.group,
            "member_id": self.name,
            "member_epoch": epoch,
            "rebalance_timeout": REBALANCE_TIMEOUT_MS if joins else -1,
            "subscribed_topic_names": [self.topic] if joins else None,
            "topic_partitions": None,
        }
        if joins or says:
            body["topic_partitions"] = [{"topic_id": t, "partitions": sorted(p)} for t, p in self.owned.items()]
        answer = await self.connection.heartbeat(body)
        self.beats += 1
        if answer.error_code:
            raise SystemExit(f"{self.name}: error {answer.error_code}, {answer.error_message}")
        self.epoch = answer.member_epoch
        if epoch < 0 or answer.assignment is None:
            return answer.heartbeat_interval / 1_000, False
        given = {t.topic_id: frozenset(t.partitions) for t in answer.assignment.topic_partitions}
        if given == self.owned:
            return answer.heartbeat_interval / 1_000, False
        self.moved += sum(len(held - given.get(topic, frozenset())) for topic, held in self.owned.items())
        self.owned = given
        return await self.beat(self.epoch, says=True)


class Crowd:
    """The members of one group."""

    def __init__(self, address: str, group: str, topic: str) -> None:
        self._host, self._port = address.rsplit(":", 1)
        self._group = group
        self._topic = topic
        self._connections: list[Connection] = []
        self.members: list[Member] = []
        self._lives: dict[str, asyncio.Task[None]] = {}

    async def join(self, count: int) -> None:
        for _ in range(min(CONNECTIONS, count)):
            self._connections.append(Connection(*await asyncio.open_connection(self._host, int(self._port))))
        for number in range(count):
            connection = self._connections[number % len(self._connections)]
            member = Member(connection, self._group, f"member-{number:05}", self._topic)
            self.members.append(member)
            self._lives[member.name] = asyncio.create_task(member.live())

    async def until_shared(self, partitions: int) -> float:
        """Seconds until every partition has an owner and no member has more than its share."""
        began = time.perf_counter()
        most = -(-partitions // len(self.members))
        while True:
            for life in self._lives.values():
                if life.done():
                    life.result()
            counts = [member.count for member in self.members]
            if sum(counts) == partitions and max(counts) <= most:
                return time.perf_counter() - began
            if time.perf_counter() - began > CONVERGES_WITHIN_S:
                raise SystemExit(f"{len(counts)} members have {sum(counts)} of {partitions}, one {max(counts)}")
            await asyncio.sleep(0.02)

    async def leave(self, member: Member) -> None:
        self._lives.pop(member.name).cancel()
        self.members.remove(member)
        await member.beat(-1)

    async def end(self) -> None:
        for life in self._lives.values():
            life.cancel()
        await asyncio.gather(*self._lives.values(), return_exceptions=True)
        for connection in self._connections:
            connection.close()


def _find_coordinators(bootstrap: str, topic: str) -> None:
    """Kafka makes its topic of groups when a client first looks for a coordinator."""
    for group in ("crowd", "few"):
        consumer = confluent_kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        consumer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=FOUND_WITHIN_S)
        consumer.close()


async def measured(results: Results, server: Server, bootstrap: str, members: int, partitions: int) -> None:
    """One server's figures."""
    topic = f"crowd-{partitions}"
    server.create_topic(topic, partitions)
    await asyncio.to_thread(_find_coordinators, bootstrap, topic)
    title = f"{members:,} members, {partitions:,} partitions"
    await asyncio.sleep(SETTLE_S)
    cpu_s, began = server.cpu_seconds(), time.perf_counter()
    await asyncio.sleep(SETTLE_S)
    idle = (server.cpu_seconds() - cpu_s) / (time.perf_counter() - began) * 100
    crowd = Crowd(bootstrap, "crowd", topic)
    await crowd.join(members)
    results.add(server.name, f"{title}: all have their share", "s", await crowd.until_shared(partitions))
    await asyncio.sleep(SETTLE_S)
    cpu_s, began, beats = server.cpu_seconds(), time.perf_counter(), sum(m.beats for m in crowd.members)
    await asyncio.sleep(REST_S)
    seconds = time.perf_counter() - began
    used = (server.cpu_seconds() - cpu_s) / seconds * 100
    results.add(
        server.name, f"{title}: heartbeats at rest", "1/s", (sum(m.beats for m in crowd.members) - beats) / seconds
    )
    results.add(server.name, f"{title}: CPU at rest", "% of a core", used)
    results.add(server.name, f"{title}: CPU at rest, beyond that without members", "% of a core", used - idle)
    await crowd.end()

    few = Crowd(bootstrap, "few", topic)
    await few.join(FEW)
    await few.until_shared(partitions)
    before = {member.name: member.moved for member in few.members}
    await few.leave(few.members[FEW // 2])
    results.add(server.name, f"one of {FEW} leaves: the others have all", "s", await few.until_shared(partitions))
    moved = sum(member.moved - before[member.name] for member in few.members)
    results.add(server.name, f"one of {FEW} leaves: partitions that others gave up", "", moved)
    await few.end()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.consumer_groups", description=__doc__)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--kafka", action="store_true", help="measure Apache Kafka, too")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "consumer-groups"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results(ratio_to="kafka")
    for kind in (Penstock, Kafka) if options.kafka else (Penstock,):
        print(f"measuring {kind.name}", file=sys.stderr, flush=True)
        with ExitStack() as cleanup:
            server = kind(scratch / kind.name)
            cleanup.callback(server.stop)
            asyncio.run(measured(results, server, server.bootstrap, options.members, options.partitions))
    results.show()
    results.write(RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
