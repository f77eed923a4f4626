"""Who watches topics hears once that one came, grew or went, however often that is said; so it is counted."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from core.streams.live import Stream
from core.streams.policy import StreamPolicy
from core.streams.state import new_stream
from gateway.topics.roll import Roll

_numbers = itertools.count(1)


class Watched(Roll):
    """What was heard, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []
        self.on_deletion(lambda stream: self.heard.append(("gone", stream.slot_count)))
        self.on_change(lambda stream: self.heard.append(("changed", stream.slot_count)))


@pytest.fixture
def roll() -> Watched:
    return Watched()


def a_topic(name: str, partitions: int = 1) -> Stream:
    number = next(_numbers)
    state = new_stream(
        stream_id=number, name=name, uuid=UUID(int=number), slots=partitions, created_ms=0, container=0, config={}
    )
    return Stream(state, StreamPolicy(), _no_slot)


def _no_slot(*_: Any) -> Any:
    raise AssertionError("nobody writes to it")


def grown(stream: Stream, partitions: int) -> Stream:
    """The topic has more partitions now; of its state nothing else is looked at."""
    stream.state = replace(stream.state, slots=partitions)
    return stream


def test_each_change_is_heard_once(roll: Watched) -> None:
    topic = a_topic("t", partitions=2)
    for _ in range(2):
        roll.came(topic)
    for _ in range(2):
        roll.came(grown(topic, 5))
    assert roll.partition_count == 5
    for _ in range(2):
        roll.went(topic.uuid)

    assert roll.heard == [("changed", 2), ("changed", 5), ("gone", 5), ("changed", 5)]
    assert roll.partition_count == 0
    assert roll.former_names.get(topic.uuid) == "t"


def test_a_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear all the same, and what the topic has left behind is waited for. The log tells of each error."""

    def failing(stream: Stream) -> None:
        raise RuntimeError("a defect")

    async def scenario() -> None:
        roll, heard, left = Roll(), list[str](), asyncio.create_task(asyncio.sleep(0))
        roll.on_deletion(failing)
        roll.on_change(failing)
        roll.on_deletion(lambda stream: [left])
        roll.on_change(lambda stream: heard.append(stream.name))
        topic = a_topic("t")
        roll.came(topic)
        roll.went(topic.uuid)
        await roll.nothing_left()
        assert (heard, left.done()) == (["t", "t"], True)

    asyncio.run(scenario())
    assert [record.message for record in caplog.records] == ["a topic has changed, and telling so failed"] * 3


def test_a_topic_that_is_gone_does_not_come(roll: Watched) -> None:
    """Its deletion was faster than what is said of its creation."""
    topic = a_topic("t")
    topic.deleted = True

    roll.went(topic.uuid)
    roll.came(topic)

    assert (roll.heard, roll.partition_count, roll.alike("t")) == ([], 0, None)


def test_names_that_collide(roll: Watched) -> None:
    """Where a metric's name has room for one of them. The place is free when all that took it have gone."""
    first, second = a_topic("a.b"), a_topic("a_b")  # from two processes
    for topic in (first, second):
        roll.came(topic)
    assert roll.alike("a_b") == "a.b"
    roll.went(first.uuid)
    assert roll.alike("a.b") == "a_b"
    roll.went(second.uuid)

    assert roll.alike("a.b") is None


def test_what_a_topic_leaves_behind_is_waited_for(roll: Watched) -> None:
    async def scenario() -> None:
        left = asyncio.create_task(asyncio.sleep(0))
        roll.on_deletion(lambda stream: [left])
        topic = a_topic("t")
        roll.came(topic)
        roll.went(topic.uuid)
        await roll.nothing_left()
        assert left.done()

    asyncio.run(scenario())
