"""The contract of every driver; the same for the file system and for a real MinIO server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.tier2.conftest import OpenStorage
from tier2.storage import DELETES_MAX, AlreadyExists, Buffer, Corrupt, ErrorKind, ObjectNotFound, Storage

pytestmark = pytest.mark.slow

MIB = 1 << 20


class Streamed:
    """A body that is made while it is put; can be told to fail in between."""

    def __init__(self, seed: int, parts: int, fail_after: int | None = None) -> None:
        self._seed, self._parts, self._fail_after = seed, parts, fail_after

    def open(self) -> Iterator[Buffer]:
        rng = random.Random(self._seed)
        for number in range(self._parts):
            if number == self._fail_after:
                raise RuntimeError("the source has failed")
            yield memoryview(rng.randbytes(300_007))


async def keys(storage: Storage, prefix: str, after: str = "") -> list[str]:
    return [info.key async for info in storage.list(prefix, after=after)]


def test_reads_back_what_was_put(open_storage: OpenStorage) -> None:
    """Any range of an object comes back byte by byte, also after the store was reopened."""

    async def scenario() -> None:
        async with open_storage() as storage:
            stat = await storage.put("a/b.c", [b"0123", bytearray(b"456"), memoryview(b"789")], token="t1")
            assert (stat.size, stat.token) == (10, "t1")
        async with open_storage() as storage:
            assert await storage.get_range("a/b.c", 0, 10) == b"0123456789"
            assert await storage.get_range("a/b.c", 3, 4) == b"3456"
            assert await storage.get_range("a/b.c", 9, 1) == b"9"

    asyncio.run(scenario())


def test_streams_large_objects(open_storage: OpenStorage) -> None:
    """A body larger than several parts arrives whole, and is replaced as a whole."""
    body = Streamed(seed=1, parts=60)
    whole = b"".join(body.open())

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("large", b"before")
            stat = await storage.put("large", body, token="t2")

            found = await storage.stat("large")
            assert found is not None
            assert stat.size == found.size == len(whole)
            assert found.token == "t2"
            assert await storage.get_range("large", 0, len(whole)) == whole
            assert await storage.get_range("large", 5 * MIB - 1, 3) == whole[5 * MIB - 1 : 5 * MIB + 2]
            pieces: list[tuple[int, Buffer]] = []
            await storage.get_pieces("large", 11, 3 * MIB + 5, MIB, lambda *piece: pieces.append(piece))
            assert [(number, len(piece)) for number, piece in pieces] == [(0, MIB), (1, MIB), (2, MIB), (3, 5)]
            assert b"".join(piece for _, piece in pieces) == whole[11 : 3 * MIB + 16]

    asyncio.run(scenario())


@pytest.mark.parametrize("fail_after", [0, 3, 40])
def test_failed_put_leaves_nothing(open_storage: OpenStorage, fail_after: int) -> None:
    """A put whose source fails changes nothing: the old object stays, no new one appears."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("old", b"before")
            for key in ("old", "new"):
                with pytest.raises(RuntimeError):
                    await storage.put(key, Streamed(seed=2, parts=60, fail_after=fail_after))

            assert await storage.get_range("old", 0, 6) == b"before"
            assert await storage.stat("new") is None
            assert await keys(storage, "") == ["old"]

    asyncio.run(scenario())


def test_put_new_creates_once(open_storage: OpenStorage) -> None:
    """The second put_new of a key is refused, and the first one's bytes stay."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put_new("fence/1", b"first")
            with pytest.raises(AlreadyExists) as refused:
                await storage.put_new("fence/1", b"second")

            assert refused.value.kind is ErrorKind.EXISTS
            assert await storage.get_range("fence/1", 0, 5) == b"first"

    asyncio.run(scenario())


def test_put_new_has_one_winner(open_storage: OpenStorage) -> None:
    """Exactly one of many writers at one time succeeds, and its bytes are there."""

    async def scenario() -> None:
        async with open_storage() as storage:
            bodies = [f"writer {number:02}".encode() for number in range(16)]
            results = await asyncio.gather(*(storage.put_new("k", b) for b in bodies), return_exceptions=True)

            winners = [body for body, result in zip(bodies, results, strict=True) if not isinstance(result, Exception)]
            assert len(winners) == 1
            assert all(isinstance(result, AlreadyExists) for result in results if isinstance(result, Exception))
            assert await storage.get_range("k", 0, 9) == winners[0]

    asyncio.run(scenario())


def test_missing_objects(open_storage: OpenStorage) -> None:
    """A read of a missing object says so; stat says None; a delete has nothing to do."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("there/x", b"x")
            for key in ("nowhere", "there", "there/x/y"):
                with pytest.raises(ObjectNotFound) as missing:
                    await storage.get_range(key, 0, 1)
                assert missing.value.key == key
                assert await storage.stat(key) is None
                await storage.delete(key)
            assert await keys(storage, "") == ["there/x"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("start", "length"), [(0, 11), (5, 6), (9, 2), (10, 1), (50, 10)])
