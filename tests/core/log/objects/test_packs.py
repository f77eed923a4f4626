"""Packs of the log's small groups: their bytes, and that nothing depends on them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from core.log.objects import packs
from core.log.objects.format import BadLogObject, decode_header, encode_fence, encode_group, log_key
from core.log.objects.packs import OBJECT_BYTES_MAX, PACK_OBJECTS, Packing, decode_pack, ends_of, pack_key, packs_prefix
from core.log.objects.prefetch import Prefetched
from core.log.objects.protocol import Fence, Group, Place
from tests.core.log.objects.test_store import contents, found, store_on, text
from tests.core.support import append, make, run, until
from tests.core.tiering.support import storage_in
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Data, ObjectStat, Unavailable

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "pack-1.hex"
TOKEN = "00112233445566778899aabbccddeeff"
OBJECTS = [
    (lsn, lsn + 1, encode_group(7, Group(Place(3, lsn), lsn + 1, TOKEN), 11, 99, 4096, (b"frames %d" % lsn,)))
    for lsn in (17, 19, 23)
]
KEY = pack_key(7, 3, 17, 24)
PACK = packs.encode_pack(7, 3, OBJECTS)
RECORDS = 3 * PACK_OBJECTS + 5


def test_bytes_stay_as_they_are() -> None:
    """Packs of this version can be read for ever: these bytes were written once."""
    assert PACK.hex() == GOLDEN.read_text().strip()


def test_groups_are_read_back() -> None:
    read = decode_pack(7, KEY, PACK)
    assert [(one.place, PACK[one.position : one.position + one.size]) for one in read] == [
        (Place(3, lsn), data) for lsn, _, data in OBJECTS
    ]
    assert ends_of(KEY) == (17, 24)


@pytest.mark.parametrize("at", range(0, len(PACK), 7))
def test_a_changed_pack_is_refused(at: int) -> None:
    changed = bytearray(PACK)
    changed[at] ^= 1
    if 60 <= at < 64:  # nothing is there
        return
    with pytest.raises(BadLogObject):
        decode_pack(7, KEY, changed)


def test_a_pack_under_another_name_or_cut_off_is_refused() -> None:
    with pytest.raises(BadLogObject, match="it says that it is LSN 17 to 24 of epoch 3 of container 7"):
        decode_pack(7, pack_key(7, 4, 17, 24), PACK)
    for size in (0, 63, 64, len(PACK) - 1):
        with pytest.raises(BadLogObject, match=r"cut off|bytes"):
            decode_pack(7, KEY, PACK[:size])


def test_a_pack_with_a_fence_is_refused() -> None:
    """Where an epoch ends is asked of the store, whatever a pack says."""
    fence = encode_fence(7, Fence(Place(3, 19), 4, TOKEN))
    with pytest.raises(BadLogObject, match="its object of LSN 19 has 96 bytes: it is no group"):
        decode_pack(7, pack_key(7, 3, 17, 19), packs.encode_pack(7, 3, [OBJECTS[0], (19, 19, fence)]))


class Counting(FilesystemStorage):
    """Notes what is read."""

    read: list[str]

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self.read.append(key)
        return await super().get_range(key, start, length)


def test_a_taker_reads_packs_in_place_of_groups(tmp_path: Path) -> None:
    """Hundreds of groups are taken over by some reads of packs, and less than a pack's number of single ones."""

    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage) as store:
            slot = (await make(store)).slot(0)
            for number in range(RECORDS):
                await append(slot, text(number))
            await until(lambda: len(list((tmp_path / "bucket" / "packs" / "0").rglob("*-*"))) >= 3)
            before = await contents(store, slot)
        counting = await Counting.open(FilesystemSettings(directory=tmp_path / "bucket"))
        counting.read = []
        async with store_on(tmp_path / "b", counting) as store:
            assert await contents(store, found(store)) == before
            log = [key for key in counting.read if key.startswith("log/0/0")]
            assert len([key for key in counting.read if key.startswith(packs_prefix(0))]) >= 3
            assert len(log) < 2 * PACK_OBJECTS, "single groups at the log's end, two reads each at most"
        await counting.close()
        await storage.close()

    run(scenario())


