"""Long-term storage that encrypts (SSE-S3, SSE-KMS), through a whole gateway: all that it puts there is encrypted.

A soak (SOAK=1): `tests/tier2/test_s3_encryption.py` has each way of making an object. Keeps: chunks, snapshots and the
owner's mark are looked at one by one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from minio import Minio

from tests.faults.client import encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.settings import SOAK
from tests.faults.test_tier2_local import read_all
from tests.faults.tiered import BUCKET, PREFIX, Bucket, await_moved, settings_for, until, verify
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tier2.s3_encryption import ALGORITHM_HEADER, KEY_HEADER

KEY: Final = "penstock-key"
MARK: Final = b"a record that nobody may read where it lies "
VALUE: Final = MARK * 500
RECORDS: Final = 2_000

pytestmark = [pytest.mark.skipif(not SOAK, reason="half a minute, for a soak"), pytest.mark.timeout(400)]


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory, kms_key=f"{KEY}:{base64.b64encode(bytes(range(32))).decode()}")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("encryption", "algorithm", "key"),
    [("s3", "AES256", None), ("kms", "aws:kms", KEY), ("kms", "aws:kms", None)],
)
def test_all_that_is_put(tmp_path: Path, minio: MinioServer, encryption: str, algorithm: str, key: str | None) -> None:
    """Every object says that it is encrypted, and how; none of the records is readable on the store's disk; after a
    kill they are read back from there, and `penstock tier2 verify` finds nothing wrong."""
    more = {"tier2_sse_kms_key_id": key} if key else {}
    bucket = Bucket(minio)
    with Gateway(tmp_path / "gateway", settings_for(minio, tier2_sse=encryption, **more)) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic("kept", 1)
            for number in range(RECORDS):
                assert connection.produce("kept", 0, encode_batch([b"%d " % number + VALUE])).code == 0
            await_moved(connection, ("kept", 0), RECORDS * 3 // 4)
        until(lambda: bucket.objects(f"{PREFIX}/meta/"), "a snapshot is there")
        gateway.kill()
        gateway.start()
        with gateway.connect() as connection:
            values = read_all(connection, "kept", RECORDS)
        assert gateway.stop() == 0
        found = verify(gateway)

    assert values == [b"%d " % number + VALUE for number in range(RECORDS)]
    assert (found["missing"], found["damaged"]) == ([], [])
    client = Minio(f"127.0.0.1:{minio.port}", ROOT_USER, ROOT_PASSWORD, secure=False, region="us-east-1")
    told = {name: client.stat_object(BUCKET, name).metadata or {} for name in bucket.objects("")}
    assert {metadata.get(ALGORITHM_HEADER) for metadata in told.values()} == {algorithm}
    assert all(str(metadata.get(KEY_HEADER, KEY)).endswith(KEY) for metadata in told.values())
    stored = [path.read_bytes() for path in (tmp_path / "minio" / "data").rglob("*") if path.is_file()]
    assert not any(MARK in content for content in stored)
    assert sum(map(len, stored)) > RECORDS * len(VALUE) // 2
