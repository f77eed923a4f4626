"""What consumer groups (KIP-848) cost: `python -m bench.consumer_groups`.

Keeps: members are heartbeats on sockets, without a library, so that the server is measured and not a thousand clients;
they behave as clients must: they give up at once what they are told to, and beat at the server's interval.

- A group of many members over many partitions that all join at once: seconds until each has its share; then the
  server's CPU at rest, in % of a core.
- A group of 100 members, one of which leaves: seconds until the others have its partitions, and how many of the others'
  own partitions moved.
- The same with records: each member reads its partition, to which a record comes 20 times a second. The longest time in
  which a member that stays got none, while one leaves and its partition goes to another.
- `--leaving` measures the last two alone.
- `--topics N`: one member subscribes to N topics of one partition each. The figure is the longest answer to another
  group's heartbeat meanwhile.

A Kafka stands beside if `--kafka` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from ctypes import c_longlong
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

import confluent_kafka
from confluent_kafka.admin import AdminClient, NewTopic

from bench import disk, loadgen
from bench.results import Results
from bench.servers import Kafka, Penstock, Server
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.headers import RequestHeader, encode_request_header, response_header_is_flexible

RESULT: Final = Path(__file__).resolve().parent / "results" / "consumer-groups.json"
HEARTBEAT: Final = 68
VERSION: Final = 1
FETCH: Final = 1
FETCH_VERSION: Final = 12
FETCH_WAIT_MS: Final = 200
FETCH_BYTES: Final = 1 << 20
RECORD_EVERY_S: Final = 0.05
READS_S: Final = 5.0
"""Time that all read before one leaves, and after."""
BEATS_EVERY_S: Final = 0.005
CREATED_WITHIN_S: Final = 300.0
CONNECTIONS: Final = 50
ANSWER_BYTES_MAX: Final = 64 << 20
REBALANCE_TIMEOUT_MS: Final = 60_000
CONVERGES_WITHIN_S: Final = 120.0
REST_S: Final = 30.0
FOUND_WITHIN_S: Final = 180.0
"""A Kafka makes the logs of a new topic first, of 10,000 partitions in half a minute and more."""
SETTLE_S: Final = 10.0
FEW: Final = 100

Owned = dict[UUID, frozenset[int]]


class Connection:
    """One socket that many members share; requests are answered in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api: tuple[int, int]) -> None:
        self._reader = reader
        self._writer = writer
        self._api = api
        self._ask = request_codec(*api)
        self._answer = response_codec(*api)
        self._start = 5 if response_header_is_flexible(api[0], self._answer.flexible) else 4
        self._waiting: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def to(cls, address: str, api: tuple[int, int] = (HEARTBEAT, VERSION)) -> Connection:
        host, port = address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port), limit=ANSWER_BYTES_MAX), api)

    async def ask(self, body: dict[str, Any]) -> Any:
        header = encode_request_header(RequestHeader(*self._api, 1, "bench"), self._ask.flexible)
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
    topics: tuple[str, ...]
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
            "subscribed_topic_names": list(self.topics) if joins else None,
            "topic_partitions": None,
        }
        if joins or says:
            body["topic_partitions"] = [{"topic_id": t, "partitions": sorted(p)} for t, p in self.owned.items()]
        answer = await self.connection.ask(body)
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
        self._address = address
        self._group = group
        self._topic = topic
        self._connections: list[Connection] = []
        self.members: list[Member] = []
        self._lives: dict[str, asyncio.Task[None]] = {}

    async def join(self, count: int) -> None:
        for _ in range(min(CONNECTIONS, count)):
            self._connections.append(await Connection.to(self._address))
        for number in range(count):
            connection = self._connections[number % len(self._connections)]
            member = Member(connection, self._group, f"member-{number:05}", (self._topic,))
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
    await _one_leaves(results, server, bootstrap, partitions)