@pytest.mark.parametrize("damage", ["changed", "emptied", "removed"])
def test_a_damaged_pack_costs_time_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        async with store_on(tmp_path / "a", storage) as store:
            slot = (await make(store)).slot(0)
            for number in range(PACK_OBJECTS + 10):
                await append(slot, text(number))
            made = tmp_path / "bucket" / "packs" / "0"
            await until(lambda: len(list(made.rglob("*-*"))) == 1)
            before = await contents(store, slot)
        (pack,) = made.rglob("*-*")
        if damage == "removed":
            pack.unlink()
        else:
            pack.write_bytes(pack.read_bytes()[:-1] + b"?" if damage == "changed" else b"")
        with caplog.at_level(logging.WARNING):
            async with store_on(tmp_path / "b", storage) as store:
                assert await contents(store, found(store)) == before
        assert ("a pack of the log is not used" in caplog.text) == (damage != "removed")
        await storage.close()

    run(scenario())


def test_packs_go_with_the_groups_that_they_hold(tmp_path: Path) -> None:
    """When the log is cut behind a checkpoint, packs below it are removed as well."""

    async def scenario() -> None:
        from core.log.objects.home import remove_before, remove_states_before
        from core.log.objects.manifest import Manifest

        storage = await storage_in(tmp_path / "bucket")
        for first, last in ((1, 9), (10, 19), (20, 29)):
            await storage.put(pack_key(0, 1, first, last), b"x")
            await storage.put(log_key(0, Place(1, first)), bytes(200))
        await remove_states_before(storage, 0, Manifest(Place(1, 15), 1, 30, ()))
        assert len([info async for info in storage.list("packs/0/")]) == 3, "the log begins where it began"
        await remove_before(storage, 0, Manifest(Place(1, 20), 1, 30, ()))
        assert [ends_of(info.key) async for info in storage.list("packs/0/")] == [(20, 29)]
        assert [info.key async for info in storage.list("log/0/")] == [log_key(0, Place(1, 20))]
        await storage.close()

    run(scenario())


class Away(FilesystemStorage):
    """Takes nothing."""

    asked: int

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        self.asked += 1
        raise Unavailable("the store is away")


def test_only_what_is_acknowledged_is_packed_and_a_store_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        storage = await Away.open(FilesystemSettings(directory=tmp_path / "bucket"))
        storage.asked = 0
        packing = Packing(storage, 0, 1)
        for lsn in range(1, 3 * PACK_OBJECTS):
            packing.stored(lsn, lsn, b"x" * 100)
        packing.stored(10_000, 10_000, b"x" * (OBJECT_BYTES_MAX + 1))
        packing.acknowledged(PACK_OBJECTS - 1)
        assert storage.asked == 0, "one less than a pack"
        packing.acknowledged(PACK_OBJECTS)
        await until(lambda: storage.asked == 1)
        packing.acknowledged(20_000)
        await until(lambda: storage.asked == 2)
        await packing.close()
        await storage.close()

    run(scenario())


def test_what_is_kept_answers_headers_from_memory(tmp_path: Path) -> None:
    async def scenario() -> None:
        storage = await storage_in(tmp_path / "bucket")
        await storage.put(KEY, PACK)
        kept = Prefetched(storage, 7, tmp_path / "scratch")
        await kept.fetch()
        for lsn, _, data in OBJECTS:
            key, place = log_key(7, Place(3, lsn)), Place(3, lsn)
            assert kept.decoded(place) == decode_header(7, place, data[:96])
            assert kept.read_kept(key, 96, len(data) - 96) == data[96:]
            assert kept.read_kept(key, 96, len(data)) is None, "more than there is"
        lsn, _, data = OBJECTS[0]
        key = log_key(7, Place(3, lsn))
        many = kept.read_many([(log_key(7, Place(3, one)), len(its) - 96) for one, _, its in OBJECTS], 96)
        assert [bytes(one or b"") for one in many] == [its[96:] for _, _, its in OBJECTS]
        assert kept.read_many([(key, len(data)), (log_key(7, Place(3, 18)), 1)], 96) == [None, None]
        assert kept.decoded(Place(3, 18)) is None
        kept.drop(key)
        assert kept.decoded(Place(3, lsn)) is None
        kept.forget()
        assert kept.read_many([(log_key(7, Place(3, OBJECTS[1][0])), 1)], 96) == [None]
        await storage.close()

    run(scenario())
