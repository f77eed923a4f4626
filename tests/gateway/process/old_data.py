"""The contents of the data directories in `formats/`, and how a new one is made when the format changes:

    .venv/bin/python -m tests.gateway.process.old_data

Keeps: once a release has written a format, its two directories (stopped cleanly, killed) stay here
and are read by every later release.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.data_directory import FORMAT
from gateway.disks import FORMAT as SEVERAL_FORMAT
from tests.faults.client import Connection, decode_batches, encode_batch
from tests.faults.transactional import TransactionalProducer
from tests.gateway.launching import Running, serving

FORMATS: Final = Path(__file__).parent / "formats"
SETTINGS: Final = (
    *("--set", "log.file.bytes=1048576"),  # several files, with sidecars
    *("--set", "checkpoint.interval.ms=200"),
    *("--set", "offsets.retention.minutes=2147483647"),  # however old the directory is
)
PARTITIONS: Final = 3
BATCHES: Final = 40
FIRST_KEPT: Final = 5
"""Records before it are deleted in partition 0."""
GROUP: Final = "billing"

TRANSACTIONS_SINCE: Final = 2
"""The first format that has `payments`."""
PAYMENT_PARTITIONS: Final = 2
PAYERS_GROUP: Final = "payers"
PAID: Final = 7
"""The offset that committed transactions leave for `PAYERS_GROUP`."""
HANGING: Final = "hanging"
"""The transactional id with a transaction open when the process ended."""


def values(partition: int) -> list[bytes]:
    """The records of a partition of `orders`, from offset 0."""
    return [b"%d-%d-" % (partition, number) + b"x" * 20_000 for number in range(BATCHES)]


def committed(partition: int) -> int:
    return 10 + partition


def paid(partition: int) -> list[bytes]:
    """A committed reader's view of a partition of `payments`, once nothing is open."""
    return [b"paid %d" % partition, b"plain %d" % partition, b"paid again %d" % partition, b"behind %d" % partition]


def pay(client: Connection) -> None:
    """Leave committed, aborted and open transactions, of records and of offsets."""
    client.create_topic("payments", PAYMENT_PARTITIONS, {"retention.ms": "-1"})
    payer, dropper = TransactionalProducer(client, "payer"), TransactionalProducer(client, "dropper")
    hanging = TransactionalProducer(client, HANGING)
    for partition in range(PAYMENT_PARTITIONS):
        first, plain, again, last = paid(partition)
        dropper.produce("payments", partition, [b"dropped"])
        payer.produce("payments", partition, [first])
        assert client.produce("payments", partition, encode_batch([plain])).code == 0
        payer.commit_offset(PAYERS_GROUP, "payments", partition, PAID - 1)
        payer.end(commit=True)
        payer.produce("payments", partition, [again])
        payer.commit_offset(PAYERS_GROUP, "payments", partition, PAID)
        dropper.commit_offset(PAYERS_GROUP, "payments", partition, PAID + 1)
        dropper.end(commit=False)
        payer.end(commit=True)
        hanging.produce("payments", partition, [b"left open"])
        assert client.produce("payments", partition, encode_batch([last])).code == 0
    hanging.commit_offset(PAYERS_GROUP, "payments", 0, PAID + 2)


def fill(address: str) -> None:
    """Leave a trace of everything that is kept."""
    with Connection(address) as client:
        client.create_topic("orders", PARTITIONS, {"retention.ms": "-1"})
        client.create_topic("gone", 2)
        client.create_topic("grown", 2, {"cleanup.policy": "compact"})
        for number in range(BATCHES):
            for partition in range(PARTITIONS):
                records = encode_batch([values(partition)[number]])
                assert client.produce("orders", partition, records).code == 0
        client.delete_topic("gone")
        client.create_partitions("grown", 5)
        assert client.delete_records("orders", 0, FIRST_KEPT) == FIRST_KEPT
        for partition in range(PARTITIONS):
            client.commit_offset(GROUP, "orders", partition, committed(partition))
        pay(client)


def read_all(client: Connection, topic: str, partition: int, offset: int) -> Iterator[tuple[int, bytes]]:
    """Every record from an offset on."""
    while records := client.fetch(topic, partition, offset).records:
        for found, value in decode_batches(records):
            if found >= offset:
                yield found, value
                offset = found + 1


def _make(directory: Path, name: str, by: signal.Signals, number: int) -> Path:
    several = ("--set", "containers=4") if number == SEVERAL_FORMAT else ()
    with serving(directory, *SETTINGS, *several) as gateway:
        fill(gateway.ready()["kafka"][0])
        _end(gateway, by)
    (directory / "data" / "penstock.lock").unlink()
    target = FORMATS / f"format-{number}-{name}.tar.xz"
    with tarfile.open(target, "w:xz") as archive:
        archive.add(directory / "data", "data")
    return target


def _end(gateway: Running, by: signal.Signals) -> None:
    gateway.process.send_signal(by)
    gateway.end()


def main() -> None:
    FORMATS.mkdir(exist_ok=True)
    endings = (("clean", signal.SIGTERM), ("killed", signal.SIGKILL))
    for number, (name, by) in itertools.product((FORMAT, SEVERAL_FORMAT), endings):
        if (FORMATS / f"format-{number}-{name}.tar.xz").exists():
            continue
        directory = Path(tempfile.mkdtemp())
        try:
            made = _make(directory, name, by, number)
        finally:
            shutil.rmtree(directory)
        print(made, made.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
