"""`penstock` with a real MinIO server: why it does not start, whose prefix it is, and getting all of it back."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from minio import Minio
from minio.commonconfig import CopySource

from tests.gateway.forking import run, serving
from tests.gateway.launching import Running, http_get
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

pytestmark = pytest.mark.slow

QUICK: Final = (
    *("--set", "chunk.age.ms=100"),
    *("--set", "tier2.snapshot.interval.ms=100"),
    *("--set", "tier2.verify.delay.ms=100"),
    *("--set", "num.partitions=4"),
    *("--set", "rewrite.interval.ms=86400000"),
    *("--http", "127.0.0.1:0"),
)
PATIENCE_S: Final = 60.0


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials, as an operator gives them."""
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)


def place(server: MinioServer, bucket: str) -> tuple[str, ...]:
    return "--tier2", f"s3://{bucket}/a/prefix", "--tier2-endpoint", server.endpoint


def client_of(server: MinioServer) -> Minio:
    return Minio(f"127.0.0.1:{server.port}", ROOT_USER, ROOT_PASSWORD, secure=False)


def objects(server: MinioServer, bucket: str) -> dict[str, str | None]:
    return {str(found.object_name): found.etag for found in client_of(server).list_objects(bucket, recursive=True)}


def refused(tmp_path: Path, *arguments: str, code: int = 2) -> str:
    """The message of a start that ends with that code: by default, of a wrong configuration."""
    with serving(tmp_path, *arguments) as gateway:
        ended, said = gateway.end(), gateway.err.read_text()
    assert ended == code, said
    assert "Traceback" not in said
    assert ROOT_PASSWORD not in said
    return said


