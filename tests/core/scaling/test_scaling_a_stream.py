"""Scaling and sealing a stream of a store: one record of the log, with each append on the right side of it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from core.errors import StreamSealed, UnknownStream
from core.log.format import APPEND_BODY, KIND_APPEND
from core.log.records import Put, decode_update
from core.log.replay import open_log_files, scan
from core.store import Store
from core.streams.live import Slot
from tests.core.support import (
    append,
    begin_append,
    container_of,
    crash_copy,
    hosted_of,
    maintenance_of,
    make,
    open_store,
    read_all,
    run,
    until,
)


def shape(store: Store, name: str = "s") -> list[tuple[int, int, int]]:
    stream = store.streams.get(name)
    assert stream is not None
    return [(segment.number, segment.first, segment.last) for segment in stream.state.current.segments]


def stretches(slot: Slot) -> list[tuple[int, int, int]]:
    return [(stretch.first, stretch.id, stretch.bytes_before) for stretch in slot.segments]


def test_appends_lie_where_the_log_has_them(tmp_path: Path) -> None:
    """Entries queued before a scale belong to the sealed segment, later ones to the opened one."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=4)
        slot = stream.slot(0)
        _, before = begin_append(slot, b"before")
        scaling = asyncio.create_task(store.scale_stream(stream, [0], [2], "test"))
        await until(lambda: stream.logged.current.epoch == 1)
        _, after = begin_append(slot, b"after")
        await asyncio.gather(scaling, before.future, after.future)
        await store.close()

        owners: list[tuple[str, int]] = []
        (file,) = open_log_files(tmp_path / "container-0" / "log")
        for frame in scan(file, newest=True):
            if frame.kind == KIND_APPEND:
                owners.append((bytes(frame.body[APPEND_BODY.size :]).decode(), APPEND_BODY.unpack_from(frame.body)[0]))
            elif any(isinstance(op, Put) and b'"reason":"test"' in op.value for op in decode_update(frame.body)):
                owners.append(("the scale", -1))
        assert owners == [("before", 0), ("the scale", -1), ("after", 1)]

    run(scenario())


@pytest.mark.parametrize("is_clean", [True, False])
def test_scaled_stream_after_a_restart(tmp_path: Path, is_clean: bool) -> None:
    """Epochs, entries, and which entry belongs to which segment survive, whether saved or replayed."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=4)
        slot = stream.slot(0)
        await append(slot, b"first")
        await store.scale_stream(stream, [0], [1, 3], "split")
        await append(slot, b"second!", count=3)
        if not is_clean:
            await maintenance_of(store).checkpoint()
        await store.scale_stream(stream, [1, 2], [], "merge")
        await append(slot, b"third")
        state, known = stream.state, stretches(slot)
        assert known == [(0, 0, 0), (1, 1, 5), (4, 4, 12)]
        await store.close(clean=is_clean)

        store = await open_store(tmp_path)
        found = store.streams.get("s")
        assert found is not None
        assert found.state == state
        assert await read_all(store, found.slot(0)) == [b"first", b"second!", b"third"]
        assert known == stretches(found.slot(0))
        assert (found.slot(0).segment_id, found.slot(3).segment_id) == (4, 3)
        await store.close()

    run(scenario())


def test_kill_while_a_scale_is_on_its_way(tmp_path: Path) -> None:
    """Wherever in the scale's frame the log ends, a start finds the epoch before or the epoch after."""

    async def scenario() -> None:
        store = await open_store(tmp_path / "live")
        stream = await make(store, slots=4)
        await append(stream.slot(0), b"before")
        log = container_of(store).log
        begin, path = log.position, log.file.path
        await store.scale_stream(stream, [0], [2], "test")
        end = log.position
        _, outcome = begin_append(stream.slot(0), b"after")
        await outcome.future
        copy = await crash_copy(store, tmp_path / "copy")
        await store.close()
        data = (copy / "container-0" / "log" / path.name).read_bytes()

        for cut in {begin, begin + 1, (begin + end) // 2, end - 1, end, len(data)}:
            state = tmp_path / f"cut-{cut}"
            shutil.copytree(copy, state)
            (state / "container-0" / "log" / path.name).write_bytes(data[:cut])
            store = await open_store(state)
            assert shape(store) == ([(1, 0, 2), (2, 2, 4)] if cut >= end else [(0, 0, 4)])
            found = store.streams.get("s")
            assert found is not None
            entries = await read_all(store, found.slot(0))
            assert entries == ([b"before", b"after"] if cut > end else [b"before"])
            await store.close()

    run(scenario())


def test_scales_of_one_stream_at_once(tmp_path: Path) -> None:
    """Scales that are asked for at once are made one after the other; one that has become impossible says so."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=8)
        first, second = await asyncio.gather(
            store.scale_stream(stream, [0], [4], "one"),
            store.scale_stream(stream, [0], [2], "two"),
            return_exceptions=True,
        )
        assert not isinstance(first, BaseException)
        assert isinstance(second, ValueError)
        assert shape(store) == [(1, 0, 4), (2, 4, 8)]
        (event,) = hosted_of(store).scaler.events
        assert (event.stream, event.epoch, event.kind, event.reason) == ("s", 1, "manual", "one")
        assert (event.sealed, event.opened) == ((0,), (1, 2))
        await store.delete_stream(stream)
        with pytest.raises(UnknownStream):
            await store.scale_stream(stream, [1, 2], [], "late")
        await store.close()

    run(scenario())


def test_growth_is_a_scale(tmp_path: Path) -> None:
    """A stream that grows keeps its cuts; its slots keep their entries and go to the new segments."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=4)
        await store.scale_stream(stream, [0], [2], "split")
        await append(stream.slot(1), b"old")
        await store.grow_stream(stream, 8)
        await append(stream.slot(1), b"new")
        await append(stream.slot(7), b"added")

        assert shape(store) == [(3, 0, 4), (4, 4, 8)]
        assert await read_all(store, stream.slot(1)) == [b"old", b"new"]
        assert stretches(stream.slot(1)) == [(0, 2, 0), (1, 4, 3)]
        assert [event.kind for event in hosted_of(store).scaler.events] == ["manual", "grown"]
        await store.close()

    run(scenario())


def test_sealed_stream(tmp_path: Path) -> None:
    """A sealed stream refuses appends from the call on, and after a restart; its entries are still read."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        stream = await make(store, slots=2)
        await append(stream.slot(0), b"kept")
        sealing = asyncio.create_task(store.seal_stream(stream))
        await until(lambda: stream.is_sealed)
        with pytest.raises(StreamSealed):
            begin_append(stream.slot(0), b"late")
        await sealing
        with pytest.raises(ValueError, match="is sealed"):
            await store.scale_stream(stream, [0], [1], "late")
        await store.close(clean=False)

        store = await open_store(tmp_path)
        found = store.streams.get("s")
        assert found is not None
        with pytest.raises(StreamSealed):
            begin_append(found.slot(1), b"late")
        assert await read_all(store, found.slot(0)) == [b"kept"]
        await store.close()

    run(scenario())
