"""Pins of the log: an open transaction or a damaged entry holds up its own slot, and no other."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import core.container.keeper
from core.applied.metadata import Metadata
from core.container.container import Container
from core.container.kept import KeptFile
from core.container.truncation import Truncation
from core.errors import CorruptLog, StorageFull
from core.index.rows import sidecar_path
from core.log.files import KEPT_DIRECTORY, log_path
from core.log.format import APPEND_OVERHEAD
from core.store import Store
from core.streams.live import Slot
from core.tiering.rows import chunk_key
from tests.core.support import (
    KIB,
    append,
    append_in_transaction,
    container_of,
    copy_files,
    end_of,
    hosted_of,
    owner_of,
    read_all,
    run,
    until,
)
from tests.core.tiering.support import TIERING, chunk_entries, runs_of, storage_in, tiered_store, without_gaps
from tests.core.tiering.writing.test_storage_writer import Unreliable
from tests.tier2.chunks import entry
from tier2.filesystem import FilesystemStorage
from tier2.storage import Data, Denied, ObjectStat

pytestmark = pytest.mark.slow

PINNED: Final = replace(TIERING, log_max_bytes=1024 * KIB, chunk_age_ms=200)
"""A log of sixteen files."""
WRITER: Final = 7
BAD: Final = 7
PATIENCE_S: Final = 50


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
    await owner_of(slot).end_transactions([marked], [])


async def write(slot: Slot, size: int, body: int = KIB) -> bytes:
    """As a producer does: refused entries are sent again."""
    written: list[bytes] = []
    end = slot.total_bytes + size
    async with asyncio.timeout(PATIENCE_S):
        while slot.total_bytes < end:
            made = bytes(entry(slot.end, 1, 1000 + slot.end, b"." * body).payload)
            try:
                await append(slot, made, timestamp=1000 + slot.end)
                written.append(made)
            except StorageFull:
                await asyncio.sleep(0.02)
    return b"".join(written)


async def read_bytes(store: Store, slot: Slot, start: int | None = None) -> bytes:
    return b"".join(await read_all(store, slot, start))


def kept_files(container: Container) -> Sequence[KeptFile]:
    return container.kept


async def tiered_to(slot: Slot, end: int) -> None:
    await until(lambda: slot.tiered_end == end)


def slots_of(store: Store) -> tuple[Slot, Slot]:
    stream = store.streams.get("s")
    assert stream is not None
    return stream.slot(0), stream.slot(1)


def on_disk(container: Container) -> list[str]:
    directory = container.directory / KEPT_DIRECTORY
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


async def let_go(store: Store) -> None:
    await until(lambda: not container_of(store).kept and not on_disk(container_of(store)))


def test_one_open_transaction(tmp_path: Path) -> None:
    """One record of an open transaction holds up nobody: twice the log goes through; then it is tiered."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, PINNED) as store:
            container = container_of(store)
            stream = await store.create_stream("s", slots=2)
            held, busy = stream.slot(0), stream.slot(1)
            first = [await begin(held)]
            written = await write(busy, 2 * PINNED.log_max_bytes)

            assert len(kept_files(container)) == 1
            assert container.kept_bytes < 8 * KIB
            assert held.stable_end == held.tiered_end == 0
            assert await read_all(store, held) == first
            assert await read_bytes(store, busy) == written
            assert store.streams.get("s") is stream

            await commit(held)
            await until(lambda: held.tiered_end == 2)
            await let_go(store)
            assert (await read_bytes(store, held)).startswith(first[0])

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
            for number in range(20):
                sent.append(await begin(held, number))
                await write(busy, 100 * KIB)
            assert held.stable_end == 1
            assert len(kept_files(container)) > 5
            assert container.log_bytes <= PINNED.log_max_bytes
            for offset in range(len(sent)):
                assert await read_all(store, held, offset) == sent[offset:]
            found = await store.hosted(held).reader.entry_at_time(held, 1000 + 20, 0)
            assert found is None or found.payload in sent
            assert await hosted_of(store).reader.bytes_before(held, 20) == sum(map(len, sent[:20]))

            await commit(held)
            await until(lambda: held.tiered_end == len(sent) + 1)
            await let_go(store)
            assert (await read_bytes(store, held)).startswith(b"".join(sent))
            assert without_gaps(runs_of(store, held))

    run(scenario())


