"""The registry in the tables of a container: what it has answered outlives a kill."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from core.cluster.registry import NewStream
from core.errors import StreamExists, UnknownStream
from tests.core.cluster.several import open_several
from tests.core.support import copy_files, run

pytestmark = pytest.mark.slow


def wanted(name: str) -> NewStream:
    return NewStream(name=name, uuid=uuid4(), slots=2, created_ms=0, config={}, segments=1, placement=(0,))


def test_names_and_ids(tmp_path: Path) -> None:
    """A name belongs to one stream, and an id never comes back, also after a restart."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        registry = store.registry
        both = await asyncio.gather(registry.create(wanted("a")), registry.create(wanted("a")), return_exceptions=True)
        assert [type(outcome) for outcome in both] == [type(both[0]), StreamExists]
        a = next(iter(registry.streams()))
        b = await registry.create(wanted("b"))
        await registry.delete(b)
        with pytest.raises(UnknownStream):
            await registry.delete(b)
        with pytest.raises(UnknownStream):
            await registry.change(b.configured({}))
        await store.close()

        store = await open_several(tmp_path)
        registry = store.registry
        assert [state.name for state in registry.streams()] == ["a"]
        assert [registry.was_given(one) for one in (a.id, b.id, b.id + 1)] == [True, True, False]
        assert (await registry.create(wanted("b"))).id == b.id + 1
        await store.close()

    run(scenario())


def test_settings(tmp_path: Path) -> None:
    """Settings of a kind change as one, and kinds know nothing of one another."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        await store.registry.change_settings("brokers", lambda _: {b"k": b"1", b"l": b"2"})
        await store.registry.change_settings("groups", lambda _: {b"k": b"3"})
        await store.registry.change_settings("brokers", lambda _: {b"k": None, b"m": b"4"})
        await store.close()
        store = await open_several(tmp_path)
        assert dict(store.registry.settings("brokers")) == {b"l": b"2", b"m": b"4"}
        assert dict(store.registry.settings("groups")) == {b"k": b"3"}
        assert dict(store.registry.settings("others")) == {}
        await store.close()

    run(scenario())


def test_settings_that_are_decided_at_one_time(tmp_path: Path) -> None:
    """Each decision sees what those before it have made, although a table has that only once it is durable."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        add = partial(store.registry.change_settings, "brokers", lambda now: {b"k": now.get(b"k", b"") + b"+"})
        made = await asyncio.gather(*(add() for _ in range(5)))
        assert made == [{b"k": b"+" * count} for count in range(1, 6)]
        assert dict(store.registry.settings("brokers")) == {b"k": b"+++++"}
        await store.close()

    run(scenario())


def test_numbers_that_are_given_once(tmp_path: Path) -> None:
    """No writer id and no epoch is given twice: by calls at one time, or after a kill."""

    async def scenario() -> None:
        store = await open_several(tmp_path / "a")
        blocks = await asyncio.gather(*(store.registry.take_writer_ids(10) for _ in range(5)))
        epochs = await asyncio.gather(*(store.registry.next_epoch() for _ in range(5)))
        copy_files(store, tmp_path / "b")
        await store.close()
        store = await open_several(tmp_path / "b")
        blocks.append(await store.registry.take_writer_ids(1))
        epochs.append(await store.registry.next_epoch())
        assert sorted(number for block in blocks for number in block) == list(range(51))
        assert sorted(epochs) == [1, 2, 3, 4, 5, 6]
        await store.close()

    run(scenario())
