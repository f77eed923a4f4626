"""`penstock serve` with log.store = object: killed, its data directory gone, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from gateway.exits import ExitCode
from gateway.long_term.log_objects import PREFIX, UnfitForLog, check_conditions
from gateway.security.scram_users import TABLE
from tests.gateway.forking import forked, run, serving
from tests.gateway.launching import Running
from tests.tier2.fault_proxy import FaultProxy, Stall
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Buffer, ObjectStat, Storage

SMALL_FILES: Final = (
    *("--set", "log.store=object"),
    *("--set", "num.partitions=1"),
    *("--set", "log.file.bytes=1MiB"),
    *("--set", "log.max.bytes=8MiB"),
    *("--set", "chunk.bytes=1MiB"),
    *("--set", "chunk.age.ms=300"),
    *("--set", "checkpoint.interval.ms=200"),
    *("--set", "tier2.verify.delay.ms=100"),
    *("--set", "tier2.snapshot.interval.ms=200"),
    *("--listen", "127.0.0.1:0"),
    *("--http", "off"),
)
ROUNDS: Final = 3
LOAD_S: Final = 2.0
WAITING_MAX: Final = 2_000


class Load:
    """An idempotent producer, and the values that were acknowledged."""

    def __init__(self, address: str, values: itertools.count[int]) -> None:
        self.acknowledged: list[int] = []
        self._values = values
        self._over = threading.Event()
        self._producer = Producer(
            {"bootstrap.servers": address, "enable.idempotence": True, "linger.ms": 1, "message.timeout.ms": 5000}
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if len(self._producer) < WAITING_MAX:
                value = next(self._values)
                self._producer.produce("t", b"%d %s" % (value, b"." * 2000), on_delivery=self._delivered)
            self._producer.poll(0.0005)
        self._producer.flush(0.1)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            value = message.value()
            assert value is not None
            self.acknowledged.append(int(value.split()[0]))

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def read_all(address: str, number: int = 0) -> list[int]:
    """Every value of a partition of the topic, in order."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "enable.auto.commit": False})
    try:
        partition = TopicPartition("t", number, 0)
        _, end = consumer.get_watermark_offsets(partition, timeout=20)
        consumer.assign([partition])
        found: list[int] = []
        while True:
            message = consumer.poll(20)
            assert message is not None, f"{len(found)} read, the end is at offset {end}"
            assert message.error() is None, message.error()
            value = message.value()
            assert value is not None
            found.append(int(value.split()[0]))
            if (message.offset() or 0) + 1 >= end:
                return found
    finally:
        consumer.close()


def killed_and_lost(tmp_path: Path, *where: str) -> None:
    """Load, kill, delete the directory, start elsewhere; each time all that was acknowledged is there, once."""
    values, acknowledged = itertools.count(), list[int]()
    for number in range(ROUNDS):
        machine = tmp_path / f"machine-{number}"
        gateway = Running(machine, *SMALL_FILES, *where, start=forked)
        try:
            address = gateway.ready()["kafka"][0].rpartition("//")[2]
            if number:
                found = read_all(address)
                assert len(found) == len(set(found)), "something is there twice"
                assert found == sorted(found), "something is out of order"
                assert not set(acknowledged) - set(found), "acknowledged, and lost"
            load = Load(address, values)
            threading.Event().wait(LOAD_S)
        finally:
            gateway.process.send_signal(signal.SIGKILL)
            gateway.process.wait()
        load.end()
        assert len(load.acknowledged) > 100
        acknowledged += load.acknowledged
        shutil.rmtree(machine)


@pytest.mark.slow
def test_nothing_is_lost_with_minio(
    tmp_path: Path, minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)
    killed_and_lost(tmp_path, "--tier2", f"s3://{bucket}/a/prefix", "--tier2-endpoint", minio.endpoint)


@pytest.mark.slow
def test_nothing_is_lost_with_a_directory_elsewhere(tmp_path: Path) -> None:
    killed_and_lost(tmp_path, "--tier2", f"file:{tmp_path}/elsewhere")