class TestStart:
    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("PENSTOCK_TIER2_ACCESS_KEY", "nobody-knows", "the access key is not known there"),
            ("PENSTOCK_TIER2_SECRET_KEY", "hunter2-hunter2", "the secret key does not belong to the access key"),
        ],
    )
    def test_wrong_credentials(
        self,
        tmp_path: Path,
        minio: MinioServer,
        bucket: str,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        value: str,
        said: str,
    ) -> None:
        """The message says which of the two is wrong and where they came from, and shows neither."""
        monkeypatch.setenv(name, value)
        text = refused(tmp_path, *place(minio, bucket))

        assert said in text
        assert f"s3://{bucket}/a/prefix" in text
        assert "Correct the credentials, which are those of tier2.access.key and tier2.secret.key" in text
        assert value not in text

    def test_nobody_listens(self, tmp_path: Path) -> None:
        """A start waits for a while, and names the endpoint that it waited for."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        endpoint = f"http://127.0.0.1:{port}"
        text = refused(
            tmp_path, "--tier2", "s3://bucket", "--tier2-endpoint", endpoint, "--set", "tier2.start.timeout.ms=500"
        )

        assert "no connection" in text
        assert f"Waited 0.5 s for it. Start the store there, or correct tier2.endpoint, which is {endpoint}" in text

    def test_nobody_answers(self, tmp_path: Path) -> None:
        """A server that takes connections and says nothing is given up in time."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
            text = refused(
                tmp_path, "--tier2", "s3://bucket", "--tier2-endpoint", endpoint, "--set", "tier2.start.timeout.ms=500"
            )

        assert "Waited 0.5 s" in text

    def test_another_service(self, tmp_path: Path) -> None:
        """An endpoint that answers something else is named as that."""
        with another_service() as endpoint:
            text = refused(tmp_path, "--tier2", "s3://bucket", "--tier2-endpoint", endpoint)

        assert "is the endpoint right?" in text

    def test_tls_that_nobody_vouches_for(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A certificate must be known; `tier2.ca.file` makes it so."""
        server = MinioServer(tmp_path_factory.mktemp("tls"), tls=True)
        server.start()
        try:
            assert "no TLS connection" in refused(tmp_path / "one", *place(server, "bucket"))
            with serving(
                tmp_path / "two", *place(server, "bucket"), "--set", f"tier2.ca.file={server.ca_file}"
            ) as gateway:
                gateway.ready()
        finally:
            server.kill()

    def test_a_store_that_starts_later(self, tmp_path: Path, own_minio: MinioServer) -> None:
        """A MinIO that is not up yet is waited for; a bucket that is not there is made."""
        own_minio.kill()
        with serving(tmp_path, *place(own_minio, "later")) as gateway:
            gateway.await_line("long-term storage cannot be reached yet")
            own_minio.start()
            gateway.ready()

            assert "a/prefix/identity.json" in objects(own_minio, "later")

    def test_a_stop_while_it_waits(self, tmp_path: Path) -> None:
        """A stop of a gateway that waits for its storage does not wait as well."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        arguments = ("--tier2", "s3://bucket", "--tier2-endpoint", f"http://127.0.0.1:{port}")
        with serving(tmp_path, *arguments, "--set", "tier2.start.timeout.ms=3600000") as gateway:
            gateway.await_line("long-term storage cannot be reached yet")

            assert gateway.terminate() == 0

    def test_no_credentials(self, tmp_path: Path, minio: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Missing settings are named before the data directory is made."""
        for name in ("ACCESS_KEY", "SECRET_KEY"):
            monkeypatch.delenv(f"PENSTOCK_TIER2_{name}")
        text = refused(tmp_path, *place(minio, "bucket"))

        assert "there are no credentials" in text
        assert not (tmp_path / "data").exists()


class TestIdentity:
    def test_two_gateways(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """The second one on a prefix is refused with a hint at `recover`, and changes nothing."""
        with serving(tmp_path / "one", *place(minio, bucket), *QUICK) as first:
            produce(first.ready()["kafka"][0], 10)
            await_tiered(first, 10)
            before = {name for name in objects(minio, bucket) if "/meta/" not in name}
            text = refused(tmp_path / "two", *place(minio, bucket))

            assert "`penstock recover`" in text
            assert before <= objects(minio, bucket).keys()
            assert first.process.poll() is None

    def test_after_the_disk_was_lost(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A start with an emptied data directory is refused, again and again, and deletes nothing."""
        with serving(tmp_path, *place(minio, bucket), *QUICK) as gateway:
            produce(gateway.ready()["kafka"][0], 10)
            await_tiered(gateway, 10)
            gateway.terminate()
        before = objects(minio, bucket)
        shutil.rmtree(tmp_path / "data")
        for _ in range(2):
            assert "`penstock recover`" in refused(tmp_path, *place(minio, bucket))

        assert objects(minio, bucket) == before

    def test_an_emptied_prefix(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A store whose chunks are gone does not start over there, until the operator accepts the loss."""
        flags = place(minio, bucket)
        with serving(tmp_path, *flags, *QUICK) as gateway:
            produce(gateway.ready()["kafka"][0], 10)
            await_tiered(gateway, 10)
            gateway.terminate()
        for name in objects(minio, bucket):
            client_of(minio).remove_object(bucket, name)

        assert "`penstock tier2 init`" in refused(tmp_path, *flags)
        assert objects(minio, bucket) == {}
        data = ("--data-dir", str(tmp_path / "data"))
        assert run("tier2", "init", "--yes", *data, *flags).returncode == 0
        verified = run("tier2", "verify", "--json", *data, *flags)
        assert verified.returncode == 1
        assert json.loads(verified.stdout)["missing"]
        with serving(tmp_path, *flags) as gateway:
            gateway.ready()

    def test_switched_off(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A store with chunks is not opened without the storage that has them."""
        with serving(tmp_path, *place(minio, bucket), *QUICK) as gateway:
            produce(gateway.ready()["kafka"][0], 10)
            await_tiered(gateway, 10)
            gateway.terminate()

        assert "a part of this store lies in long-term storage" in refused(tmp_path, "--tier2", "off")


class TestRecover:
    @pytest.mark.parametrize("driver", ["minio", "filesystem"])
    def test_everything_comes_back(self, tmp_path: Path, minio: MinioServer, bucket: str, driver: str) -> None:
        """All that was tiered is read again, groups go on where they were, and the next offset is the next one."""
        flags = place(minio, bucket) if driver == "minio" else ("--tier2", f"file:{tmp_path / 'objects'}")
        with serving(tmp_path, *flags, *QUICK) as gateway:
            address = gateway.ready()["kafka"][0]
            cluster_id = gateway.ready()["cluster_id"]
            produce(address, 400)
            commit(address, 0, 40)
            commit(address, 1, 100)
            await_tiered(gateway, 400)
            assert gateway.terminate() == 0  # and with it goes a last snapshot
        shutil.rmtree(tmp_path / "data")
        arguments = ("--data-dir", str(tmp_path / "data"), *flags)
        ended = run("recover", "--json", "--listen", "127.0.0.1:0", *arguments)

        assert ended.returncode == 0, ended.stderr
        said = json.loads(ended.stdout)
        assert said["topics"] == [{"name": "t", "partitions": [{"id": id, "start": 0, "end": 100} for id in range(4)]}]
        assert said["groups"] == ["g"]
        assert (said["lost"]["known_to_snapshot"], said["lost"]["partitions"], said["findings"]) == (0, [], [])
        with serving(tmp_path, *flags, *QUICK) as gateway:
            address = gateway.ready()["kafka"][0]
            assert gateway.ready()["cluster_id"] == cluster_id
            assert consume(address, 400) == {b"%d" % number for number in range(400)}
            assert [committed(address, partition) for partition in (0, 1)] == [40, 100]
            produce(address, 4, first=400)
            assert len(consume(address, 404)) == 404
            await_tiered(gateway, 404)
            gateway.terminate()
        verified = run("tier2", "verify", "--json", *arguments)
        assert verified.returncode == 0, verified.stdout
        assert run("recover", *arguments).returncode == 2  # not into a directory that holds something

    def test_after_a_kill(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """The facts in chunks are enough: a kill leaves no last snapshot."""
        with serving(tmp_path, *place(minio, bucket), *QUICK) as gateway:
            produce(gateway.ready()["kafka"][0], 40)
            await_tiered(gateway, 40)
            gateway.process.kill()
            gateway.end()
        shutil.rmtree(tmp_path / "data")
        before = objects(minio, bucket)
        ended = run("recover", "--data-dir", str(tmp_path / "data"), *place(minio, bucket))

        assert ended.returncode == 0, ended.stderr
        assert objects(minio, bucket) == before
        with serving(tmp_path, *place(minio, bucket), *QUICK) as gateway:
            assert len(consume(gateway.ready()["kafka"][0], 40)) == 40

    def test_while_the_other_one_lives(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A living gateway is ended only by an explicit flag; it then ends with its own words and code."""
        flags = (*place(minio, bucket), *QUICK, "--set", "file.delete.delay.ms=2000")
        copy = ("--data-dir", str(tmp_path / "two" / "data"), *place(minio, bucket))
        with serving(tmp_path / "one", *flags) as first:
            produce(first.ready()["kafka"][0], 40)
            await_tiered(first, 40)
            ended = run("recover", *copy)
            assert (ended.returncode, "is alive" in ended.stderr, "--drill" in ended.stderr) == (3, True, True)
            assert not (tmp_path / "two" / "data" / "store").exists()
            ended = run("recover", "--take-over", *copy)
            assert ended.returncode == 0, ended.stderr
            assert "penstock serve --take-over" in ended.stdout
            assert "`--take-over`" in refused(tmp_path / "two", *flags, code=3)
            assert first.process.poll() is None
            produce(first.ready()["kafka"][0], 4, first=40)
            with serving(tmp_path / "two", *flags, "--take-over") as second:
                address = second.ready()["kafka"][0]
                assert first.end() == 3
                said = first.err.read_text()
                assert "taken over: " in said
                assert "was taken by process" in said
                assert "storage failed" not in said
                assert "was taken by process" in refused(tmp_path / "one", *flags)
                assert len(consume(address, 40)) == 40
                first_data = ("--data-dir", str(tmp_path / "one" / "data"), *place(minio, bucket))
                ended = run("tier2", "init", "--yes", *first_data)
                assert (ended.returncode, "is alive" in ended.stderr) == (3, True)

    def test_a_copied_directory(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A copy of a data directory is refused beside its owner, and needs no flag once that has been killed."""
        flags = (*place(minio, bucket), *QUICK)
        with serving(tmp_path / "one", *flags) as first:
            produce(first.ready()["kafka"][0], 40)
            await_tiered(first, 40)
            shutil.copytree(tmp_path / "one" / "data", tmp_path / "two" / "data")
            refused(tmp_path / "two", *flags, code=3)
            first.process.kill()
            first.end()
            shutil.copytree(tmp_path / "one" / "data", tmp_path / "three" / "data")
            with serving(tmp_path / "three", *flags) as third:
                assert len(consume(third.ready()["kafka"][0], 40)) == 40

    @pytest.mark.parametrize("clean", [True, False])
    def test_the_same_directory(self, tmp_path: Path, minio: MinioServer, bucket: str, clean: bool) -> None:
        """A directory that is moved after a clean stop, or started after a kill, needs no flag and no patience."""
        flags = (*place(minio, bucket), *QUICK)
        with serving(tmp_path / "one", *flags) as first:
            produce(first.ready()["kafka"][0], 40)
            assert first.terminate() == 0 if clean else not first.process.kill()
            first.end()
        where = tmp_path / "one"
        if clean:
            where = tmp_path / "moved"
            where.mkdir()
            (tmp_path / "one" / "data").rename(where / "data")
        with serving(where, *flags) as again:
            assert len(consume(again.ready()["kafka"][0], 40)) == 40
            assert "waiting for a sign of life" not in again.err.read_text()

    def test_drill(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """A drill reads all of the prefix and takes records of its own; the prefix and its owner never notice."""
        flags = (*place(minio, bucket), *QUICK, "--set", "file.delete.delay.ms=2000")
        drilled = ("--data-dir", str(tmp_path / "drill" / "data"), *place(minio, bucket))
        with serving(tmp_path / "live", *flags) as live:
            address = live.ready()["kafka"][0]
            produce(address, 40)
            commit(address, 0, 5)
            await_tiered(live, 40)
            ended = run("recover", "--drill", *drilled)
            assert ended.returncode == 0, ended.stderr
            for count in (80, 120):  # 40 of the prefix, 40 more in each life
                with serving(tmp_path / "drill", *flags) as drill:
                    there = drill.ready()["kafka"][0]
                    assert "this is a drill" in drill.err.read_text()
                    assert committed(there, 0) == 5
                    produce(there, 40, first=1000)
                    assert {b"%d" % number for number in range(40)} <= consume(there, count)
                    await_tiered(drill, count)
                    assert drill.terminate() == 0
            assert [key for key in objects(minio, bucket) if "/000003e" in key or "-000003e" in key] == []
            assert run("tier2", "init", "--yes", *drilled).returncode == 2
            assert run("tier2", "verify", *drilled).returncode == 0
            produce(address, 4, first=40)
            await_tiered(live, 44)
            assert consume(address, 44) == {b"%d" % number for number in range(44)}
            assert live.terminate() == 0
        assert (
            run("tier2", "verify", "--data-dir", str(tmp_path / "live" / "data"), *place(minio, bucket)).returncode == 0
        )

    def test_refusals(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """Nothing is made from a prefix that is nobody's, nor from none; an interrupted one is to be done again."""
        data = tmp_path / "data"
        empty = run("recover", "--data-dir", str(data), *place(minio, bucket))
        off = run("recover", "--data-dir", str(data), "--tier2", "off")

        assert (empty.returncode, off.returncode) == (2, 2)
        assert "the bucket does not exist" in empty.stderr
        client_of(minio).make_bucket(bucket)
        empty = run("recover", "--data-dir", str(data), *place(minio, bucket))
        assert empty.returncode == 2
        assert "there is no identity object" in empty.stderr
        assert not (data / "store").exists()
        (data / "recovering").mkdir(parents=True)
        assert "run `penstock recover`" in refused(tmp_path, "--tier2", "off")


class TestVerify:
    def test_damage(self, tmp_path: Path, minio: MinioServer, bucket: str) -> None:
        """Missing, damaged and orphaned objects are named, with and without a gateway; the rest is whole."""
        flags = place(minio, bucket)
        arguments = ("--data-dir", str(tmp_path / "data"), *flags)
        with serving(tmp_path, *flags, *QUICK) as gateway:
            address = gateway.ready()["kafka"][0]
            for number in range(3):
                produce(address, 10, first=number * 10)
                await_tiered(gateway, (number + 1) * 10)
            await_verified(arguments)
            assert verify(arguments) == (0, [], [], [])
            first, second, *_ = sorted(key for key in objects(minio, bucket) if "/chunks/" in key)
            flip(minio, bucket, first, 100)
            client_of(minio).remove_object(bucket, second)
            client_of(minio).copy_object(bucket, "a/prefix/chunks/0/00000fff-0000000000000001", source(bucket, first))
            found = (
                1,
                [second.removeprefix("a/prefix/")],
                ["chunks/0/00000fff-0000000000000001"],
                [first.removeprefix("a/prefix/")],
            )

            assert verify(arguments) == found
            gateway.terminate()
        assert verify(arguments) == found
        listed = json.loads(run("tier2", "ls", "--json", *arguments).stdout)
        assert [one["name"] for one in listed["streams"]] == ["t"]
        assert {one["state"] for one in listed["chunks"]} <= {"committed", "verified"}
        assert first.removeprefix("a/prefix/") in {one["key"] for one in listed["chunks"]}

    def test_a_gateway_that_cannot_be_asked(self, tmp_path: Path) -> None:
        """A running gateway without HTTP has the directory to itself; that is said, and not guessed around."""
        with serving(tmp_path) as gateway:
            gateway.ready()
            ended = run("tier2", "ls", "--data-dir", str(tmp_path / "data"))

            assert ended.returncode == 2
            assert f"in use by process {gateway.process.pid}" in ended.stderr

    def test_no_store(self, tmp_path: Path) -> None:
        """There is nothing to compare with, and nothing is made."""
        (tmp_path / "objects").mkdir()
        ended = run("tier2", "verify", "--data-dir", str(tmp_path / "nowhere"), "--tier2", f"file:{tmp_path}/objects")

        assert ended.returncode == 2
        assert "holds no store" in ended.stderr
        assert not (tmp_path / "nowhere").exists()


def test_metrics(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """A scrape tells how full the log is, the bytes that move, and the tiers that served the reads."""
    with serving(tmp_path, *place(minio, bucket), *QUICK) as gateway:
        produce(gateway.ready()["kafka"][0], 20)
        await_tiered(gateway, 20)
        consume(gateway.ready()["kafka"][0], 20)
        text = http_get(gateway.ready()["http"], "/metrics")[1]

        for line in (
            r'penstock_log_limit_bytes{container="0"} 4.294967296e+09',
            r'penstock_reads_total{container="0",tier="memory"}',
            r'penstock_reads_total{container="0",tier="chunk"}',
            r'penstock_tier2_chunks_put_total{container="0"}',
            r'penstock_tier2_pending_chunks{container="0",state="committed"}',
            r'penstock_tier2_request_seconds_count{operation="put"}',
            r'penstock_tier2_snapshot_age_seconds{container="0"}',
            "penstock_throttled_requests_total 0.0",
        ):
            assert line in text, line
        assert ROOT_PASSWORD not in text


# What the tests above do


@contextlib.contextmanager
def another_service() -> Iterator[str]:
    """A web server that knows nothing of S3."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def produce(address: str, count: int, first: int = 0) -> None:
    """Values that are numbers, over four partitions in turn."""
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 30_000})
    for number in range(first, first + count):
        producer.produce("t", b"%d" % number, partition=number % 4)
    assert producer.flush(PATIENCE_S) == 0


def consume(address: str, count: int) -> set[bytes]:
    """All values, from the beginning."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition("t", partition, 0) for partition in range(4)])
    values: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(values) < count and time.monotonic() < deadline:
        values += [bytes(message.value() or b"") for message in consumer.consume(count - len(values), timeout=1)]
    consumer.close()
    return set(values)


def commit(address: str, partition: int, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g"})
    consumer.commit(offsets=[TopicPartition("t", partition, offset)], asynchronous=False)
    consumer.close()


def committed(address: str, partition: int) -> int:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g"})
    (found,) = consumer.committed([TopicPartition("t", partition)], timeout=PATIENCE_S)
    consumer.close()
    return int(found.offset)


def await_tiered(gateway: Running, count: int) -> None:
    """Return when chunks hold that many records of each partition together."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        lines = http_get(gateway.ready()["http"], "/api/v1/tier2/chunks")[1].splitlines()
        records = [json.loads(line) for line in lines]
        if sum(one["end"] for record in records for one in record.get("partitions", ())) == count:
            return
        assert time.monotonic() < deadline, records
        time.sleep(0.01)


def await_verified(arguments: tuple[str, ...]) -> None:
    """Return when every chunk was looked at twice."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        listed = json.loads(run("tier2", "ls", "--json", *arguments).stdout)
        if {one["state"] for one in listed["chunks"]} == {"verified"}:
            return
        assert time.monotonic() < deadline, listed


def verify(arguments: tuple[str, ...]) -> tuple[int, list[str], list[str], list[str]]:
    """Exit code, missing, orphaned, damaged."""
    ended = run("tier2", "verify", "--json", *arguments)
    report: dict[str, Any] = json.loads(ended.stdout)
    assert set(report) == {"chunks", "bytes", "missing", "orphaned", "damaged"}
    return ended.returncode, report["missing"], report["orphaned"], [one["key"] for one in report["damaged"]]


def flip(server: MinioServer, bucket: str, name: str, position: int) -> None:
    """Change one byte of an object behind Penstock's back."""
    client = client_of(server)
    answer = client.get_object(bucket, name)
    data = bytearray(answer.read())
    answer.close()
    data[position] ^= 1
    client.put_object(bucket, name, io.BytesIO(bytes(data)), len(data))


def source(bucket: str, name: str) -> Any:
    return CopySource(bucket, name)
