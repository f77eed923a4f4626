"""What pins the log: an open transaction or a damaged entry holds up its own slot, and nobody else."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from core.container import Container
from core.errors import CorruptLog, StorageFull
from core.kept import KeptFile
from core.log.files import KEPT_DIRECTORY
from core.log.format import APPEND_OVERHEAD
from core.slot import Slot
from core.store import Store
from tests.core.support import KIB, append, append_in_transaction, container_of, crash_copy, end_of, read_all, run, until
from tests.core.tiering.support import TIERING, fill, runs_of, storage_in, tiered_store, without_gaps
from tests.tier2.chunks import entry

PINNED: Final = replace(TIERING, log_max_bytes=1024 * KIB, chunk_age_ms=200)
"""A log of sixteen files."""
WRITER: Final = 7


def payload(slot: Slot, size: int = 100) -> bytes:
    return bytes(entry(slot.end, 1, 1000 + slot.end, os.urandom(size)).payload)


async def begin(slot: Slot, sequence: int = 0, writer: int = WRITER, size: int = 100) -> bytes:
    """One entry of a transaction."""
    made = payload(slot, size)
    await append_in_transaction(slot, made, (writer, 0, sequence))
    return made


async def commit(slot: Slot, writer: int = WRITER) -> None:
    end = end_of(slot, writer, committed=True)
    marked = replace(end, entry=lambda base, epoch: bytes(entry(base, 1, 1000 + base, b"end").payload))
    await slot.container.end_transactions([marked], [])


async def write(slot: Slot, size: int, body: int = KIB) -> bytes:
    """As a producer does: what is refused is sent again."""
    written: list[bytes] = []
    async with asyncio.timeout(30):
        while sum(map(len, written)) < size:
            made = bytes(entry(slot.end, 1, 1000 + slot.end, b"." * body).payload)
            try:
                await append(slot, made, timestamp=1000 + slot.end)
                written.append(made)
            except StorageFull:
                await asyncio.sleep(0.02)
    return b"".join(written)


async def read_bytes(slot: Slot, start: int | None = None) -> bytes:
    return b"".join(await read_all(slot, start))


def kept_files(container: Container) -> Sequence[KeptFile]:
    return container.kept


def on_disk(container: Container) -> list[str]:
    directory = container.directory / KEPT_DIRECTORY
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


async def let_go(store: Store) -> None:
    await until(lambda: not container_of(store).kept and not on_disk(container_of(store)))


def test_one_open_transaction(tmp_path: Path) -> None:
    """One record of an open transaction holds up nobody: ten times the log goes through behind it; then it is tiered."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, PINNED) as store:
            container = container_of(store)
            stream = await store.create_stream("s", slots=2)
            held, busy = stream.slot(0), stream.slot(1)
            first = [await begin(held)]
            written = await write(busy, 10 * PINNED.log_max_bytes)

            assert len(kept_files(container)) == 1
            assert container.kept_bytes < 8 * KIB
            assert held.stable_end == held.tiered_end == 0
            assert await read_all(held) == first
            assert await read_bytes(busy) == written
            assert store.streams.get("s") is stream

            await commit(held)
            await until(lambda: held.tiered_end == 2)
            await let_go(store)
            assert (await read_bytes(held)).startswith(first[0])

    run(scenario())


