"""Entries that pin the log are let go of, or given up, by what is so then, not by what was so when it was looked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import core.container.keeper
from core.applied.metadata import Metadata
from core.container.kept import restore
from core.index.rows import BlockRef
from core.log.files import KEPT, log_path
from core.log.replay import open_log_files
from core.reading.log_reader import Location
from core.store import Store
from core.streams.live import Slot
from tests.core.support import DEADLINE_S, container_of, hosted_of, maintenance_of, owner_of, run, until
from tests.core.tiering.support import storage_in, tiered_store
from tests.core.tiering.writing.test_pins import (
    BAD,
    PINNED,
    begin,
    commit,
    damaged_store,
    let_go,
    read_bytes,
    tiered_to,
    write,
)
from tests.core.tiering.writing.test_storage_writer import Unreliable

pytestmark = pytest.mark.slow


def test_a_chunk_that_comes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log lets go of kept entries of one slot, another one's come into a chunk: they are kept on, until that
    has been looked at twice. A store may still lose its object."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, PINNED) as store:
            container, tier = container_of(store), hosted_of(store).tier
            assert tier is not None
            stream = await store.create_stream("s", slots=3)
            early, late, busy = (stream.slot(number) for number in range(3))
            for count, slot in enumerate((early, late), 1):
                await begin(slot, writer=count)
                while len(container.kept) < count:  # each in a file of its own
                    await write(busy, PINNED.log_max_bytes // 4)
            sources = {kept.source_lsn for kept in container.kept}
            await until(lambda: not sources & {file.first_lsn for file in container.files.complete})
            await maintenance_of(store).stop()
            await commit(early, writer=1)
            await tiered_to(early, 2)
            await until(lambda: (stream.id, early.number) not in hosted_of(store).catalog.held())

            letting_go, go_on = threading.Event(), threading.Event()
            replace_blocks = container.metadata.replace_blocks

            def replacing(*args: Any) -> None:
                letting_go.set()
                assert go_on.wait(DEADLINE_S)
                replace_blocks(*args)

            monkeypatch.setattr(container.metadata, "replace_blocks", replacing)
            releasing = asyncio.create_task(maintenance_of(store)._truncation.release_kept())
            await until(letting_go.is_set)
            monkeypatch.setattr(tier.writer._second_look, "_delay_s", 3600.0)
            await commit(late, writer=2)
            await tiered_to(late, 2)
            assert hosted_of(store).catalog.held()[stream.id, late.number] == 0
            go_on.set()
            await releasing
            assert [sorted(kept.places) for kept in container.kept] == [[(stream.id, late.number)]]

    run(scenario())


def test_a_file_that_goes_while_damage_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log moves a damaged slot's entries out of its way while they are looked through: those that cannot be found
    where they were are as good as before, and are not given up with the damaged one."""
    monkeypatch.setattr("core.tiering.writing.pins.RETRY_FIRST_S", 0.05)
    looked = threading.Event()
    copy = _patched_copy(monkeypatch, looked)

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, PINNED, storage) as store:
            container, reader = container_of(store), hosted_of(store).reader
            hurt, busy, sent = await damaged_store(store, storage, BAD)
            path = log_path(container.directory, container.files.complete[0].first_lsn)
            _look_late(store, monkeypatch, {hurt: BAD, busy: busy.end})
            payloads = reader.payloads

            def looking(slot: Slot, wanted: list[Location]) -> object:
                if slot is hurt and [one.base for one in wanted] == [BAD + 1] and not looked.is_set():
                    looked.set()
                    _wait_until_gone(path)
                return payloads(slot, wanted)

            monkeypatch.setattr(reader, "payloads", looking)
            storage.away = False
            writing = asyncio.create_task(write(busy, 2 * PINNED.log_max_bytes))
            await until(looked.is_set)
            await until(lambda: hurt.tiered_end == len(sent))
            await writing
            assert copy
            assert [(one.first, one.end) for one in container.damage] == [(BAD, BAD + 1)]
            assert await read_bytes(store, hurt, BAD + 1) == b"".join(sent[BAD + 1 :])
            await let_go(store)
            assert await read_bytes(store, hurt, BAD + 1) == b"".join(sent[BAD + 1 :])

    run(scenario())


def _patched_copy(monkeypatch: pytest.MonkeyPatch, looked: threading.Event) -> list[int]:
    """Nothing is kept before the damage is looked at; the list has the files that were."""
    copy, made = core.container.keeper.copy, list[int]()

    def copying(*args: Any) -> object:
        assert looked.wait(DEADLINE_S)
        made.append(args[2].first_lsn)
        return copy(*args)

    monkeypatch.setattr("core.container.keeper.copy", copying)
    return made


def _look_late(store: Store, monkeypatch: pytest.MonkeyPatch, ends: Mapping[Slot, int]) -> None:
    """Damage is looked through only when nothing else holds the files before these ends: no chunk is made during it."""
    tier, catalog = hosted_of(store).tier, hosted_of(store).catalog
    assert tier is not None
    pins = tier.writer._pins
    has_pinned = pins._has_pinned

    def is_free(slot: Slot, end: int) -> bool:
        return slot.tiered_end >= end and catalog.held().get((slot.stream.id, slot.number), end) >= end

    def has_pinned_alone(slot: Slot) -> bool:
        return has_pinned(slot) and all(is_free(one, end) for one, end in ends.items())

    monkeypatch.setattr(pins, "_has_pinned", has_pinned_alone)


def _wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_rows_of_a_present_stay_outlive_kept_ones(tmp_path: Path) -> None:
    """A start finds a kept file with entries of a slot that has left and come back since. Rows of the present stay have
    the same keys, and lead to the log: they stay."""

    async def kept() -> tuple[Path, int]:
        async with tiered_store(tmp_path, PINNED, clean=False) as store:
            stream = await store.create_stream("s", slots=3)
            for number in (0, 1):
                await begin(stream.slot(number), writer=number)
            await write(stream.slot(2), 2 * PINNED.log_max_bytes)
            assert {place[1] for one in container_of(store).kept for place in one.places} == {0, 1}
            await maintenance_of(store).checkpoint()
            return owner_of(stream.slot(0)).directory, stream.id

    directory, stream_id = asyncio.run(kept())
    metadata = Metadata(tmp_path / "store" / "container-0" / "metadata", PINNED)
    try:
        of_former = metadata.block_at(stream_id, 0, 0)
        assert of_former is not None
        assert of_former.file_lsn & KEPT
        present = of_former._replace(file_lsn=(of_former.file_lsn & ~KEPT) + 1_000_000)
        metadata.register([present])

        def is_needed(ref: BlockRef) -> bool:
            return (ref.stream_id, ref.slot) == (stream_id, 1)

        (found,) = restore(directory, open_log_files(directory), metadata, is_needed)
        assert found.places == {(stream_id, 1)}
        assert metadata.block_at(stream_id, 0, 0) == present
        assert restore(directory, open_log_files(directory), metadata, lambda ref: False) == []
        assert metadata.block_at(stream_id, 1, 0) is None
    finally:
        metadata.close()
