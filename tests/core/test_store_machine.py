"""The store against a plain model: whatever is done to it in whatever order, crashes among it, it holds what was
acknowledged, once, in order, and nothing that was never sent."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from core.applied.tables import Delete, Put
from core.clock import ManualClock
from core.container.container import UNINDEXED_FILES_MAX, Container
from core.container.truncation import is_settled
from core.errors import StaleWriterEpoch
from core.index.rows import read_directory
from core.log.format import FILE_HEADER_SIZE, IN_TRANSACTION
from core.store import Store
from core.streams.live import Slot, Stream
from core.streams.writers import Duplicate
from tests.core.store_model import Entry, ModelSlot, ModelStream
from tests.core.support import (
    NO_WRITER,
    Outcome,
    Writer,
    append,
    begin_append,
    container_of,
    crash_copy,
    end_of,
    fast_directory,
    forget_bytes,
    maintenance_of,
    marker,
    open_store,
    policy_from,
    read_all,
    until,
)
from tests.core.transaction_model import Ended

pytestmark = pytest.mark.slow

T = TypeVar("T")
Place = tuple[Slot, ModelSlot]
Undo = Callable[[], object]

NAMES: Final = ("a", "b", "c")
TRANSACTIONAL: Final = (11, 12, 13)
CONFIGS: Final = ({}, {"retention_ms": "5000"}, {"retention_bytes": "9000"}, {"compact": "", "retention_ms": "1"})


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.home = Path(tempfile.mkdtemp(dir=fast_directory()))
        self.places = itertools.count()
        self.directory = self.home / "0"
        self.clock = ManualClock()
        self.streams: dict[str, ModelStream] = {}
        self.table: dict[bytes, bytes] = {}
        self.serial = itertools.count()
        self.epoch = -1
        self.store = self.run(self.open(self.directory))

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(30):
                return await main

        return self.runner.run(bounded())

    async def open(self, directory: Path) -> Store:
        return await open_store(directory, clock=self.clock)

    def teardown(self) -> None:
        self.restart_clean()
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.home)

    @property
    def container(self) -> Container:
        return container_of(self.store)

    @initialize(slots=st.integers(1, 3), config=st.sampled_from(CONFIGS))
    def begin(self, slots: int, config: dict[str, str]) -> None:
        self.create("a", slots, config)

    # Streams

    @rule(name=st.sampled_from(NAMES), slots=st.integers(1, 4), config=st.sampled_from(CONFIGS))
    def create(self, name: str, slots: int, config: dict[str, str]) -> None:
        if name in self.streams:
            return
        stream = self.run(self.store.create_stream(name, slots=slots, config=config))
        slots_of = [ModelSlot() for _ in range(slots)]
        self.streams[name] = ModelStream(slots_of, dict(config), stream.uuid, stream.state.epochs)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), more=st.integers(1, 3))
    def grow(self, data: st.DataObject, more: int) -> None:
        name, model = self.any_stream(data)
        self.run(self.store.grow_stream(self.live(name), len(model.slots) + more))
        model.slots += [ModelSlot() for _ in range(more)]
        model.epochs = self.live(name).state.epochs

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), in_flight=st.integers(0, 2))
    def scale(self, data: st.DataObject, in_flight: int) -> None:
        """Split or merge, while appends are on their way."""
        name, model = self.any_stream(data)
        stream = self.live(name)
        change = self.any_scale(data, stream)
        if change is None:
            return

        async def go() -> None:
            outcomes = [self.send(stream.slot(0), model.slots[0], 1, 50, 0) for _ in range(in_flight)]
            scaling = asyncio.create_task(self.store.scale_stream(stream, *change, "test"))
            await until(lambda: len(stream.logged.epochs) > len(model.epochs))
            outcomes += [self.send(stream.slot(0), model.slots[0], 1, 50, 0) for _ in range(in_flight)]
            for outcome in outcomes:
                await outcome.future
            await scaling

        self.run(go())
        assert len(stream.state.epochs) == len(model.epochs) + 1
        model.epochs = stream.state.epochs

    def any_scale(self, data: st.DataObject, stream: Stream) -> tuple[list[int], list[int]] | None:
        """Segments to seal and where to cut; None when nothing can be cut."""
        runs = stream.state.current.segments
        if len(runs) > 1 and data.draw(st.booleans()):
            begin = data.draw(st.integers(0, len(runs) - 2))
            return [run.number for run in runs[begin : begin + 2]], []
        wide = [run for run in runs if run.last - run.first > 1]
        if not wide:
            return None
        split = data.draw(st.sampled_from(wide))
        return [split.number], [data.draw(st.integers(split.first + 1, split.last - 1))]

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), config=st.sampled_from(CONFIGS))
    def configure(self, data: st.DataObject, config: dict[str, str]) -> None:
        name, model = self.any_stream(data)
        self.run(self.store.update_stream(self.live(name), config=config))
        model.config = dict(config)

    @precondition(lambda self: len(self.streams) > 1)
    @rule(data=st.data(), in_flight=st.booleans())
    def delete(self, data: st.DataObject, in_flight: bool) -> None:
        name, _ = self.any_stream(data)

        async def go() -> None:
            stream = self.live(name)
            outcome = begin_append(stream.slot(0), b"never seen again")[1] if in_flight else None
            await self.store.delete_stream(stream)
            if outcome is not None:
                await outcome.future

        self.run(go())
        del self.streams[name]

    # Entries

    @precondition(lambda self: self.streams)
    @rule(
        data=st.data(),
        count=st.integers(1, 12),
        records=st.integers(1, 5),
        size=st.sampled_from([1, 50, 900, 4000, 20_000]),
        late=st.integers(-3000, 3000),
    )
    def append(self, data: st.DataObject, count: int, records: int, size: int, late: int) -> None:
        """Several appends in one turn of the loop, to one or more slots."""
        self.index_in_time()
        places = [self.any_slot(data) for _ in range(min(count, 3))]

        async def go() -> None:
            outcomes: list[Outcome] = []
            for place, _ in zip(itertools.cycle(places), range(count), strict=False):
                slot, model = place
                outcomes.append(self.send(slot, model, records, size, late))
            for outcome in outcomes:
                await outcome.future
            # Rolls happen where sizes say, not where threads do.
            await until(lambda: self.container.log.can_roll)

        self.run(go())

    def send(
        self,
        slot: Slot,
        model: ModelSlot,
        records: int,
        size: int,
        late: int,
        writer: Writer = NO_WRITER,
        flags: int = 0,
    ) -> Outcome:
        payload = b"%d;" % next(self.serial) + os.urandom(size)
        timestamp = self.clock.wall_ms() + late
        base, outcome = begin_append(slot, payload, records, timestamp, writer, flags)
        assert base == model.end
        model.entries.append(Entry(base, records, timestamp, payload, slot.segment_id, writer[0]))
        return outcome

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), writer=st.integers(1, 2), count=st.integers(1, 3), again=st.integers(0, 4))
    def append_once(self, data: st.DataObject, writer: int, count: int, again: int) -> None:
        """An idempotent writer sends its next batch, then an earlier one of the last five again."""
        slot, model = self.any_slot(data)
        sent = model.sequences.setdefault(writer, [])
        first = sent[-1][0] + sent[-1][1] if sent else 0
        payload = b"%d;once" % next(self.serial)
        assert self.container.check_writer(slot, writer, 0, first, count) is None
        base = self.run(append(slot, payload, count, self.clock.wall_ms(), (writer, 0, first)))
        assert base == model.end
        model.entries.append(Entry(base, count, self.clock.wall_ms(), payload, slot.segment_id))
        sent.append((first, count, base))
        self.check_duplicate(slot, writer, sent[-min(again + 1, len(sent))])

    def check_duplicate(self, slot: Slot, writer: int, batch: tuple[int, int, int]) -> None:
        first, count, base = batch
        found = self.container.check_writer(slot, writer, 0, first, count)
        assert isinstance(found, Duplicate)
        assert (base, base + count) == (found.base, found.end)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), to_end=st.booleans())
    def trim(self, data: st.DataObject, to_end: bool) -> None:
        slot, model = self.any_slot(data)
        offset = model.end if to_end else data.draw(st.integers(0, model.end))
        assert max(offset, model.start) == self.run(self.store.hosted(slot).truncate(slot, offset))
        model.start = max(offset, model.start)

    # Transactions

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), writer=st.sampled_from(TRANSACTIONAL), count=st.integers(1, 4))
    def append_in_transaction(self, data: st.DataObject, writer: int, count: int) -> None:
        """To one slot or two, in one turn of the loop; where nothing is open, a transaction begins."""
        places = [self.any_slot(data) for _ in range(2)]

        async def go() -> None:
            for place, _ in zip(itertools.cycle(places), range(count), strict=False):
                await self.send_in_transaction(place, writer, 200)[0].future
            await until(lambda: self.container.log.can_roll)

        self.run(go())

    def send_in_transaction(self, place: Place, writer: int, size: int) -> tuple[Outcome, Undo]:
        slot, model = place
        before = dict(model.writers)
        epoch, sequence = model.writers.setdefault(writer, (0, 0))
        assert self.container.check_writer(slot, writer, epoch, sequence, 2) is None
        outcome = self.send(slot, model, 2, size, 0, (writer, epoch, sequence), IN_TRANSACTION)
        model.writers[writer] = epoch, sequence + 2

        def undo() -> None:
            model.entries.pop()
            model.writers = before

        return outcome, undo

    @rule(
        data=st.data(),
        writer=st.sampled_from(TRANSACTIONAL),
        committed=st.booleans(),
        bump=st.booleans(),
        value=st.binary(max_size=10),
    )
    def end_transaction(self, data: st.DataObject, writer: int, committed: bool, bump: bool, value: bytes) -> None:
        """End a writer's transaction in all slots where it is open, with a change of two keys."""

        async def go() -> None:
            await self.send_end(writer, committed, bump, value)[0]
            await until(lambda: self.container.log.can_roll)

        self.run(go())

    def send_end(self, writer: int, committed: bool, bump: bool, value: bytes) -> tuple[asyncio.Future[None], Undo]:
        """In all slots that are written: those in which nothing is open get no marker."""
        ends = []
        places = [
            (slot, m.slots[slot.number]) for n, m in self.streams.items() for slot in self.live(n).written_slots()
        ]
        marked: list[tuple[ModelSlot, tuple[int, int]]] = []
        now = self.clock.wall_ms()
        for slot, model in places:
            epoch, sequence = model.writers.get(writer, (0, 0))
            ends.append(end_of(slot, writer, committed=committed, epoch=epoch + bump, timestamp=now))
            if writer in model.transactions.open:
                payload = marker(model.end, self.container.epoch)
                model.entries.append(Entry(model.end, 1, now, payload, slot.segment_id, writer, committed))
                marked.append((model, (epoch, sequence)))
                model.writers[writer] = (epoch + 1, 0) if bump else (epoch, sequence)
        future = self.container.end_transactions(ends, [Put("t", b"x", b"x" + value), Delete("t", b"y")])
        before, self.table = self.table, {**self.table, b"x": b"x" + value}
        self.table.pop(b"y", None)

        def undo() -> None:
            self.table = before
            for model, known in marked:
                model.entries.pop()
                model.writers[writer] = known

        return future, undo

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def list_aborted(self, data: st.DataObject) -> None:
        """A reader of any range gets exactly the aborted transactions in it."""
        slot, model = self.any_slot(data)
        first = data.draw(st.integers(model.start, model.end))
        end = data.draw(st.integers(first, model.end))
        assert model.transactions.aborted_in(first, end) == listed(slot, first, end)

    # Tables

    @rule(keys=st.dictionaries(st.sampled_from([b"x", b"y", b"z", b"w" * 300]), st.binary(max_size=40), min_size=1))
    def put(self, keys: dict[bytes, bytes]) -> None:
        """One record changes several keys; an empty value stands for none."""
        changes = [Put("t", k, v) if v else Delete("t", k) for k, v in keys.items()]
        self.run(self.store.update(*changes))
        self.table.update(keys)
        self.table = {k: v for k, v in self.table.items() if v}

    # The background

    @rule()
    def index(self) -> None:
        self.run(maintenance_of(self.store).index_files())

    def index_in_time(self) -> None:
        """As the background does: with too many files that are not indexed, the log takes no more."""
        if len(self.container.files.unindexed) > UNINDEXED_FILES_MAX // 4:
            self.index()

    @rule()
    def checkpoint(self) -> None:
        self.run(maintenance_of(self.store).checkpoint())

    @rule()
    def truncate(self) -> None:
        self.run(maintenance_of(self.store).truncate())

    @rule(half=st.booleans())
    def keep(self, half: bool) -> None:
        """Entries that need the oldest file are kept apart, and the file goes; or it was only about to."""

        async def go() -> None:
            maintenance = maintenance_of(self.store)
            await maintenance.index_files()
            await maintenance.checkpoint()
            truncation = maintenance._truncation
            for file in self.container.files.complete[:1]:
                needed = [ref for ref in read_directory(file) if truncation._is_needed(ref)]
                if needed and is_settled(file, maintenance.position):
                    await truncation._keeper._keep(file, needed)
            if not half:
                await maintenance.truncate()

        self.run(go())

    @rule(seconds=st.integers(0, 10))
    def retain(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.run(self.store.containers[0].retention.enforce())
        now = self.clock.wall_ms()
        for stream in self.streams.values():
            policy = policy_from(stream.config)
            for slot in stream.slots:
                live, stable_end = slot.live, slot.stable_end
                sizes = [len(entry.payload) for entry in live]
                for index, entry in enumerate(live):
                    old = policy.retention_ms >= 0 and entry.timestamp < now - policy.retention_ms
                    more = policy.retention_bytes >= 0 and sum(sizes[index + 1 :]) >= policy.retention_bytes
                    if not policy.delete or not (old or more) or entry.end > stable_end:
                        break
                    slot.start = entry.end

    @rule()
    def forget_cache(self) -> None:
        """The tail cache lost everything: reads go to the files."""
        forget_bytes(columns for _, columns in itertools.chain.from_iterable(self.container.files._columns.values()))

    # Restarts

    @rule()
    def restart_clean(self) -> None:
        epoch = self.container.epoch
        self.run(self.store.close())
        self.store = self.run(self.open(self.directory))
        assert (0, epoch) == (self.store.replayed_bytes, self.container.epoch)
        self.check()

    @rule()
    def restart_unclean(self) -> None:
        """Ends without the last checkpoint; RocksDB may have written more than P says."""
        epoch = self.container.epoch
        self.run(self.store.close(clean=False))
        self.store = self.run(self.open(self.directory))
        assert self.container.epoch > epoch
        self.check()

    @rule(
        data=st.data(),
        in_flight=st.integers(0, 6),
        size=st.sampled_from([10, 500, 20_000]),
        kept=st.floats(0, 1),
        scales=st.booleans(),
        writers=st.lists(st.sampled_from(TRANSACTIONAL), max_size=3),
    )
    def crash(
        self, data: st.DataObject, in_flight: int, size: int, kept: float, scales: bool, writers: list[int]
    ) -> None:
        """A kill: RocksDB's memory is gone, and of what was not synced, a scale and ends of transactions among it, a
        prefix is there."""
        self.index_in_time()
        epoch = self.container.epoch
        places = [self.any_slot(data) for _ in range(in_flight if self.streams else 0)]
        ends: list[tuple[Path, int, Undo]] = []
        scaled = self.any_stream(data) if scales and self.streams else None
        change = self.any_scale(data, self.live(scaled[0])) if scaled is not None else None

        async def go() -> tuple[Path, Path, int]:
            log = self.container.log
            acknowledged = log.durable_position
            scaling = None
            for number, (slot, model) in enumerate(places):
                if number == len(places) // 2 and scaled is not None and change is not None:
                    scaling = asyncio.create_task(self.scale_in_flight(*scaled, *change, ends))
                    await until(lambda: self.live(scaled[0]).logged.current.reason == "in flight")
                self.send(slot, model, 1, size, 0)
                ends.append((log.file.path, log.position, model.entries.pop))
            for number, writer in enumerate(writers):
                for place in places[:2]:
                    undo = self.send_in_transaction(place, writer, size)[1]
                    ends.append((log.file.path, log.position, undo))
                undo = self.send_end(writer, number != 1, number == 2, b"%d" % number)[1]
                ends.append((log.file.path, log.position, undo))
            target = await crash_copy(self.store, self.home / f"{next(self.places)}-copy")
            newest = log.file.path
            least = acknowledged.position if acknowledged.file_lsn == log.file.first_lsn else FILE_HEADER_SIZE
            if scaling is not None:
                await scaling
            await self.store.close(clean=False)
            return target, newest, least

        target, newest, least = self.run(go())
        copy = target / "container-0" / "log" / newest.name
        most = max([least, *(end for path, end, _ in ends if path == newest)])
        cut = least + int(kept * (most - least))
        with copy.open("r+b") as stream:
            stream.truncate(max(cut, FILE_HEADER_SIZE))
        for path, end, undo in reversed(ends):
            if path == newest and end > cut:
                undo()
        shutil.rmtree(self.directory)
        self.directory = target
        self.store = self.run(self.open(target))
        assert self.container.epoch > epoch
        self.check()

    async def scale_in_flight(
        self,
        name: str,
        model: ModelStream,
        sealed: list[int],
        cuts: list[int],
        ends: list[tuple[Path, int, Undo]],
    ) -> None:
        stream, before, log = self.live(name), model.epochs, self.container.log
        scaling = asyncio.create_task(self.store.scale_stream(stream, sealed, cuts, "in flight"))
        await asyncio.sleep(0)  # it is queued

        def undo() -> None:
            model.epochs = before

        ends.append((log.file.path, log.position, undo))
        model.epochs = stream.logged.epochs
        await scaling

    # Looking

    @precondition(lambda self: self.streams)
    @rule(
        data=st.data(),
        max_bytes=st.sampled_from([1, 1_000, 30_000]),
        at_least_one=st.booleans(),
        committed=st.booleans(),
    )
    def read(self, data: st.DataObject, max_bytes: int, at_least_one: bool, committed: bool) -> None:
        """Any offset, any limit, up to the end or to where committed readers stop."""
        slot, model = self.any_slot(data)
        end = slot.stable_end if committed else slot.durable_end
        offset = data.draw(st.integers(model.start, end))
        found = self.run(self.store.hosted(slot).reader.read(slot, offset, end, max_bytes, at_least_one))
        wanted = [entry for entry in model.entries if offset < entry.end <= end]
        parts = [entry.payload for entry in wanted[: len(found.parts)]]
        assert parts == list(map(bytes, found.parts))
        assert sum(map(len, parts)) == found.size
        assert (wanted[len(parts) - 1].end if parts else offset) == found.end
        if wanted and at_least_one:
            assert parts
        assert found.size <= max_bytes or (at_least_one and len(parts) == 1)
        if wanted and not at_least_one and not parts:
            assert len(wanted[0].payload) > max_bytes

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def look_by_time(self, data: st.DataObject) -> None:
        slot, model = self.any_slot(data)
        live = model.live
        wanted = data.draw(st.sampled_from([0, self.clock.wall_ms(), *(e.timestamp + d for e in live for d in (0, 1))]))
        found = self.run(self.store.hosted(slot).reader.entry_at_time(slot, wanted, 0))
        first = next((e for e in live if e.timestamp >= wanted), None)
        assert (None if first is None else (first.base, first.count, first.timestamp, first.payload)) == (
            None if found is None else (found.first, found.count, found.max_timestamp, found.payload)
        )
        newest = self.run(self.store.hosted(slot).reader.entry_with_max_timestamp(slot))
        last = max(live, key=lambda e: (e.timestamp, -e.base), default=None)
        assert (last and last.base) == (newest and newest.first)

    @rule()
    def check(self) -> None:
        """Everything is as the model says."""
        assert sorted(self.streams) == sorted(stream.name for stream in self.store.streams)
        assert self.table == dict(self.store.table("t").items())
        for name, model in self.streams.items():
            stream = self.live(name)
            assert (len(model.slots), model.config, model.uuid) == (stream.slot_count, stream.config, stream.uuid)
            assert model.epochs == stream.state.epochs
            for number, expected in enumerate(model.slots):
                self.check_slot(stream.slot(number), expected)

    def check_slot(self, slot: Slot, model: ModelSlot) -> None:
        assert (model.start, model.end, model.end) == (slot.start, slot.durable_end, slot.end)
        live = model.live
        assert sum(len(e.payload) for e in live) == slot.size_bytes
        assert [e.payload for e in live] == self.run(read_all(self.store, slot, model.start))
        assert [e.segment for e in live] == [slot.segment_at(e.base)[0] for e in live]
        epochs = [epoch for epoch, _ in slot.leader_epochs]
        assert sorted(set(epochs)) == epochs
        self.check_transactions(slot, model)
        for writer, sent in model.sequences.items():
            for batch in sent[-5:]:
                self.check_duplicate(slot, writer, batch)

    def check_transactions(self, slot: Slot, model: ModelSlot) -> None:
        known = model.transactions
        assert model.stable_end == slot.stable_end
        assert sum(len(e.payload) for e in model.entries if e.end <= slot.stable_end) == slot.stable_bytes
        assert set(known.open) == {writer for writer in TRANSACTIONAL if slot.has_open_transaction(writer)}
        assert known.aborted_in(model.start, model.end) == listed(slot, 0, model.end)
        for writer, (epoch, sequence) in model.writers.items():
            assert self.container.check_writer(slot, writer, epoch, sequence, 1) is None
            if epoch:
                with pytest.raises(StaleWriterEpoch):
                    self.container.check_writer(slot, writer, epoch - 1, 0, 1)

    def live(self, name: str) -> Any:
        stream = self.store.streams.get(name)
        assert stream is not None
        return stream

    def any_stream(self, data: st.DataObject) -> tuple[str, ModelStream]:
        name = data.draw(st.sampled_from(sorted(self.streams)))
        return name, self.streams[name]

    def any_slot(self, data: st.DataObject) -> Place:
        name, model = self.any_stream(data)
        number = data.draw(st.integers(0, len(model.slots) - 1))
        return self.live(name).slot(number), model.slots[number]


def listed(slot: Slot, first: int, end: int) -> list[Ended]:
    return [Ended(row.last, row.first, row.writer_id) for row in slot.aborted_in(first, end)]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=int(os.environ.get("PENSTOCK_TEST_EXAMPLES", "12")), stateful_step_count=40)
