"""Very many committed offsets in a real gateway: what clients were told is there after a kill, and they go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from bench.hostile.wire import Stranger, frame
from tests.gateway.forking import serving
from tests.gateway.launching import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GROUPS: Final = 1_000
PARTITIONS: Final = 200
AT_ONCE: Final = 50
TOPIC: Final = "t"


def offset_of(group: int, partition: int) -> int:
    return group * PARTITIONS + partition


def commit(group: int, more: int = 0) -> bytes:
    partitions = [
        {"partition_index": number, "committed_offset": offset_of(group, number) + more} for number in range(PARTITIONS)
    ]
    who = {"group_id": f"g{group}", "generation_id_or_member_epoch": -1, "member_id": ""}
    return frame("OffsetCommit", 8, {**who, "topics": [{"name": TOPIC, "partitions": partitions}]})


def commit_all(stranger: Stranger, groups: range, more: int = 0) -> None:
    for first in range(0, len(groups), AT_ONCE):
        some = groups[first : first + AT_ONCE]
        stranger.send(*(commit(group, more) for group in some))
        for _ in some:
            (topic,) = stranger.answer("OffsetCommit", 8).topics
            assert {partition.error_code for partition in topic.partitions} == {0}


def fetched(stranger: Stranger, group: int) -> list[int]:
    """What a consumer of the group would go on from, in each partition."""
    asked: dict[str, Any] = {"groups": [{"group_id": f"g{group}", "topics": None}], "require_stable": True}
    (answer,) = stranger.ask("OffsetFetch", 8, asked).groups
    assert answer.error_code == 0
    (topic,) = answer.topics
    return [one.committed_offset for one in sorted(topic.partitions, key=lambda one: one.partition_index)]


@contextlib.contextmanager
def speaking(gateway: Running) -> Iterator[Stranger]:
    host, _, port = gateway.ready()["kafka"][0].rpartition(":")
    with contextlib.closing(Stranger((host, int(port)))) as stranger:
        yield stranger


def test_many_offsets_after_a_kill(tmp_path: Path) -> None:
    """200,000 offsets of a thousand groups, of which some are committed again, before a kill and after it."""
    again = range(0, GROUPS, 10)
    with serving(tmp_path) as gateway, speaking(gateway) as stranger:
        stranger.create([(TOPIC, PARTITIONS)])
        commit_all(stranger, range(GROUPS))
        commit_all(stranger, again, more=1)
        assert fetched(stranger, 0)[0] == 1
        gateway.process.kill()
        gateway.process.wait()

    with serving(tmp_path) as gateway, speaking(gateway) as stranger:
        for group in range(GROUPS):
            start = offset_of(group, 0) + (group in again)
            assert fetched(stranger, group) == list(range(start, start + PARTITIONS))
        listed = stranger.ask("ListGroups", 4, {"states_filter": []})
        assert listed.error_code == 0
        assert {one.group_id for one in listed.groups} == {f"g{number}" for number in range(GROUPS)}
        commit_all(stranger, again, more=2)
        assert fetched(stranger, again[-1])[0] == offset_of(again[-1], 0) + 2
        assert gateway.terminate() == 0
