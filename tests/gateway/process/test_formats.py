"""Data of every released format is read, whether its process was stopped or killed."""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path

import pytest

from gateway.data_directory import FORMAT
from gateway.disks import FORMAT as SEVERAL_FORMAT
from tests.faults.client import TIMEOUT_S, Connection, encode_batch
from tests.faults.transactional import TransactionalProducer, read_committed
from tests.gateway.forking import serving
from tests.gateway.process import old_data

pytestmark = pytest.mark.slow

ARCHIVES = sorted(old_data.FORMATS.glob("format-*.tar.xz"))


def test_the_present_format_is_among_them() -> None:
    """A new format needs a stored directory of the old one (python -m tests.gateway.process.old_data)."""
    names = {path.name for path in ARCHIVES}

    present = (FORMAT, SEVERAL_FORMAT)
    assert {f"format-{one}-{end}.tar.xz" for one in present for end in ("clean", "killed")} <= names


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_old_data_is_read_and_goes_on(tmp_path: Path, archive: Path) -> None:
    """Records, offsets, topics and groups are unchanged; new records follow the old ones."""
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    identity = json.loads((tmp_path / "data" / "penstock.json").read_text())

    with serving(tmp_path, *old_data.SETTINGS) as gateway:
        ready = gateway.ready()
        assert ready["cluster_id"] == identity["cluster_id"]
        with Connection(ready["kafka"][0]) as client:
            _check_everything(client)
            if identity["format"] >= old_data.TRANSACTIONS_SINCE:
                _check_transactions(client)
            for partition in range(old_data.PARTITIONS):
                answer = client.produce("orders", partition, encode_batch([b"new"]))
                assert (answer.code, answer.offset) == (0, old_data.BATCHES)
        assert gateway.terminate() == 0
    assert json.loads((tmp_path / "data" / "penstock.json").read_text())["format"] == max(FORMAT, identity["format"])


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


def _check_transactions(client: Connection) -> None:
    """Aborted records are never read, an open transaction holds committed readers until it ends; new ones follow."""
    partitions = range(old_data.PAYMENT_PARTITIONS)
    for partition in partitions:
        seen = [value for _, value in read_committed(client, "payments", partition)]
        everything = old_data.paid(partition)
        assert seen in (everything[:3], everything)  # the latter when its time was up meanwhile
    TransactionalProducer(client, old_data.HANGING)
    for partition in partitions:
        _wait_until_stable(client, partition)
        assert [value for _, value in read_committed(client, "payments", partition)] == old_data.paid(partition)
        assert client.committed_offset(old_data.PAYERS_GROUP, "payments", partition) == old_data.PAID

    payer = TransactionalProducer(client, "payer")
    for partition in partitions:
        payer.produce("payments", partition, [b"new"])
    payer.end(commit=True)
    for partition in partitions:
        _wait_until_stable(client, partition)
        assert [value for _, value in read_committed(client, "payments", partition)][4:] == [b"new"]


def _wait_until_stable(client: Connection, partition: int) -> None:
    """Markers follow the answer to who ends a transaction."""
    deadline = time.monotonic() + TIMEOUT_S
    while (fetched := client.fetch("payments", partition, 0)).stable_end < fetched.high_watermark:
        assert time.monotonic() < deadline, f"a transaction hangs at offset {fetched.stable_end}"