async def _one_leaves(results: Results, server: Server, bootstrap: str, partitions: int) -> None:
    """What the others have of it when one of a hundred members leaves."""
    topic = f"few-{partitions}"
    server.create_topic(topic, partitions)
    await asyncio.to_thread(_find_coordinators, bootstrap, topic)
    await asyncio.sleep(SETTLE_S)
    few = Crowd(bootstrap, "few", topic)
    await few.join(FEW)
    await few.until_shared(partitions)
    before = {member.name: member.moved for member in few.members}
    await few.leave(few.members[FEW // 2])
    results.add(server.name, f"one of {FEW} leaves: the others have all", "s", await few.until_shared(partitions))
    moved = sum(member.moved - before[member.name] for member in few.members)
    results.add(server.name, f"one of {FEW} leaves: partitions that others gave up", "", moved)
    await few.end()
    await _read_while_one_leaves(results, server, bootstrap)


class Reading:
    """One member that reads what it has; `longest_s`: the longest time without a record from a partition it kept."""

    def __init__(self, member: Member, topic: str, connection: Connection) -> None:
        self.member = member
        self.longest_s = 0.0
        self._topic = topic
        self._connection = connection
        self._offsets: dict[int, int] = {}
        self._last_s: dict[int, float] = {}

    async def live(self) -> None:
        while True:
            has = sorted(number for held in self.member.owned.values() for number in held)
            for lost in self._last_s.keys() - set(has):
                del self._last_s[lost]
            if not has:
                await asyncio.sleep(RECORD_EVERY_S)
                continue
            await self._fetch(has)

    async def _fetch(self, partitions: list[int]) -> None:
        wanted = [
            {
                "partition": number,
                "fetch_offset": self._offsets.get(number, 0),
                "partition_max_bytes": FETCH_BYTES,
                "current_leader_epoch": -1,
                "last_fetched_epoch": -1,
                "log_start_offset": -1,
            }
            for number in partitions
        ]
        body = {
            "replica_id": -1,
            "max_wait": FETCH_WAIT_MS,
            "min_bytes": 1,
            "max_bytes": FETCH_BYTES,
            "session_epoch": -1,
            "topics": [{"topic": self._topic, "partitions": wanted}],
            "forgotten_topics_data": [],
        }
        answer = await self._connection.ask(body)
        now_s = time.perf_counter()
        for told in [told for topic in answer.responses for told in topic.partitions]:
            number = told.partition_index
            records = bytes(told.records or b"")
            self.longest_s = max(self.longest_s, now_s - self._last_s.get(number, now_s))
            if records:
                self._offsets[number] = _next_offset(records)
                self._last_s[number] = now_s

    def forget(self) -> None:
        """Only what comes from now on counts."""
        self.longest_s = 0.0

    def close(self) -> None:
        self._connection.close()


def _next_offset(records: bytes) -> int:
    """The offset behind the last whole batch."""
    position, following = 0, 0
    while position + 61 <= len(records):
        base, size = struct.unpack_from(">qi", records, position)
        (last,) = struct.unpack_from(">i", records, position + 23)
        if position + 12 + size > len(records):
            break
        following = base + last + 1
        position += 12 + size
    return following


async def _produce(bootstrap: str, topic: str) -> None:
    """A record to each partition, again and again."""
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
    while True:
        for number in range(FEW):
            producer.produce(topic, b"x", partition=number)
        producer.poll(0)
        await asyncio.sleep(RECORD_EVERY_S)


async def _read_while_one_leaves(results: Results, server: Server, bootstrap: str) -> None:
    topic = "reading"
    server.create_topic(topic, FEW)
    crowd = Crowd(bootstrap, "reading", topic)
    await crowd.join(FEW)
    await crowd.until_shared(FEW)
    readers = [Reading(one, topic, await Connection.to(bootstrap, (FETCH, FETCH_VERSION))) for one in crowd.members]
    tasks = [asyncio.create_task(reader.live()) for reader in readers]
    tasks.append(asyncio.create_task(_produce(bootstrap, topic)))
    await asyncio.sleep(READS_S)
    for reader in readers:
        reader.forget()
    leaving = readers.pop(FEW // 2)
    tasks.pop(FEW // 2).cancel()
    await crowd.leave(leaving.member)
    await crowd.until_shared(FEW)
    await asyncio.sleep(READS_S)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    longest_s = max(reader.longest_s for reader in readers)
    results.add(server.name, f"one of {FEW} leaves: longest time that another got no record", "s", longest_s)
    for reader in [*readers, leaving]:
        reader.close()
    await crowd.end()


Question: TypeAlias = Callable[[], Awaitable[object]]
"""Sends one request; returns when it is answered."""


async def heartbeats(bootstrap: str, topic: str) -> Question:
    """Those of a member of another group."""
    member = Member(await Connection.to(bootstrap), "watching", "watcher", (topic,))
    await member.beat(0)
    return lambda: member.beat(member.epoch)


class Watcher:
    """Another client, in a process of its own, which asks without a pause and notes the longest answer."""

    def __init__(
        self, bootstrap: str, topic: str, asking: Callable[[str, str], Awaitable[Question]] = heartbeats
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._longest_ns = context.Value(c_longlong, 0)
        self._process = context.Process(target=_watch, args=(asking, bootstrap, topic, self._longest_ns), daemon=True)
        self._process.start()

    def longest_ms(self) -> float:
        """Of the answers since the last call."""
        with self._longest_ns.get_lock():
            longest_ns, self._longest_ns.value = self._longest_ns.value, 0
        return float(longest_ns) / 1e6

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _watch(
    asking: Callable[[str, str], Awaitable[Question]], bootstrap: str, topic: str, longest_ns: Synchronized[int]
) -> None:
    async def watch() -> None:
        ask = await asking(bootstrap, topic)
        while True:
            began_ns = time.perf_counter_ns()
            await ask()
            with longest_ns.get_lock():
                longest_ns.value = max(longest_ns.value, time.perf_counter_ns() - began_ns)
            await asyncio.sleep(BEATS_EVERY_S)

    asyncio.run(watch())


async def _held_up(results: Results, server: Server, bootstrap: str, count: int) -> None:
    """A member with very many topics joins, and gets them."""
    names = tuple(f"many-{number:06}" for number in range(count))
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for first in range(0, count, 1_000):
        made = admin.create_topics([NewTopic(name, 1, 1) for name in names[first : first + 1_000]])
        for outcome in made.values():
            outcome.result(CREATED_WITHIN_S)
    await asyncio.to_thread(_find_coordinators, bootstrap, names[0])
    watcher = Watcher(bootstrap, names[0])
    await asyncio.sleep(SETTLE_S)
    watcher.longest_ms()
    await asyncio.sleep(READS_S)
    results.add(server.name, "longest answer to a heartbeat", "ms", watcher.longest_ms())
    member = Member(await Connection.to(bootstrap), "many", "many", names)
    living = asyncio.create_task(member.live())
    began = time.perf_counter()
    while member.count < count:
        if living.done():
            living.result()
        if time.perf_counter() - began > CONVERGES_WITHIN_S:
            raise SystemExit(f"a member has {member.count} of {count} topics")
        await asyncio.sleep(0.02)
    results.add(server.name, f"a member of {count:,} topics has them", "s", time.perf_counter() - began)
    await asyncio.sleep(1.0)  # it says that it has them
    what = f"longest answer to a heartbeat of others while one member gets {count:,} topics"
    results.add(server.name, what, "ms", watcher.longest_ms())
    living.cancel()
    await asyncio.gather(living, return_exceptions=True)
    watcher.end()
    member.connection.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.consumer_groups", description=__doc__)
    parser.add_argument("--members", type=int, default=1_000)
    parser.add_argument("--partitions", type=int, default=10_000)
    parser.add_argument("--topics", type=int, default=0, help="measure only a member of so many topics")
    parser.add_argument("--leaving", action="store_true", help="measure only what others have of a member that leaves")
    parser.add_argument("--kafka", action="store_true", help="measure Apache Kafka, too")
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "consumer-groups"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results(ratio_to="kafka")
    if options.leaving and RESULT.exists():
        results.keep(RESULT, (f"one of {FEW} leaves",))
    for kind in (Penstock, Kafka) if options.kafka else (Penstock,):
        print(f"measuring {kind.name}", file=sys.stderr, flush=True)
        with ExitStack() as cleanup:
            server = kind(scratch / kind.name)
            cleanup.callback(server.stop)
            if options.topics:
                asyncio.run(_held_up(results, server, server.bootstrap, options.topics))
            elif options.leaving:
                asyncio.run(_one_leaves(results, server, server.bootstrap, options.partitions))
            else:
                asyncio.run(measured(results, server, server.bootstrap, options.members, options.partitions))
            if not options.topics:
                results.write(RESULT)
    results.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
