"""What a streams group (KIP-1071) of very many tasks costs others: `python -m bench.streams_groups`.

One application reads ten topics of many partitions, each a task. A member of it comes and gets all tasks; a second one
comes, and half of them move; the first one leaves, and the other gets all. The figure of each is the longest answer
to a heartbeat of another group's member, who beats without a pause. Members are heartbeats on sockets.

Keeps: members behave as real clients: at once they give up what the group takes from them, and report it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

from bench import disk, loadgen
from bench.consumer_groups import CONVERGES_WITHIN_S, READS_S, REBALANCE_TIMEOUT_MS, SETTLE_S, Connection, Watcher
from bench.results import Results
from bench.servers import Penstock

RESULT: Final = Path(__file__).resolve().parent / "results" / "streams-groups.json"
HEARTBEAT: Final = (88, 0)
TOPICS: Final = [f"tasks-{number}" for number in range(10)]
AFTER_S: Final = 1.0
"""Time in which others may still wait for what the last heartbeat began."""


def _topology() -> dict[str, Any]:
    nothing: dict[str, list[Any]] = {
        name: []
        for name in (
            "source_topic_regex",
            "state_changelog_topics",
            "repartition_sink_topics",
            "repartition_source_topics",
            "copartition_groups",
        )
    }
    parts = [{"subtopology_id": topic, "source_topics": [topic], **nothing} for topic in TOPICS]
    return {"epoch": 0, "subtopologies": parts}


class Member:
    """One member, each of a process of its own."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._epoch = 0
        self._endpoint_epoch = -1
        self.tasks: dict[str, list[int]] = {}

    async def beat(self, *, says: bool = False, leaves: bool = False) -> bool:
        """One heartbeat; tells whether the member has other tasks now, and has not said so yet."""
        joins = self._epoch == 0
        body: dict[str, Any] = {
            "group_id": "tasks",
            "member_id": self._name,
            "member_epoch": -1 if leaves else self._epoch,
            "endpoint_information_epoch": self._endpoint_epoch,
            "active_tasks": None,
            "standby_tasks": None,
            "warmup_tasks": None,
            "client_tags": None,
            "task_offsets": None,
            "task_end_offsets": None,
        }
        if joins:
            body |= {"rebalance_timeout": REBALANCE_TIMEOUT_MS, "process_id": self._name, "topology": _topology()}
        if joins or says:
            told = [{"subtopology_id": name, "partitions": numbers} for name, numbers in self.tasks.items()]
            body |= {"active_tasks": told, "standby_tasks": [], "warmup_tasks": []}
        answer = await self._connection.ask(body)
        if answer.error_code:
            raise SystemExit(f"{self._name}: error {answer.error_code}, {answer.error_message}")
        self._epoch, self._endpoint_epoch = answer.member_epoch, answer.endpoint_information_epoch
        if leaves or answer.active_tasks is None:
            return False
        tasks = {part.subtopology_id: list(part.partitions) for part in answer.active_tasks}
        is_news, self.tasks = tasks != self.tasks, tasks
        return is_news

    @property
    def count(self) -> int:
        return sum(map(len, self.tasks.values()))

    def close(self) -> None:
        self._connection.close()


async def _until(members: list[Member], counts: list[int]) -> None:
    """Send heartbeats of all members, with their tasks, until each has its share of them."""
    ends_s = time.perf_counter() + CONVERGES_WITHIN_S
    while [member.count for member in members] != counts:
        if time.perf_counter() > ends_s:
            raise SystemExit(f"{[member.count for member in members]} tasks in place of {counts}")
        for member in members:
            if await member.beat():
                await member.beat(says=True)
        await asyncio.sleep(0.05)


async def measured(results: Results, server: Penstock, count: int) -> None:
    for topic in TOPICS:
        server.create_topic(topic, count // len(TOPICS))
    server.create_topic("watched", 1)
    watcher = Watcher(server.bootstrap, "watched")

    async def noted(what: str, work: Awaitable[None]) -> None:
        watcher.longest_ms()
        began_s = time.perf_counter()
        await work
        seconds = time.perf_counter() - began_s
        await asyncio.sleep(AFTER_S)
        results.add(server.name, f"longest answer to a heartbeat of others, {what}", "ms", watcher.longest_ms())
        results.add(server.name, f"time until {what}", "s", seconds)

    await asyncio.sleep(SETTLE_S)
    await noted("nothing happens", asyncio.sleep(READS_S))
    first, second = [Member(await Connection.to(server.bootstrap, HEARTBEAT), name) for name in ("first", "second")]
    await noted(f"a member gets {count:,} tasks", _until([first], [count]))
    half = count // 2
    await noted(f"{half:,} of them move to a second member", _until([first, second], [count - half, half]))
    await first.beat(leaves=True)
    await noted("all are with the second member", _until([second], [count]))
    watcher.end()
    for member in (first, second):
        member.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.streams_groups", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    options = parser.parse_args()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "streams-groups"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    results = Results()
    server = Penstock(scratch / "penstock")
    try:
        asyncio.run(measured(results, server, options.tasks))
    finally:
        server.stop()
    results.show()
    results.write(RESULT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
