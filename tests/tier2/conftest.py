"""Both drivers, empty, and the MinIO server that they need; one server for the whole run."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.tier2.minio_server import MinioServer
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.s3 import S3Storage
from tier2.storage import Storage

_numbers = itertools.count()

OpenStorage = Callable[[], AbstractAsyncContextManager[Storage]]


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    server = MinioServer(tmp_path_factory.mktemp("minio"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_minio(tmp_path: Path) -> Iterator[MinioServer]:
    """A server that the test may kill or pause."""
    server = MinioServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket() -> str:
    """A bucket's name that no other test has."""
    return f"test-{next(_numbers)}"


@pytest.fixture(params=["filesystem", "minio"])
def open_storage(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> OpenStorage:
    """Opens one of the drivers on an empty place, each time the same place."""

    async def opened() -> Storage:
        if request.param == "filesystem":
            return await FilesystemStorage.open(FilesystemSettings(directory=tmp_path / "objects"))
        server: MinioServer = request.getfixturevalue("minio")
        return await S3Storage.open(server.settings(bucket, part_bytes=5 << 20))

    return _closing(opened)


def _closing(opened: Callable[[], Awaitable[Storage]]) -> OpenStorage:
    @asynccontextmanager
    async def opening() -> AsyncIterator[Storage]:
        storage = await opened()
        try:
            yield storage
        finally:
            await storage.close()

    return opening
