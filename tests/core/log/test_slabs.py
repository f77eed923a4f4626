"""The log's memory: an image has its file's bytes or none of them, and nobody's view ever changes."""

from __future__ import annotations

import errno
import random
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.errors import StorageFailure
from core.index.rows import ROW_BYTES
from core.log.format import FILE_HEADER_SIZE, Buffer
from core.log.slabs import INDEX_ROW_BYTES, SLAB_BYTES_MAX, SLABS_MIN, AtOnce, FileImage, Slabs
from tests.core.support import KIB, append, container_of, hosted_of, make, open_store, run, until

pytestmark = pytest.mark.slow

LIMIT = 128 * KIB


class OneFile:
    """A file as the log writes it: its bytes, and how far they were reported as written."""

    def __init__(self, slabs: Slabs) -> None:
        self.image = slabs.begin_image()
        self.content = bytearray()


class SlabsMachine(RuleBasedStateMachine):
    """Files are written, rolled and dropped while readers hold views for as long as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.slabs = Slabs(LIMIT, "test")
        self.files = [OneFile(self.slabs)]
        self.held: list[tuple[Buffer, bytes]] = []
        self.random = random.Random(7)

    def teardown(self) -> None:
        self.slabs.close()

    @rule(size=st.integers(1, 40 * KIB))
    def write(self, size: int) -> None:
        file = self.files[-1]
        data = self.random.randbytes(size)
        self.slabs.reach(file.image, len(file.content) + size)
        assert file.image.fill(len(file.content), data) == len(file.content) + size
        file.content += data

    @rule()
    def report(self) -> None:
        for file in self.files:
            file.image.written = len(file.content)

    @rule()
    def roll(self) -> None:
        last = self.files[-1]
        self.slabs.completed(last.image, 10 * INDEX_ROW_BYTES)
        last.image.written = 1 << 40
        self.files.append(OneFile(self.slabs))

    @rule()
    @precondition(lambda self: len(self.files) > 1)
    def drop(self) -> None:
        self.slabs.dropped(self.files.pop(0).image)

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(self.files))
        if not file.content:
            return
        position = data.draw(st.integers(0, len(file.content) - 1))
        size = data.draw(st.integers(1, len(file.content) - position))
        expected = bytes(file.content[position : position + size])
        pieces = file.image.pieces(position, size)
        whole = file.image.bytes_at(position, size)
        assert (pieces is None) == (whole is None)
        if pieces is None or whole is None:
            return
        assert b"".join(pieces) == expected == bytes(whole)
        if data.draw(st.booleans()):
            self.held += [(piece, bytes(piece)) for piece in pieces]

    @rule()
    def let_go(self) -> None:
        self.held.clear()

    @invariant()
    def views_never_change(self) -> None:
        for view, content in self.held:
            assert bytes(view) == content

    @invariant()
    def newest_bytes_are_there(self) -> None:
        """Unwritten bytes are always in memory, from which the disk gets them."""
        for file in self.files:
            missing = file.image.written
            if missing < len(file.content):
                found = file.image.bytes_at(missing, len(file.content) - missing)
                assert found is not None
                assert bytes(found) == file.content[missing:]

    @invariant()
    def memory_has_a_bound(self) -> None:
        slab = self.files[-1].image.layout[3]
        unwritten = sum(len(f.content) - min(f.image.written, len(f.content)) + 2 * slab for f in self.files)
        rows = 10 * INDEX_ROW_BYTES * (len(self.files) - 1)
        bound = max(LIMIT, SLABS_MIN * slab + rows)
        assert self.slabs.used <= bound + unwritten + self.slabs.viewed + self.largest(slab)

    def largest(self, slab: int) -> int:
        """One write may need as many slabs at once before any is free again."""
        return 40 * KIB + 2 * slab


TestSlabs = SlabsMachine.TestCase
TestSlabs.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_slab_that_is_viewed_is_not_used_again() -> None:
    """It waits outside of the image, and serves again once the view is gone."""
    slabs = Slabs(SLABS_MIN * 4096, "test")
    image = slabs.begin_image()
    slabs.reach(image, 4096)
    image.fill(0, b"a" * 4096)
    view = image.bytes_at(0, 100)
    for end in range(8192, 40_960, 4096):
        image.written = end - 4096
        slabs.reach(image, end)
        image.fill(end - 4096, b"b" * 4096)
    assert view is not None
    assert bytes(view) == b"a" * 100
    assert image.bytes_at(0, 100) is None
    assert slabs.viewed == 4096
    del view
    image.written = 40_960
    slabs.reach(image, 45_056)
    assert (slabs.viewed, slabs.used) == (0, SLABS_MIN * 4096)
    slabs.close()


def test_memory_is_made_ahead_beside_the_log() -> None:
    """A little at first, so that a gateway at rest stays small; the next bytes find memory that was touched already."""
    slabs = Slabs(64 << 20, "test")
    image = slabs.begin_image()
    slabs.reach(image, 1)
    assert slabs.used == SLAB_BYTES_MAX
    deadline = time.monotonic() + 20
    while not slabs._grower._ready:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (made, *_) = slabs._grower._ready
    slabs.reach(image, SLAB_BYTES_MAX + 1)
    assert image.views[1] is made.view
    slabs.close()


def test_logs_share_what_they_take_at_once() -> None:
    """A busy log takes what the others have not taken, each its own share in any case. What a log had that was closed
    is there for the others."""
    limit = 1 << 20
    slab = limit // 16
    at_once = AtOnce(6 * slab, 2 * slab)
    busy, quiet = Slabs(limit, "busy"), Slabs(limit, "quiet")
    for each in (busy, quiet):
        each.share(at_once)
    busy.reach(busy.begin_image(), 5 * slab)
    assert at_once.taken == busy.used >= 5 * slab
    quiet.reach(quiet.begin_image(), slab)
    assert at_once.taken == busy.used + quiet.used >= 6 * slab
    assert not at_once.allows(2 * slab)
    assert at_once.allows(slab)
    busy.close()
    assert at_once.taken == quiet.used
    assert at_once.allows(2 * slab)
    quiet.close()
    assert at_once.taken == 0


def test_a_row_costs_what_the_index_says() -> None:
    assert INDEX_ROW_BYTES == ROW_BYTES


def test_the_log_waits_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for the next bytes nothing is lost and nothing is acknowledged; with it, appends go on."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        await append(slot, b"before")
        log = container_of(store).log
        real = Slabs.reach
        refused = 0

        def reach(slabs: Slabs, image: FileImage, end: int) -> None:
            nonlocal refused
            if refused < 5:
                refused += 1
                raise OSError(errno.ENOMEM, "Cannot allocate memory")
            real(slabs, image, end)

        monkeypatch.setattr(Slabs, "reach", reach)
        await append(slot, bytes(20 * KIB))
        assert refused == 5
        assert log.failure is None
        await append(slot, b"after")
        found = await hosted_of(store).reader.read(slot, 0, slot.durable_end, 1 << 20, True)
        assert [len(part) for part in found.parts] == [6, 20 * KIB, 5]
        await store.close()

    run(scenario())


def test_a_log_without_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as clients wait, the container fails and says why."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)

        def reach(slabs: Slabs, image: FileImage, end: int) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(Slabs, "reach", reach)
        monkeypatch.setattr("core.log.durable_log.PATIENCE_S", 0.1)
        with pytest.raises(StorageFailure, match="Cannot allocate memory"):
            await append(slot, bytes(20 * KIB))
        await until(container_of(store).failed.done)
        await store.close(clean=False)

    run(scenario())


def test_entries_across_slabs_are_read_as_they_were_appended(tmp_path: Path) -> None:
    """Sizes from one byte to many slabs, read from memory: none of it comes from the disk."""

    async def scenario() -> None:
        store = await open_store(tmp_path)
        slot = (await make(store)).slot(0)
        sizes = [1, 4000, 4096, 9000, 70_000, 5]
        sent = [random.Random(size).randbytes(size) for size in sizes]
        for data in sent:
            await append(slot, data)
            reader = hosted_of(store).reader
            found = await reader.read(slot, slot.durable_end - 1, slot.durable_end, 1, True)
            assert b"".join(found.parts) == data
        assert (reader.counters.memory.reads, reader.counters.log.reads) == (len(sizes), 0)
        assert container_of(store).log.file.image is not None
        assert FILE_HEADER_SIZE % 4096 == 0
        await store.close()

    run(scenario())
