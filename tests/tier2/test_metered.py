"""The counts of requests to long-term storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tier2.loops import in_loop
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.metered import MeteredStorage
from tier2.storage import AlreadyExists, Corrupt, ErrorKind, ObjectNotFound


@in_loop
async def test_counts(tmp_path: Path) -> None:
    """Requests, bytes and failures by operation; an answer that is no failure is none."""
    storage = MeteredStorage(await FilesystemStorage.open(FilesystemSettings(directory=tmp_path)))
    await storage.put("a", b"12345")
    await storage.put_new("b", b"123")
    with pytest.raises(AlreadyExists):
        await storage.put_new("b", b"123")
    assert await storage.get_range("a", 1, 3) == b"234"
    pieces: list[bytes] = []
    await storage.get_pieces("a", 0, 5, 2, lambda _, piece: pieces.append(bytes(piece)))
    assert pieces == [b"12", b"34", b"5"]
    with pytest.raises(ObjectNotFound):
        await storage.get_range("c", 0, 1)
    with pytest.raises(Corrupt):
        await storage.get_range("a", 0, 6)
    assert [info.key async for info in storage.list("")] == ["a", "b"]
    assert await storage.stat("c") is None
    await storage.delete("a")
    await storage.close()

    requests = {name: sum(operation.buckets) for name, operation in storage.operations.items()}
    assert requests == {"put": 3, "get": 4, "list": 1, "delete": 1, "stat": 1}
    assert (storage.operations["put"].bytes, storage.operations["get"].bytes) == (8, 8)
    assert storage.operations["get"].failures == {ErrorKind.CORRUPT: 1}
    assert not storage.operations["put"].failures
