"""Encryption by the store, with a real MinIO that has a key: each way of making an object asks for it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tests.tier2.test_s3 import MIB, Pieces, opened
from tier2.s3_encryption import ALGORITHM_HEADER, KEY_HEADER, Encryption, headers_of
from tier2.storage import StorageError

pytestmark = pytest.mark.slow

KEY = "penstock-key"
PLAIN = b"read me if you can " * 1_000


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    secret = base64.b64encode(bytes(range(32))).decode()
    server = MinioServer(tmp_path_factory.mktemp("encrypting"), kms_key=f"{KEY}:{secret}")
    server.start()
    yield server
    server.kill()


def headers_told(server: MinioServer, bucket: str, name: str) -> tuple[str | None, str | None]:
    """How the server says that it encrypts an object."""
    client = Minio(f"127.0.0.1:{server.port}", ROOT_USER, ROOT_PASSWORD, secure=False)
    told = client.stat_object(bucket, f"a/prefix/{name}").metadata
    assert told is not None
    return told.get(ALGORITHM_HEADER), told.get(KEY_HEADER)


@pytest.mark.parametrize(
    ("encryption", "key_id", "algorithm"),
    [
        (Encryption.NONE, None, None),
        (Encryption.S3, None, "AES256"),
        (Encryption.KMS, None, "aws:kms"),
        (Encryption.KMS, KEY, "aws:kms"),
    ],
)
def test_each_way(
    encrypting: MinioServer, bucket: str, encryption: Encryption, key_id: str | None, algorithm: str | None
) -> None:
    """An object in one request, a new one, and one in parts: encrypted as asked, and read back as they were."""
    settings = encrypting.settings(bucket, encryption=encryption, kms_key_id=key_id, part_bytes=5 * MIB)
    pieces = Pieces(7)

    async def scenario() -> list[bytes]:
        async with opened(settings) as storage:
            await storage.put("small", PLAIN)
            await storage.put_new("new", PLAIN)
            await storage.put("large", pieces)
            return [await storage.get_range(name, 0, len(PLAIN)) for name in ("small", "new", "large")]

    whole = b"".join(bytes(piece) for piece in pieces.open())
    assert asyncio.run(scenario()) == [PLAIN, PLAIN, whole[: len(PLAIN)]]
    for name in ("small", "new", "large"):
        told, key = headers_told(encrypting, bucket, name)
        assert told == algorithm
        assert key is None or key.endswith(KEY)


def test_nothing_is_readable_where_it_lies(encrypting: MinioServer, bucket: str) -> None:
    """What the store has on its disk is not what was put there."""

    async def scenario(encryption: Encryption) -> None:
        async with opened(encrypting.settings(bucket, encryption=encryption)) as storage:
            await storage.put(encryption.value, PLAIN)

    for encryption in (Encryption.NONE, Encryption.S3):
        asyncio.run(scenario(encryption))
    stored = {path.parents[1].name if path.name != "xl.meta" else path.parent.name: path for path in _files(encrypting)}
    held = {name: PLAIN[:100] in path.read_bytes() for name, path in stored.items() if name in ("none", "s3")}
    assert held == {"none": True, "s3": False}


def _files(server: MinioServer) -> list[Path]:
    return [path for path in (server._directory / "data").rglob("a/prefix/**/*") if path.is_file()]


def test_a_store_that_cannot(minio: MinioServer, bucket: str) -> None:
    """A store without keys refuses the object: nothing is kept in clear by mistake."""

    async def scenario() -> None:
        async with opened(minio.settings(bucket, encryption=Encryption.KMS)) as storage:
            with pytest.raises(StorageError):
                await storage.put("never", PLAIN)
            assert await storage.stat("never") is None

    asyncio.run(scenario())


def test_headers() -> None:
    """As S3 names them."""
    assert headers_of(Encryption.NONE, "k") == {}
    assert headers_of(Encryption.S3, None) == {"x-amz-server-side-encryption": "AES256"}
    assert headers_of(Encryption.KMS, None) == {"x-amz-server-side-encryption": "aws:kms"}
    assert headers_of(Encryption.KMS, "k")["x-amz-server-side-encryption-aws-kms-key-id"] == "k"
