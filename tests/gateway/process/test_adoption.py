"""A directory of one process is taken over by a registry: all of it, or nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from core.applied.tables import Put
from core.clock import ManualClock
from core.cluster.sqlite_registry import SqliteRegistry
from core.store import Store
from core.streams.state import REGISTRY_DECIDES
from gateway.process.adoption import adopt
from gateway.security.acl_format import TABLE as ACLS
from tests.core.cluster.several import FOUR, placed_policy


def run(directory: Path, *, leave_a_scratch: bool = False) -> None:
    async def scenario() -> None:
        store = await Store.open(directory / "store", FOUR, placed_policy, ManualClock())
        kept = await store.create_stream("kept", slots=8, config={"a": "b"})
        gone = await store.create_stream("gone", slots=2)
        await store.delete_stream(gone)
        await store.registry.change_settings(ACLS, lambda _: {b"acl": b""})
        block = await store.registry.take_writer_ids(1000)
        await store.home.update(Put("groups", b"g", b"not a setting"))
        await store.close()

        registry = directory / "registry.db"
        if leave_a_scratch:
            (directory / ".registry.db.new").write_bytes(b"half of it")
        await adopt(directory / "store", FOUR, registry, fresh=False)
        await adopt(directory / "store", replace(FOUR), registry, fresh=False)  # again: nothing happens

        taken = await SqliteRegistry.open(registry)
        (state,) = taken.streams()
        assert (state.id, state.name, state.uuid, state.config) == (kept.id, "kept", kept.uuid, {"a": "b"})
        assert state.container == REGISTRY_DECIDES
        assert [state.container_of_slot(n) for n in range(8)] == [kept.slot(n).container_id for n in range(8)]
        assert taken.was_given(gone.id)
        assert taken.settings(ACLS) == {b"acl": b""}
        assert taken.settings("groups") == {}
        assert (await taken.take_writer_ids(1)).start == block.stop
        await taken.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert not list(directory.glob(".registry*"))


def test_all_that_was_decided(tmp_path: Path) -> None:
    """Topics with their places, settings and counters come along; deleted topics stay deleted; other tables stay."""
    run(tmp_path)


def test_after_a_crash(tmp_path: Path) -> None:
    """What an earlier try has left half made is made anew."""
    run(tmp_path, leave_a_scratch=True)


def test_a_fresh_directory(tmp_path: Path) -> None:
    """A directory that never held a store begins with an empty registry."""

    async def scenario() -> None:
        await adopt(tmp_path / "store", FOUR, tmp_path / "registry.db", fresh=True)
        taken = await SqliteRegistry.open(tmp_path / "registry.db")
        assert not list(taken.streams())
        assert not taken.was_given(1)
        await taken.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