def test_a_transaction_that_goes_on(tmp_path: Path) -> None:
    """A slot whose transaction goes on has a part of it in many files: all of it is kept, in order, and read."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, PINNED) as store:
            container = container_of(store)
            stream = await store.create_stream("s", slots=3)
            held, busy = stream.slot(0), stream.slot(1)
            sent = [payload(held)]
            await append(held, sent[0], timestamp=1000)
            for number in range(40):
                sent.append(await begin(held, number))
                await write(busy, 100 * KIB)
            assert held.stable_end == 1
            assert len(kept_files(container)) > 5
            assert container.log_bytes <= PINNED.log_max_bytes
            for offset in range(len(sent)):
                assert await read_all(held, offset) == sent[offset:]
            found = await held.entry_at_time(1000 + 20)
            assert found is None or found.payload in sent
            assert await container.reader.bytes_before(held, 20) == sum(map(len, sent[:20]))

            await commit(held)
            await until(lambda: held.tiered_end == len(sent) + 1)
            await let_go(store)
            assert (await read_bytes(held)).startswith(b"".join(sent))
            assert all(without_gaps(runs_of(held)))

    run(scenario())


@pytest.mark.parametrize("clean", [True, False])
def test_restart(tmp_path: Path, clean: bool) -> None:
    """What was kept is there after a stop and after a kill, and is tiered when its transaction ends."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, PINNED, storage, clean=clean) as store:
            stream = await store.create_stream("s", slots=2)
            sent = [await begin(stream.slot(0), number) for number in range(3)]
            await write(stream.slot(1), 2 * PINNED.log_max_bytes)
            assert kept_files(container_of(store))
        async with tiered_store(tmp_path, PINNED, storage) as store:
            container, stream = container_of(store), store.streams.get("s")
            assert stream is not None
            held = stream.slot(0)
            assert kept_files(container)
            assert await read_all(held) == sent
            sent.append(await begin(held, 3))
            await write(stream.slot(1), 2 * PINNED.log_max_bytes)
            assert await read_all(held) == sent
            await commit(held)
            await until(lambda: held.tiered_end == len(sent) + 1)
            await let_go(store)
            assert (await read_bytes(held)).startswith(b"".join(sent))

    run(scenario())


def test_killed_at_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before or after any step of keeping leaves every entry where a reader finds it."""
    steps = ("core.keeper.copy", "core.metadata.Metadata.replace_blocks", "core.maintenance.Maintenance._give_up")
    taken: list[Path] = []

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        loop = asyncio.get_running_loop()
        async with tiered_store(tmp_path, PINNED, storage, clean=False) as store:

            def copy_now(name: str) -> None:
                if sum(path.name.startswith(name) for path in taken) < 2:
                    target = tmp_path / f"{name}-{len(taken)}"
                    taken.append(target)
                    asyncio.run_coroutine_threadsafe(crash_copy(store, target / "store"), loop).result(20)

            for step in steps:
                module, _, name = step.rpartition(".")
                owner: object = module
                if "." in module and module.rpartition(".")[2][0].isupper():
                    package, _, cls = module.rpartition(".")
                    owner = getattr(__import__(package, fromlist=[cls]), cls)
                else:
                    owner = __import__(module, fromlist=[name])
                real = getattr(owner, name)

                def stepping(*args: object, _real: object = real, _name: str = name, **more: object) -> object:
                    held_back = bool(container_of(store).kept) or _name == "copy"
                    if held_back or _name == "replace_blocks":
                        copy_now(f"before-{_name}")
                    result = _real(*args, **more)  # type: ignore[operator]
                    if held_back or _name == "replace_blocks":
                        copy_now(f"after-{_name}")
                    return result

                monkeypatch.setattr(owner, name, stepping)
            stream = await store.create_stream("s", slots=2)
            sent = [await begin(stream.slot(0), number) for number in range(3)]
            await write(stream.slot(1), 3 * PINNED.log_max_bytes)
            await until(lambda: len(taken) >= 10)
            monkeypatch.undo()
        for place in taken:
            shutil.copytree(tmp_path / "tier2", place / "tier2")
            async with tiered_store(place, PINNED) as store:
                again = store.streams.get("s")
                assert again is not None
                held, busy = again.slot(0), again.slot(1)
                assert await read_all(held) == sent, place.name
                assert len(await read_bytes(busy)) == busy.total_bytes
                await commit(held)
                await until(lambda held=held: held.tiered_end == len(sent) + 1)
                assert (await read_bytes(held)).startswith(b"".join(sent))

    run(scenario())
