"""What a group of 100,000 partitions or tasks costs others, over the wire: `python -m bench.wide_groups`.

For each kind of group (consumer, share, streams) a gateway is started, and ten topics are made. A member comes and gets
all partitions; a second one comes, and half of them move; the first one leaves, and the other gets all; the group is
described. With a share group a session over as many partitions as one may have is begun, goes on, and ends. The figures
of each step are the longest answers to a heartbeat of another group's member and to a Produce of one record, whose
clients ask without a pause; and the longest turn of the gateway's event loop so far, in processor time of its thread,
which other work on the machine does not lengthen.

Keeps: members behave as real clients: at once they give up what the group takes from them, and report it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from bench import consumer_groups, disk, loadgen
from bench.consumer_groups import CONVERGES_WITHIN_S, READS_S, REBALANCE_TIMEOUT_MS, Connection, Question, Watcher
from bench.hostile.wire import Stranger, frame
from bench.results import Results
from bench.servers import ROOT, Penstock
from gateway.records.records import Record, build_batch

RESULT: Final = Path(__file__).resolve().parent / "results" / "wide-groups.json"
PRODUCE: Final = (0, 9)
SHARE_HEARTBEAT: Final = (76, 1)
SHARE_FETCH: Final = (78, 1)
STREAMS_HEARTBEAT: Final = (88, 0)
DESCRIBE: Final = {
    "consumer": "ConsumerGroupDescribe",
    "share": "ShareGroupDescribe",
    "streams": "StreamsGroupDescribe",
}
DESCRIBE_VERSION: Final = {"consumer": 0, "share": 1, "streams": 0}
PARTITION_BYTES: Final = 4
GROUP: Final = "large"
SESSION_PARTITIONS: Final = 10_000
"""As many as a share session may have."""
TOPICS: Final = 10
SETTLE_S: Final = 5.0
AFTER_S: Final = 1.0
"""Time in which others may still wait for what the last heartbeat began."""
BEATS_EVERY_S: Final = 0.05


class Member(Protocol):
    """One member, each of a process of its own."""

    @property
    def count(self) -> int:
        """Partitions, or tasks, that it has."""

    async def go_on(self) -> None:
        """One heartbeat, and what it has to say of what it hears."""

    async def leave(self) -> None: ...


class Consuming:
    """A member of a consumer group."""

    api: Final = (consumer_groups.HEARTBEAT, consumer_groups.VERSION)

    def __init__(self, connection: Connection, name: str, topics: Sequence[str]) -> None:
        self._member = consumer_groups.Member(connection, GROUP, name, tuple(topics))

    @property
    def count(self) -> int:
        return self._member.count

    async def go_on(self) -> None:
        await self._member.beat(self._member.epoch)

    async def leave(self) -> None:
        await self._member.beat(-1)


class Sharing:
    """A member of a share group."""

    api: Final = SHARE_HEARTBEAT

    def __init__(self, connection: Connection, name: str, topics: Sequence[str]) -> None:
        self._connection, self.name, self._topics = connection, name, list(topics)
        self._epoch = 0
        self.partitions: dict[Any, list[int]] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self.partitions.values()))

    async def go_on(self) -> None:
        answer = await self._beat(self._epoch)
        self._epoch = answer.member_epoch
        if answer.assignment is not None:
            told = answer.assignment.topic_partitions
            self.partitions = {topic.topic_id: list(topic.partitions) for topic in told}

    async def leave(self) -> None:
        await self._beat(-1)

    async def _beat(self, epoch: int) -> Any:
        names = None if epoch else self._topics
        member = {"member_id": self.name, "member_epoch": epoch, "rack_id": None}
        body = {"group_id": GROUP, **member, "subscribed_topic_names": names}
        return _checked(await self._connection.ask(body))


class Streaming:
    """A member of a streams group; each topic is a subtopology, each of its partitions a task."""

    api: Final = STREAMS_HEARTBEAT

    def __init__(self, connection: Connection, name: str, topics: Sequence[str]) -> None:
        self._connection, self._name, self._topics = connection, name, topics
        self._epoch = 0
        self._endpoint_epoch = -1
        self._tasks: dict[str, list[int]] = {}

    @property
    def count(self) -> int:
        return sum(map(len, self._tasks.values()))

    async def go_on(self) -> None:
        if await self._beat(self._epoch, says=self._epoch == 0):
            await self._beat(self._epoch, says=True)

    async def leave(self) -> None:
        await self._beat(-1, says=False)

    async def _beat(self, epoch: int, *, says: bool) -> bool:
        """One heartbeat; tells whether the member has other tasks now, and has not said so yet."""
        unsaid = ("active_tasks", "standby_tasks", "warmup_tasks", "client_tags", "task_offsets", "task_end_offsets")
        body: dict[str, Any] = dict.fromkeys(unsaid)
        body |= {"group_id": GROUP, "member_id": self._name, "member_epoch": epoch}
        body |= {"endpoint_information_epoch": self._endpoint_epoch}
        if epoch == 0:
            joining = {"rebalance_timeout": REBALANCE_TIMEOUT_MS, "process_id": self._name}
            body |= {**joining, "topology": _topology(self._topics), "user_endpoint": {"host": "here", "port": 1}}
        if says:
            told = [{"subtopology_id": name, "partitions": numbers} for name, numbers in self._tasks.items()]
            body |= {"active_tasks": told, "standby_tasks": [], "warmup_tasks": []}
        answer = _checked(await self._connection.ask(body))
        self._epoch, self._endpoint_epoch = answer.member_epoch, answer.endpoint_information_epoch
        if epoch < 0 or answer.active_tasks is None:
            return False
        tasks = {part.subtopology_id: list(part.partitions) for part in answer.active_tasks}
        is_news, self._tasks = tasks != self._tasks, tasks
        return is_news


KINDS: Final[dict[str, type[Consuming] | type[Sharing] | type[Streaming]]] = {
    "consumer": Consuming,
    "share": Sharing,
    "streams": Streaming,
}


SIZES: Final = {"consumer": 100_000, "share": 100_000, "streams": 99_000}
"""A message has 200,000 elements at most, and a streams member hears of each task twice: that it is its own, and where
its partition is."""


def _topology(topics: Sequence[str]) -> dict[str, Any]:
    absent = ("source_topic_regex", "state_changelog_topics", "repartition_sink_topics", "repartition_source_topics")
    nothing: dict[str, list[Any]] = {name: [] for name in (*absent, "copartition_groups")}
    parts = [{"subtopology_id": topic, "source_topics": [topic], **nothing} for topic in topics]
    return {"epoch": 0, "subtopologies": parts}


def _checked(answer: Any) -> Any:
    if answer.error_code:
        raise SystemExit(f"error {answer.error_code}, {answer.error_message}")
    return answer


async def produces(bootstrap: str, topic: str) -> Question:
    """One record at a time."""
    batch = bytes(build_batch([Record(0, 0, None, b"x" * 100)]))
    data = [{"name": topic, "partition_data": [{"index": 0, "records": batch}]}]
    said = {"transactional_id": None, "acks": -1, "timeout": 60_000, "topic_data": data}
    return partial((await Connection.to(bootstrap, PRODUCE)).ask, said)


async def _until(members: Sequence[Member], counts: Sequence[int]) -> None:
    """Send heartbeats of all members until each has its share."""
    ends_s = time.perf_counter() + CONVERGES_WITHIN_S
    while [member.count for member in members] != counts:
        if time.perf_counter() > ends_s:
            raise SystemExit(f"{[member.count for member in members]} in place of {counts}")
        for member in members:
            await member.go_on()
        await asyncio.sleep(BEATS_EVERY_S)


def _describe(bootstrap: str, kind: str, count: int) -> None:
    """Ask for the group; the answer has more elements than our own decoder takes, and is only weighed."""
    host, _, port = bootstrap.rpartition(":")
    with contextlib.closing(Stranger((host, int(port)))) as stranger:
        stranger.send(frame(DESCRIBE[kind], DESCRIBE_VERSION[kind], {"group_ids": [GROUP]}))
        if len(stranger.skip()) < count * PARTITION_BYTES:
            raise SystemExit("the group is described without its partitions")


class Session:
    """A share session of a member, over as many of its partitions as one may have."""

    def __init__(self, connection: Connection, member: Sharing) -> None:
        self._connection = connection
        limits = {"max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20, "max_records": 1, "batch_size": 1}
        self._said = {"group_id": GROUP, "member_id": member.name, "forgotten_topics_data": [], **limits}
        left = SESSION_PARTITIONS
        self._topics = []
        for topic, numbers in member.partitions.items():
            partitions = [{"partition_index": number, "acknowledgement_batches": []} for number in numbers[:left]]
            self._topics.append({"topic_id": topic, "partitions": partitions})
            left -= len(partitions)

    async def fetch(self, epoch: int, *, names: bool = False) -> None:
        topics = self._topics if names else []
        _checked(await self._connection.ask({**self._said, "share_session_epoch": epoch, "topics": topics}))


def title(kind: str, topics: int) -> str:
    """What the rows of a run begin with: those of another number of topics stand beside those of TOPICS."""
    return f"{kind}:" if topics == TOPICS else f"{kind}, number of topics {topics:,}:"


async def measured(results: Results, server: Penstock, kind: str, count: int, topics: int) -> None:
    """The figures of one kind of group."""
    begins = title(kind, topics)
    names = [f"large-{number}" for number in range(topics)]
    for name in names:
        server.create_topic(name, count // topics)
    server.create_topic("watched", 1)
    waits = {
        "heartbeat": Watcher(server.bootstrap, "watched"),
        "Produce": Watcher(server.bootstrap, "watched", produces),
    }

    async def noted(what: str, work: Callable[[], Awaitable[None]]) -> None:
        for watcher in waits.values():
            watcher.longest_ms()
        began_s = time.perf_counter()
        await work()
        seconds = time.perf_counter() - began_s
        print(f"{begins} {what}, {seconds:.1f} s, {_longest_ms(server)} ms", file=sys.stderr, flush=True)
        await asyncio.sleep(AFTER_S)
        for other, watcher in waits.items():
            results.add(server.name, f"{begins} longest {other} of others, {what}", "ms", watcher.longest_ms())
        results.add(server.name, f"{begins} time until {what}", "s", seconds)
        results.add(server.name, f"{begins} longest turn of the loop until {what}", "ms of CPU", _longest_ms(server))

    members: list[Any] = []
    for number in range(2):
        connection = await Connection.to(server.bootstrap, KINDS[kind].api)
        members.append(KINDS[kind](connection, f"member-{number}", names))
    first, second = members
    half = count // 2
    await asyncio.sleep(SETTLE_S)
    await noted("nothing happens", partial(asyncio.sleep, READS_S))
    await noted(f"a member has {count:,}", partial(_until, [first], [count]))
    await noted("half of them are with a second one", partial(_until, [first, second], [count - half, half]))
    await first.leave()
    await noted("all are with the second one", partial(_until, [second], [count]))
    await noted("the group is described", partial(asyncio.to_thread, _describe, server.bootstrap, kind, count))
    if isinstance(second, Sharing):
        session = Session(await Connection.to(server.bootstrap, SHARE_FETCH), second)
        await noted(f"a session of {SESSION_PARTITIONS:,} is begun", partial(session.fetch, 0, names=True))
        await noted("the session goes on", partial(session.fetch, 1))
        await noted("the session has ended", partial(session.fetch, -1))
    for watcher in waits.values():
        watcher.end()


def _longest_ms(server: Penstock) -> float:
    """The longest turn of its loop since it serves: the last of the numbers that it wrote."""
    lines = (server.directory / "output.log").read_text().splitlines()
    return float(next(line for line in reversed(lines) if re.fullmatch(r"[\d.]+", line)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.wide_groups", description=__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--partitions", type=int, help="of all topics together")
    parser.add_argument("--topics", type=int, default=TOPICS)
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "wide-groups"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results()
    if RESULT.exists():
        results.keep(RESULT, tuple(title(kind, options.topics) for kind in options.kinds))
    for kind in options.kinds:
        print(f"measuring {kind} groups", file=sys.stderr, flush=True)
        server = Penstock(scratch / kind, module="tests.gateway.turns", environment={"PYTHONPATH": str(ROOT)})
        try:
            asyncio.run(measured(results, server, kind, options.partitions or SIZES[kind], options.topics))
        finally:
            server.stop()
    results.show()
    results.write(RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
