"""An etcd for all tests of a process, which begin with prefixes of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.cluster.etcd.servers import EtcdServer


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()
