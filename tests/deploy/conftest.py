"""The servers of tests of long-term storage and clusters."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.cluster.etcd.servers import EtcdServer
from tests.tier2.conftest import own_minio

__all__ = ["own_minio"]


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()