@pytest.mark.slow
def test_a_stuck_upload_of_a_chunk_delays_nobody(
    tmp_path: Path, minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only upload that there may be stands still for as long as the test lasts: acknowledgements come as before."""
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)
    with FaultProxy(minio.port) as proxy:
        proxy.chooses = lambda line: Stall(60) if line.startswith("PUT") and "/chunks/" in line else None
        where = ("--tier2", f"s3://{bucket}", "--tier2-endpoint", f"http://127.0.0.1:{proxy.port}")
        with serving(tmp_path, *SMALL_FILES, *where, "--set", "tier2.uploads=1") as gateway:
            address = gateway.ready()["kafka"][0].rpartition("//")[2]
            producer = Producer({"bootstrap.servers": address, "linger.ms": 0})
            deadline = time.monotonic() + 20

            def seconds() -> float:
                began = time.monotonic()
                producer.produce("t", b"." * 2000)
                assert producer.flush(20) == 0
                return time.monotonic() - began

            seconds()
            while not any("/chunks/" in line for line in proxy.requests):
                assert time.monotonic() < deadline, "no chunk is uploaded"
                seconds()
            times = sorted(seconds() for _ in range(20))
            assert times[-1] < 5, f"the slowest took {times[-1]:.3f} s"
            print(f"acknowledged within {times[10] * 1000:.1f} ms, the slowest {times[-1] * 1000:.1f} ms")


@pytest.mark.slow
def test_a_log_on_disk_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    """Neither form opens the other's directory, and nothing of it is changed."""
    where = ("--tier2", f"file:{tmp_path}/elsewhere", "--listen", "127.0.0.1:0")
    for made, other, said in (
        ("disk", "object", "has its log on this disk"),
        ("object", "disk", "lies in long-term storage"),
    ):
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
        with serving(tmp_path / made, *where, "--set", f"log.store={made}") as gateway:
            gateway.ready()
            gateway.terminate()
        with serving(tmp_path / made, *where, "--set", f"log.store={other}") as gateway:
            assert gateway.end() != 0
            assert said in gateway.err.read_text()
        with serving(tmp_path / made, *where, "--set", f"log.store={made}") as gateway:
            gateway.ready()


@pytest.mark.slow
def test_several_containers(tmp_path: Path) -> None:
    """All of their logs lie there: another machine has all of them, and one with another number is refused.

    A recovery from chunks is refused too, as it would leave out what is in the log alone.
    """
    where = ("--tier2", f"file:{tmp_path}/elsewhere", "--set", "log.store=object", "--set", "num.partitions=6")
    with serving(tmp_path / "a", *where, "--set", "containers=3") as gateway:
        address = gateway.ready()["kafka"][0].rpartition("//")[2]
        producer = Producer({"bootstrap.servers": address})
        for number in range(60):
            producer.produce("t", b"%d" % number, partition=number % 6)
        assert producer.flush(20) == 0
        gateway.process.kill()
        gateway.process.wait()
    shutil.rmtree(tmp_path / "a")
    with serving(tmp_path / "b", *where, "--set", "containers=2") as gateway:
        assert gateway.end() == ExitCode.CONFIGURATION
        assert "has the logs of 3 containers" in gateway.err.read_text()
    recovered = run("recover", "--data-dir", str(tmp_path / "d"), "--tier2", f"file:{tmp_path}/elsewhere")
    assert recovered.returncode == ExitCode.CONFIGURATION
    assert "run `penstock serve` with log.store = object" in recovered.stderr
    with serving(tmp_path / "c", *where, "--set", "containers=3") as gateway:
        address = gateway.ready()["kafka"][0].rpartition("//")[2]
        found = [value for partition in range(6) for value in read_all(address, partition)]
        assert sorted(found) == list(range(60))
        assert len(list((tmp_path / "elsewhere" / "log").glob("[0-9]*"))) == 3


@pytest.mark.slow
def test_no_credentials_leave_the_machine(tmp_path: Path) -> None:
    """Neither users nor the secret for unknown ones come into the log; who made users before the start is told."""
    where = ("--tier2", f"file:{tmp_path}/elsewhere", "--listen", "127.0.0.1:0", "--set", "log.store=object")
    with serving(tmp_path / "data", *where) as gateway:
        admin = AdminClient({"bootstrap.servers": gateway.ready()["kafka"][0].rpartition("//")[2]})
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 8192)
        asked = admin.alter_user_scram_credentials([UserScramCredentialUpsertion("bob", scram, b"a password of bob")])
        with pytest.raises(KafkaException, match="must not leave the machine"):
            asked["bob"].result(20)
        gateway.terminate()
    stored = [path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()]
    assert len(stored) > 1
    assert not any(TABLE.encode() in content for content in stored)

    password = tmp_path / "password"
    password.write_text("a password of alice")
    data = ("--data-dir", str(tmp_path / "data" / "data"))
    added = run("users", "add", "alice", *data, "--password-file", str(password))
    assert added.returncode == 0, added.stderr
    with serving(tmp_path / "data", *where) as gateway:
        assert gateway.end() == ExitCode.CONFIGURATION
        assert "users of SCRAM are kept in the log" in gateway.err.read_text()


class IgnoresConditions(FilesystemStorage):
    """Replaces what is there, as some look-alikes of S3 do."""

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        return await self.put(key, data, token=token)


@pytest.mark.parametrize("kind", [FilesystemStorage, IgnoresConditions])
def test_a_store_that_ignores_conditions_is_refused(tmp_path: Path, kind: type[FilesystemStorage]) -> None:
    """By name, and nothing of the trial stays there."""

    async def scenario() -> None:
        storage: Storage = await kind.open(FilesystemSettings(directory=tmp_path))
        if kind is FilesystemStorage:
            await check_conditions(storage, "s3://bucket")
        else:
            with pytest.raises(UnfitForLog, match=r"s3://bucket ignores If-None-Match: 5 of 5 puts"):
                await check_conditions(storage, "s3://bucket")
        assert [info async for info in storage.list(PREFIX)] == []
        await storage.close()

    asyncio.run(scenario())
