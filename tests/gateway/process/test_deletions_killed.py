"""A gateway is killed while offsets of a deleted topic go in steps, and a new topic of its name is there by then."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from core.store import Store
from gateway.config.loading import load
from gateway.config.places import STORE_DIRECTORY
from gateway.groups.persistence import OFFSETS_TABLE, decode_offset
from gateway.kafka_configs.broker_configs import BrokerConfigs
from tests.gateway.forking import serving
from tests.gateway.launching import Running
from tests.likeness.asking import Server

pytestmark = pytest.mark.slow

GROUPS: Final = 80
PARTITIONS: Final = 100
ROUNDS_MAX: Final = 5
SETTINGS: Final = ("log.file.bytes=4194304", "offsets.retention.check.interval.ms=3600000")
ARGUMENTS: Final = tuple(part for setting in SETTINGS for part in ("--set", setting))


class Client:
    """What administrators and consumers that assign by themselves say."""

    def __init__(self, gateway: Running) -> None:
        self._server = Server(gateway.ready()["kafka"][0], own={})

    def create(self, name: str) -> None:
        topics = [{"name": name, "num_partitions": PARTITIONS, "replication_factor": 1}]
        answer = self._server.said("CreateTopics", 5, {"topics": topics, "timeout": 10_000})
        assert [topic["error_code"] for topic in answer["topics"]] == [0]

    def delete(self, name: str) -> None:
        answer = self._server.said("DeleteTopics", 5, {"topic_names": [name], "timeout": 10_000})
        assert [topic["error_code"] for topic in answer["responses"]] == [0]

    def commit(self, group: str, offsets: dict[int, int]) -> None:
        partitions = [{"partition_index": n, "committed_offset": offset} for n, offset in offsets.items()]
        body = {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": ""}
        answer = self._server.said("OffsetCommit", 7, {**body, "topics": [{"name": "t", "partitions": partitions}]})
        assert {part["error_code"] for topic in answer["topics"] for part in topic["partitions"]} == {0}

    def committed(self, group: str) -> dict[int, int]:
        """The offsets of a group, by partition: of t, which alone may have any."""
        answer = self._server.said("OffsetFetch", 7, {"group_id": group, "topics": None, "require_stable": True})
        assert {topic["name"] for topic in answer["topics"]} <= {"t"}
        found = [part for topic in answer["topics"] for part in topic["partitions"]]
        return {part["partition_index"]: part["committed_offset"] for part in found}


def stored(directory: Path) -> tuple[int, int]:
    """Offsets in the log of a gateway that was killed: those of the topic t that there is, and others."""

    async def looked_at() -> tuple[int, int]:
        config = load(environ={}, assignments=SETTINGS)
        store = await Store.open(copy / STORE_DIRECTORY, config.store_config(), BrokerConfigs(config).policy_for)
        stream = store.streams.get("t")
        assert stream is not None
        rows = [decode_offset(value) for _, value in store.table(OFFSETS_TABLE).items()]
        of_t = [row for row in rows if row.topic_id == stream.uuid.bytes]
        await store.close()
        return len(of_t), len(rows) - len(of_t)

    copy = directory / "copy"
    shutil.copytree(directory / "data", copy)
    try:
        return asyncio.run(looked_at())
    finally:
        shutil.rmtree(copy)


def killed_between_steps(directory: Path) -> int:
    """Kill a gateway soon after a topic was deleted and made anew. Returns how many offsets of the old one are left."""
    with serving(directory, *ARGUMENTS) as gateway:
        client = Client(gateway)
        client.create("t")
        for group in range(GROUPS):
            client.commit(f"g{group}", dict.fromkeys(range(PARTITIONS), 7))
        client.delete("t")
        client.create("t")
        client.commit(f"g{GROUPS - 1}", {0: 1})
        gateway.process.kill()
        gateway.end()
    kept, left = stored(directory)
    assert kept == 1
    return left


def test_a_new_topic_begins_without(tmp_path: Path) -> None:
    """After the kill, too: no group has an offset of the old topic, and the one that was committed to the new one is
    there. The rest of the old ones goes for good."""
    for number in range(ROUNDS_MAX):
        directory = tmp_path / str(number)
        if killed_between_steps(directory):
            break
    else:
        raise AssertionError("no kill came between two steps")
    expected: dict[str, Any] = {f"g{GROUPS - 1}": {0: 1}, "g0": {1: 2}}
    with serving(directory, *ARGUMENTS) as gateway:
        client = Client(gateway)
        for group in range(1, GROUPS):
            assert client.committed(f"g{group}") == expected.get(f"g{group}", {})
        assert client.committed("g0") == {}
        client.commit("g0", {1: 2})
        assert gateway.terminate() == 0
    assert stored(directory) == (2, 0)
    with serving(directory, *ARGUMENTS) as gateway:
        client = Client(gateway)
        for group, offsets in expected.items():
            assert client.committed(group) == offsets