@pytest.mark.parametrize("clean", [True, False])
def test_restart(tmp_path: Path, clean: bool) -> None:
    """Kept entries are there after a stop and after a kill, and are tiered when their transaction ends."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, PINNED, storage, clean=clean) as store:
            stream = await store.create_stream("s", slots=2)
            sent = [await begin(stream.slot(0), number) for number in range(3)]
            await write(stream.slot(1), 2 * PINNED.log_max_bytes)
            assert kept_files(container_of(store))
        async with tiered_store(tmp_path, PINNED, storage) as store:
            container = container_of(store)
            held, busy = slots_of(store)
            assert kept_files(container)
            assert await read_all(store, held) == sent
            sent.append(await begin(held, 3))
            await write(busy, 2 * PINNED.log_max_bytes)
            assert await read_all(store, held) == sent
            await commit(held)
            await until(lambda: held.tiered_end == len(sent) + 1)
            await let_go(store)
            assert (await read_bytes(store, held)).startswith(b"".join(sent))

    run(scenario())


STEPS: Final = ((core.container.keeper, "copy"), (Metadata, "replace_blocks"), (Truncation, "_give_up"))


class Kills:
    """Copies of a store's directory as a kill before and after each step of keeping would leave it."""

    def __init__(self, home: Path, store: Store, patch: pytest.MonkeyPatch) -> None:
        self.taken: dict[str, Path] = {}
        self._home, self._store, self._loop = home, store, asyncio.get_running_loop()
        for owner, name in STEPS:
            patch.setattr(owner, name, self._stepping(name, getattr(owner, name)))

    @property
    def is_done(self) -> bool:
        return len(self.taken) == 2 * len(STEPS)

    def _stepping(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def stepping(*args: object, **more: object) -> object:
            if name == "_give_up" and not container_of(self._store).kept:
                return real(*args, **more)
            self._take(f"before {name}")
            done = real(*args, **more)
            self._take(f"after {name}")
            return done

        return stepping

    def _take(self, when: str) -> None:
        """In the metadata thread, while the loop stands and the log is synced."""
        if when not in self.taken:
            ready, go_on = threading.Event(), threading.Event()
            asyncio.run_coroutine_threadsafe(self._stand(ready, go_on), self._loop)
            assert ready.wait(20)
            self.taken[when] = self._home / when
            copy_files(self._store, self._home / when / "store")
            go_on.set()

    async def _stand(self, ready: threading.Event, go_on: threading.Event) -> None:
        log = container_of(self._store).log
        while log.synced_lsn < log.next_lsn - 1:
            await log.synced(log.next_lsn - 1)
        ready.set()
        go_on.wait(20)  # nothing else may happen meanwhile


def test_killed_at_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill before or after any step of keeping leaves every entry where a reader finds it."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "tier2")
        async with tiered_store(tmp_path, PINNED, storage, clean=False) as store:
            stream = await store.create_stream("s", slots=2)
            sent = [await begin(stream.slot(0), number) for number in range(3)]
            kills = Kills(tmp_path, store, monkeypatch)
            async with asyncio.timeout(PATIENCE_S):
                while not kills.is_done:
                    await write(stream.slot(1), 64 * KIB)
            monkeypatch.undo()
        for when, place in kills.taken.items():
            shutil.copytree(tmp_path / "tier2", place / "tier2")
            async with tiered_store(place, PINNED) as again:
                held, busy = slots_of(again)
                assert await read_all(again, held) == sent, when
                assert len(await read_bytes(again, busy)) == busy.total_bytes, when
                await commit(held)
                await tiered_to(held, len(sent) + 1)
                assert (await read_bytes(again, held)).startswith(b"".join(sent)), when

    run(scenario())


# Damage


async def damaged_store(store: Store, storage: Unreliable, *bad: int) -> tuple[Slot, Slot, list[bytes]]:
    """Two slots side by side in files that are complete and in no chunk; of the first one's entries one is damaged."""
    stream = await store.create_stream("s", slots=2)
    hurt, busy = stream.slot(0), stream.slot(1)
    storage.away = True
    sent: list[bytes] = []
    while len(container_of(store).files.complete) < 6:
        sent.append(payload(hurt))
        await append(hurt, sent[-1], timestamp=1000 + hurt.end)
        await write(busy, 4 * KIB)
    for offset in bad:
        damage(store, hurt, offset)
    return hurt, busy, sent


def damage(store: Store, slot: Slot, offset: int) -> None:
    """Turn one byte of an entry that lies in a complete file."""
    for file_lsn, rows in store.hosted(slot).reader.all_rows(slot, offset, lambda ref: True):
        row = rows.row_of(offset)
        path = log_path(owner_of(slot).directory, file_lsn)
        with path.open("r+b") as stream:
            at = rows.position[row] + APPEND_OVERHEAD + 5
            stream.seek(at)
            byte = stream.read(1)[0]
            stream.seek(at)
            stream.write(bytes([byte ^ 0xFF]))
        return


def test_one_damaged_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged entry holds up neither the slots that share its chunks nor the log; entries before it are tiered."""
    monkeypatch.setattr("core.tiering.writing.pins.RETRY_FIRST_S", 3600.0)  # it is not given up meanwhile

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, PINNED, storage) as store:
            container = container_of(store)
            bad = BAD
            hurt, busy, sent = await damaged_store(store, storage, bad)
            storage.away = False
            await write(busy, 2 * PINNED.log_max_bytes)

            await until(lambda: hurt.tiered_end == bad)
            assert container.kept
            assert container.log_bytes <= PINNED.log_max_bytes
            assert await hosted_of(store).reader.read(hurt, 0, bad, KIB * KIB, True)
            with pytest.raises(CorruptLog, match=f"offset {bad} of s-0"):
                await hosted_of(store).reader.read(hurt, bad, hurt.durable_end, KIB * KIB, True)
            assert await read_all(store, hurt, bad + 1) == sent[bad + 1 :]
            tier = hosted_of(store).tier
            assert tier is not None
            await until(lambda: tier.pins.named)
            (pin,) = tier.pins.named
            assert (pin.place, pin.reason) == ("s-0", "damage")

            sent.append(payload(hurt))
            await append(hurt, sent[-1])
            assert await read_all(store, hurt, bad + 1) == sent[bad + 1 :]
            await store.hosted(hurt).truncate(hurt, bad + 1)
            await until(lambda: hurt.tiered_end == len(sent))
            await let_go(store)
            assert await read_bytes(store, hurt) == b"".join(sent[bad + 1 :])

    run(scenario())


@pytest.mark.parametrize("bad", [(0,), (7, 8, 10)])
def test_tiered_past_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...]) -> None:
    """While the log is pressed, a slot is tiered past its damage, which is set aside and refused by name."""
    monkeypatch.setattr("core.tiering.writing.pins.RETRY_FIRST_S", 0.05)

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, PINNED, storage) as store:
            container = container_of(store)
            hurt, busy, sent = await damaged_store(store, storage, *bad)
            storage.away = False
            good = [one for offset, one in enumerate(sent) if offset not in bad]
            async with asyncio.timeout(PATIENCE_S):
                while hurt.tiered_end < len(sent):
                    await write(busy, 256 * KIB)
            assert (hurt.start, hurt.tiered_bytes) == (0, sum(map(len, sent)))
            assert await chunk_entries(storage, store, hurt) == good
            assert sorted(offset for one in container.damage for offset in range(one.first, one.end)) == list(bad)
            for one in container.damage:
                frames = (container.damage.directory / one.file).read_bytes()
                assert len(frames) == one.size + (one.end - one.first) * APPEND_OVERHEAD
            await let_go(store)
            await refused_there(store, hurt, sent, bad)
        async with tiered_store(tmp_path, PINNED, storage) as store:
            hurt, busy = slots_of(store)
            await refused_there(store, hurt, sent, bad)
            await store.hosted(hurt).truncate(hurt, max(bad) + 1)
            await until(lambda: not container_of(store).damage)
            assert await read_bytes(store, hurt) == b"".join(sent[max(bad) + 1 :])

    run(scenario())


async def refused_there(store: Store, slot: Slot, sent: Sequence[bytes], bad: Sequence[int]) -> None:
    """Damaged entries are errors, and entries between them are read."""
    reader, offset = store.hosted(slot).reader, 0
    while offset < len(sent):
        if offset in bad:
            with pytest.raises(CorruptLog, match="of s-0 are damaged"):
                await reader.read(slot, offset, slot.durable_end, KIB * KIB, True)
            assert reader.cached(slot, offset, slot.durable_end, KIB * KIB, True) is None
            offset += 1
            continue
        found = await reader.read(slot, offset, slot.durable_end, KIB * KIB, True)
        assert b"".join(bytes(part) for part in found.parts) == b"".join(sent[offset : found.end])
        assert found.end > offset
        assert not set(range(offset, found.end)) & set(bad)
        offset = found.end


def test_damaged_index_is_made_again(tmp_path: Path) -> None:
    """A damaged sidecar, its directory or a slot's rows, is made again from its log file, and the log lets go."""

    async def scenario() -> None:
        storage = Unreliable(await storage_in(tmp_path / "tier2"))
        async with tiered_store(tmp_path, replace(PINNED, index_cache_bytes=1), storage) as store:
            container = container_of(store)
            hurt, busy, sent = await damaged_store(store, storage)
            files = container.files.complete[:3]
            await until(lambda: all(file.indexed for file in files))
            for file, position in zip(files, (-1, 64, 5), strict=True):
                with sidecar_path(file.path).open("r+b") as stream:
                    stream.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
                    stream.write(b"\xff")
            storage.away = False
            async with asyncio.timeout(PATIENCE_S):
                while files[-1] in container.files.complete:
                    await write(busy, 64 * KIB)
            assert await read_bytes(store, hurt) == b"".join(sent)
            assert len(await read_bytes(store, busy)) == busy.total_bytes

    run(scenario())


# Whom it costs


def test_who_holds_most_is_refused(tmp_path: Path) -> None:
    """A transaction that outgrows the log's share is refused, by name; its end and all other slots are not."""

    async def scenario() -> None:
        async with tiered_store(tmp_path, PINNED) as store:
            container = container_of(store)
            stream = await store.create_stream("s", slots=3)
            greedy, modest, busy = (stream.slot(number) for number in range(3))
            await begin(modest, writer=8)
            sequence = 0
            refused = ""
            async with asyncio.timeout(PATIENCE_S):
                while not refused:
                    try:
                        await begin(greedy, sequence, size=4 * KIB)
                        sequence += 1
                        await write(busy, 4 * KIB)
                    except StorageFull as full:
                        refused = str(full) if greedy in container.refused else ""
                        await asyncio.sleep(0.01)
            assert f"s-0 holds {container.refused and greedy.total_bytes} bytes" in refused
            assert "writer 7 has a transaction open since offset 0" in refused
            assert list(container.refused) == [greedy]
            await write(busy, 2 * PINNED.log_max_bytes)
            await begin(modest, 1, writer=8)
            assert greedy in container.refused

            await commit(greedy)
            await tiered_to(greedy, greedy.end)
            await until(lambda: greedy not in container.refused)
            await begin(greedy, sequence)

    run(scenario())


class Stubborn(Unreliable):
    """Storage that refuses one key for ever: to take it, or to tell of it."""

    refused = ""
    puts_only = False

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        if self.puts_only and key.startswith("chunks/") and self.refused in ("", key):
            self.refused = key
            raise Denied(key)
        return await super().put(key, data, token=token)

    async def stat(self, key: str) -> ObjectStat | None:
        found = await super().stat(key)
        if not self.puts_only and found is not None and key.startswith("chunks/"):
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.seen[key] > 1 and self.refused in ("", key):
                self.refused = key
                raise Denied(key)
        return found

    def __init__(self, inner: FilesystemStorage) -> None:
        super().__init__(inner)
        self.seen: dict[str, int] = {}


@pytest.mark.parametrize("puts_only", [True, False])
def test_one_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puts_only: bool) -> None:
    """A chunk whose key storage refuses for ever, to take it or to tell of it, gets another key; the log goes on."""
    monkeypatch.setattr("core.tiering.writing.uploads.FIRST_PAUSE_S", 0.02)

    async def scenario() -> None:
        storage = Stubborn(await storage_in(tmp_path / "tier2"))
        storage.puts_only = puts_only
        async with tiered_store(tmp_path, PINNED, storage) as store:
            stream = await store.create_stream("s", slots=2)
            for number in range(2):
                await write(stream.slot(number), 2 * PINNED.log_max_bytes)
            assert storage.refused
            for slot in (stream.slot(0), stream.slot(1)):
                await tiered_to(slot, slot.end)
                assert len(await read_bytes(store, slot)) == slot.total_bytes
                assert all(chunk_key(row.chunk) != storage.refused for row in runs_of(store, slot))

    run(scenario())
