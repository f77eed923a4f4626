"""A failed write or sync is final: everyone hears of it, nothing is acknowledged any more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.applied.tables import Put
from core.errors import StorageFailure
from tests.core.support import append, before_syncs, begin_append, container_of, is_log, make, open_store, run


def test_nothing_is_taken_after_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appends, duplicates and updates after the failure are refused at once instead of waiting for ever."""

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await append(slot, b"safe")
        before_syncs(monkeypatch, fail)
        with pytest.raises(StorageFailure):
            await append(slot, b"lost")

        assert isinstance(await store.failed, StorageFailure)
        with pytest.raises(StorageFailure):
            begin_append(slot, b"later")
        with pytest.raises(StorageFailure):
            await store.update(Put("t", b"k", b"v"))
        assert slot.durable_end == 1
        monkeypatch.undo()
        await store.close()

    run(scenario())


def test_a_dead_writer_thread_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any end of the writer thread poisons the log; every waiter gets an answer."""

    real = os.pwritev

    def fail(fd: int, parts: list[memoryview], position: int, flags: int = 0) -> int:
        if is_log(fd):
            raise RuntimeError
        return real(fd, parts, position, flags)

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        monkeypatch.setattr("core.log.image_writer.os.pwritev", fail)
        with pytest.raises(StorageFailure):
            await append(slot, b"lost")
        monkeypatch.undo()
        await store.close()

    run(scenario())


def test_late_waiters_after_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter for a duplicate's original hears of the failure; with nothing in flight the answer is at once."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        container = container_of(store)
        await append(slot, b"safe")
        told: list[str] = []

        class Waiter:
            def appended(self) -> None:
                told.append("durable")

            def append_failed(self, error: StorageFailure) -> None:
                told.append("failed")

        container.when_durable(Waiter())
        assert told == ["durable"]
        before_syncs(monkeypatch, lambda fd: os.fsync(-1))
        with pytest.raises(StorageFailure):
            await append(slot, b"lost")
        container.when_durable(Waiter())
        assert told == ["durable", "failed"]
        monkeypatch.undo()
        await store.close()

    run(scenario())
