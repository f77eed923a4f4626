"""Data of every released format is read, whether its process was stopped or killed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gateway.datadir import FORMAT
from tests.faults.client import Connection, encode_batch
from tests.shell import old_data
from tests.shell.launching import serving

pytestmark = pytest.mark.slow

TRANSACTIONS_SINCE = 2
ARCHIVES = sorted(old_data.FORMATS.glob("format-*.tar.xz"))


def test_the_present_format_is_among_them() -> None:
    """Whoever raises the format keeps a directory of it (python -m tests.shell.old_data)."""
    names = {path.name for path in ARCHIVES}

    assert {f"format-{FORMAT}-clean.tar.xz", f"format-{FORMAT}-killed.tar.xz"} <= names


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_old_data_is_read_and_goes_on(tmp_path: Path, archive: Path) -> None:
    """Records, offsets, topics and groups are what they were; new records follow the old ones."""
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    identity = json.loads((tmp_path / "data" / "penstock.json").read_text())

    with serving(tmp_path, *old_data.SETTINGS) as gateway:
        ready = gateway.ready()
        assert ready["cluster_id"] == identity["cluster_id"]
        with Connection(ready["kafka"][0]) as client:
            _check_everything(client)
            for partition in range(old_data.PARTITIONS):
                answer = client.produce("orders", partition, encode_batch([b"new"]))
                assert (answer.code, answer.offset) == (0, old_data.BATCHES)
        if identity["format"] >= TRANSACTIONS_SINCE:
            _check_transactions(ready["kafka"][0])
        assert json.loads((tmp_path / "data" / "penstock.json").read_text())["format"] == FORMAT
        assert gateway.terminate() == 0


def _check_transactions(address: str) -> None:
    """What was committed is there; what was open goes with the next producer of its id, who can go on."""
    assert old_data.read_committed(address) == old_data.PAID
    producer = old_data.transactional(address, old_data.OPEN_ID)
    producer.begin_transaction()
    producer.produce(old_data.PAYMENTS, b"new", partition=0)
    producer.commit_transaction(old_data.TIMEOUT_S)
    assert old_data.read_committed(address) == [*old_data.PAID, b"new"]


def _check_everything(client: Connection) -> None:
    for partition in range(old_data.PARTITIONS):
        first = old_data.FIRST_KEPT if partition == 0 else 0
        found = list(old_data.read_all(client, "orders", partition, first))
        assert found == list(enumerate(old_data.values(partition)))[first:]
        assert client.list_offset("orders", partition, -2) == first
        committed = client.committed_offset(old_data.GROUP, "orders", partition)
        assert committed == old_data.committed(partition)
    unknown_topic_or_partition = 3
    assert client.fetch("gone", 0, 0).code == unknown_topic_or_partition
    assert client.fetch("grown", 4, 0).code == 0
    assert client.fetch("grown", 5, 0).code == unknown_topic_or_partition
