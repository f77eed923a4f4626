"""Where partitions of transactions are: a topic is gone when that is decided, not when it is unseen."""

from __future__ import annotations

from pathlib import Path

import pytest
from kio.schema.errors import ErrorCode

from core.container.container import Container
from core.errors import StorageFull
from core.streams.live import Stream
from core.streams.state import StreamState
from gateway.refusals import Refusal
from gateway.transactions.places import Place
from gateway.transactions.whereabouts import container_of, parts_named, topics_of
from tests.core.cluster.test_following import THERE, two, until
from tests.core.support import run

pytestmark = pytest.mark.slow


def test_what_is_decided_is_not_gone(tmp_path: Path) -> None:
    """A topic that the registry has, and that this process has not looked at, is neither known nor gone; once it is
    deleted it is gone. So is a partition that it never had."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            following = other.store._following
            assert following is not None
            async with following._one_at_a_time:
                made = await one.store.create_stream("s", slots=4)
                await other.registry.look()
                with pytest.raises(Refusal) as refused:
                    container_of(other.store, Place(made.id, 0))
                assert refused.value.code is ErrorCode.unknown_topic_or_partition
                assert parts_named(other.store, "s", made.uuid, 0) == []
                other.registry._unreported.streams.append(made.state)  # the look above has taken it
            await other.store.catch_up()
            for number in range(4):
                container_id = made.state.container_of_slot(number)
                assert container_of(other.store, Place(made.id, number)) == container_id
                for topic_id in (made.uuid, None):
                    parts = parts_named(other.store, "s", topic_id, number)
                    assert parts == [(container_id, Place(made.id, number))]
            assert container_of(other.store, Place(made.id, 4)) is None
            assert parts_named(other.store, "s", made.uuid, -1) == []
            await one.store.delete_stream(made)
            await until(lambda: other.store.stream_of(made.id) is None)
            assert container_of(other.store, Place(made.id, 0)) is None
            assert topics_of(other.store, [Place(made.id, 0)], "partitions") == []

    run(scenario())


def test_what_is_not_shown(tmp_path: Path) -> None:
    """A topic, or its further partitions, for which a container has no room: they are where it was decided."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            grown = await one.store.create_stream("grown", slots=4)
            await until(lambda: other.store.streams.get("grown"))
            seen = other.store.streams.get("grown")
            assert seen is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Container, "change_stream", without_room(THERE))
                await one.store.grow_stream(grown, 8)
                made = await one.store.create_stream("made", slots=8)
                await until(lambda: other.store.stream_of(made.id) and seen.logged.slots == 8)
                assert seen.slot_count == 4
                assert other.store.streams.get("made") is None
                for stream in (grown, made):
                    for number in range(8):
                        place, container_id = Place(stream.id, number), stream.state.container_of_slot(number)
                        assert container_of(other.store, place) == container_id
                        assert parts_named(other.store, stream.name, stream.uuid, number) == [(container_id, place)]
                        assert parts_named(other.store, stream.name, None, number) == [(container_id, place)]
                assert container_of(other.store, Place(grown.id, 8)) is None
                told = topics_of(other.store, [Place(made.id, 7), Place(grown.id, 6), Place(made.id, 0)], "partitions")
                assert told == [
                    {"name": "made", "topic_id": made.uuid, "partitions": [7, 0]},
                    {"name": "grown", "topic_id": grown.uuid, "partitions": [6]},
                ]

    run(scenario())


def without_room(container_ids: tuple[int, ...]) -> object:
    """The log of these containers takes nothing that is decided about a stream."""
    change = Container.change_stream

    async def refused(container: Container, stream: Stream, state: StreamState) -> None:
        if container.id in container_ids:
            raise StorageFull("no room")
        await change(container, stream, state)

    return refused


def test_another_of_the_name(tmp_path: Path) -> None:
    """With an id nobody is taken for another; without one all that have the name, or are to have it, are meant."""

    async def scenario() -> None:
        async with two(tmp_path) as (one, other):
            old = await one.store.create_stream("s", slots=1)
            await until(lambda: other.store.streams.get("s"))
            following = other.store._following
            assert following is not None
            async with following._one_at_a_time:
                await one.store.delete_stream(old)
                new = await one.store.create_stream("s", slots=1)
                assert [place for _, place in parts_named(other.store, "s", old.uuid, 0)] == [Place(old.id, 0)]
                assert parts_named(other.store, "s", new.uuid, 0) == []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Container, "change_stream", without_room((0, 1, 2, 3)))
                await until(lambda: other.store.stream_of(old.id) is None)
            assert [place for _, place in parts_named(other.store, "s", None, 0)] == [Place(new.id, 0)]
            assert parts_named(other.store, "s", old.uuid, 0) == []

    run(scenario())
