"""One prefix, one owner: a process that does not own it is refused by name, and has deleted nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import encode_batch
from tests.faults.gateway_process import Ended, Gateway
from tests.faults.history import History, Partition
from tests.faults.load import IdempotentWriter, Load
from tests.faults.settings import SEED
from tests.faults.tiered import MIB, QUICK, Bucket, await_moved, await_quiet, problems, settings_for, until
from tests.tier2.minio_server import MinioServer

P: Final[Partition] = ("owned", 0)
EXIT_CONFIGURATION: Final = 2
VALUE_BYTES: Final = 20_000
LOAD_S: Final = 1.5
"""Of the owner, behind the refusals: several chunks' time."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def minio(tmp_path: Path) -> Iterator[MinioServer]:
    directory = tmp_path / "minio"
    directory.mkdir()
    server = MinioServer(directory)
    server.start()
    yield server
    server.kill()


def fill(gateway: Gateway) -> None:
    """Enough for several objects and log files."""
    with gateway.connect() as connection:
        connection.create_topic("filler", 1)
        for _ in range(3 * MIB // VALUE_BYTES):
            assert connection.produce("filler", 0, encode_batch([bytes(VALUE_BYTES)])).code == 0


def refused(gateway: Gateway) -> str:
    """Check that a start is refused; return its message."""
    with pytest.raises(Ended) as ended:
        gateway.start()
    assert ended.value.code == EXIT_CONFIGURATION, ended.value.output
    return ended.value.output


def test_start_after_losing_the_disk(tmp_path: Path, minio: MinioServer) -> None:
    """With an empty data directory a start is refused and names `recover`; the bucket stays as it was."""
    bucket = Bucket(minio)
    with Gateway(tmp_path / "gateway", settings_for(minio)) as gateway:
        gateway.start()
        fill(gateway)
        await_quiet(bucket)
        gateway.kill()
        before = bucket.objects()
        shutil.rmtree(gateway.data)

        said = refused(gateway)

        assert "penstock recover" in said
        assert bucket.objects() == before
        assert refused(gateway), "the first refusal left a directory that the second start takes for its own"
        assert bucket.objects() == before


@pytest.mark.parametrize("with_data", [False, True])
def test_second_gateway(tmp_path: Path, minio: MinioServer, with_data: bool) -> None:
    """Another gateway, new or with data of its own, is refused; the owner goes on and misses nothing."""
    bucket, history = Bucket(minio), History()
    with (
        Gateway(tmp_path / "owner", settings_for(minio)) as owner,
        Gateway(tmp_path / "other", QUICK) as other,
    ):
        if with_data:
            other.start()
            fill(other)
            assert other.stop() == 0
        other.settings = settings_for(minio)
        owner.start()
        with owner.connect() as connection:
            connection.create_topic(P[0], 1)
        with Load([IdempotentWriter("w", lambda: owner.address, history, [P], SEED)]) as load:
            until(lambda: len(bucket.chunks()) > 3, "the owner has put chunks")
            said = [refused(other) for _ in range(2)]
            load.run_for(LOAD_S)
            load.drain()
            assert load.problems() == []
        assert all(str(owner.ready["cluster_id"]) in one for one in said)
        fill(owner)
        with owner.connect() as connection:
            await_moved(connection, P, connection.list_offset(*P, -1))
        assert problems(owner, history, [P]) == []
        assert owner.stop() == 0