def test_short_object_is_damage(open_storage: OpenStorage, start: int, length: int) -> None:
    """A range that the object does not have is never answered with fewer bytes."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("short", b"0123456789")
            with pytest.raises(Corrupt) as damage:
                await storage.get_range("short", start, length)
            assert damage.value.key == "short"

    asyncio.run(scenario())


def test_deletes(open_storage: OpenStorage) -> None:
    """A deleted object is gone, and may be put again."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("d/1", b"x")
            await storage.delete("d/1")
            await storage.delete("d/1")
            assert await storage.stat("d/1") is None
            await storage.put_new("d/1", b"again")
            assert await storage.get_range("d/1", 0, 5) == b"again"

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [1, DELETES_MAX])
def test_deletes_many(open_storage: OpenStorage, count: int) -> None:
    """All of them go and no others, whether or not they are there."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("d/kept", b"x")
            gone = [f"d/{number:03}" for number in range(count)]
            for key in gone[::5]:
                await storage.put(key, b"x")
            await storage.delete_many(gone)
            await storage.delete_many(gone)
            assert await keys(storage, "") == ["d/kept"]

    asyncio.run(scenario())


def test_refuses_to_delete_none_too_many_or_what_is_no_key(open_storage: OpenStorage) -> None:
    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("x", b"x")
            for wrong in ([], ["x"] * (DELETES_MAX + 1), ["x", "../x"]):
                with pytest.raises(ValueError, match=r"deleted at once|not a storage key"):
                    await storage.delete_many(wrong)
            assert await keys(storage, "") == ["x"]

    asyncio.run(scenario())


def test_lists_in_byte_order(open_storage: OpenStorage) -> None:
    """Keys come sorted by their bytes, whatever lies in which directory; by prefix, and from a key on."""
    names = ["a-b", "a/b", "a/b-c/d", "a/b/c", "a0", "b/1", "b/10", "b/2", "c"]
    names.remove("a/b")  # a file system cannot have a file and a directory of one name

    async def scenario() -> None:
        async with open_storage() as storage:
            for name in reversed(names):
                await storage.put(name, name.encode())

            assert await keys(storage, "") == sorted(names)
            assert await keys(storage, "b/1") == ["b/1", "b/10"]
            assert await keys(storage, "a/") == ["a/b-c/d", "a/b/c"]
            assert await keys(storage, "nothing") == []
            for after in [*names, "a", "b/", "b/1z", "zzz"]:
                assert await keys(storage, "", after) == [name for name in sorted(names) if name > after]
            sizes = {info.key: info.size async for info in storage.list("")}
            assert sizes == {name: len(name) for name in names}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "key", ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".incoming/x", "a\0", "é", "x" * 201]
)
def test_refuses_foreign_keys(open_storage: OpenStorage, key: str) -> None:
    """No key leads out of the directory, or to a place that S3 names otherwise."""

    async def scenario() -> None:
        async with open_storage() as storage:
            with pytest.raises(ValueError, match="not a storage key"):
                await storage.put(key, b"")

    asyncio.run(scenario())


def test_empty_object(open_storage: OpenStorage) -> None:
    """An object may be empty."""

    async def scenario() -> None:
        async with open_storage() as storage:
            await storage.put("empty", b"")
            found = await storage.stat("empty")
            assert found is not None
            assert found.size == 0

    asyncio.run(scenario())
