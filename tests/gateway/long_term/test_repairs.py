"""Repairs that messages advise, tried together with what they repair; with a real MinIO server."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from tests.gateway.forking import run, serving
from tests.gateway.launching import Running, http_get
from tests.gateway.long_term.test_processes import (
    PATIENCE_S,
    QUICK,
    await_tiered,
    client_of,
    commit,
    committed,
    consume,
    objects,
    place,
    produce,
    refused,
)
from tests.tier2.fault_proxy import FaultProxy, Refuse
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's credentials, as an operator gives them."""
    monkeypatch.setenv("PENSTOCK_TIER2_ACCESS_KEY", ROOT_USER)
    monkeypatch.setenv("PENSTOCK_TIER2_SECRET_KEY", ROOT_PASSWORD)


def metric(gateway: Running, name: str) -> float:
    lines = http_get(gateway.ready()["http"], "/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def readiness(gateway: Running) -> dict[str, Any]:
    status, body = http_get(gateway.ready()["http"], "/readyz")
    assert status == 200
    answer: dict[str, Any] = json.loads(body)
    return answer


def await_snapshot(gateway: Running) -> None:
    """Return when a snapshot was put that knows of all that was committed before."""
    before = metric(gateway, "penstock_tier2_snapshots_total")
    commit(gateway.ready()["kafka"][0], 3, 1)  # something has changed
    await_metric(gateway, "penstock_tier2_snapshots_total", before + 2)


def await_metric(gateway: Running, name: str, least: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while metric(gateway, name) < least:
        assert time.monotonic() < deadline, gateway.err.read_text()
        if "snapshots_total" in name:
            commit(gateway.ready()["kafka"][0], 3, 1)
        time.sleep(0.05)


def test_going_on_after_a_drill_took_over(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """After `tier2 init` the gateway's later changes are recovered, and none of the other copy's."""
    where = place(minio, bucket)
    flags = (*where, *QUICK, "--set", "file.delete.delay.ms=2000")
    one = ("--data-dir", str(tmp_path / "one" / "data"), *where)
    with serving(tmp_path / "one", *flags) as first:
        produce(first.ready()["kafka"][0], 40)
        await_tiered(first, 40)
        assert run("recover", "--take-over", "--data-dir", str(tmp_path / "two" / "data"), *where).returncode == 0
        produce(first.ready()["kafka"][0], 8, first=40)  # beyond what the copy knows
        await_tiered(first, 48)
        with serving(tmp_path / "two", *flags, "--take-over") as second:
            produce(second.ready()["kafka"][0], 16, first=9000)
            commit(second.ready()["kafka"][0], 0, 3)
            await_tiered(second, 56)
            assert first.end() == 3
            assert second.terminate() == 0
    assert "`penstock tier2 init`" in refused(tmp_path / "one", *flags)
    assert run("tier2", "init", "--yes", *one).returncode == 0
    with serving(tmp_path / "one", *flags) as again:
        address = again.ready()["kafka"][0]
        assert "the epoch rises" in again.err.read_text()
        produce(address, 4, first=48)
        commit(address, 0, 11)
        await_tiered(again, 52)
        await_snapshot(again)
        assert metric(again, "penstock_tier2_snapshot_failures_total") == 0
        assert readiness(again) == {"status": "serving"}
        again.process.kill()  # no last snapshot
        again.end()
    shutil.rmtree(tmp_path / "one")
    ended = run("recover", "--json", *one)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["groups"] == ["g"]
    with serving(tmp_path / "one", *flags) as recovered:
        address = recovered.ready()["kafka"][0]
        assert consume(address, 52) == {b"%d" % number for number in range(52)}
        assert committed(address, 0) == 11


def test_a_snapshot_that_would_not_be_used(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """While a later life's snapshot is there, ours fail, and the metric shows it; a start puts ours above."""
    flags = (*place(minio, bucket), *QUICK)
    with serving(tmp_path, *flags) as gateway:
        produce(gateway.ready()["kafka"][0], 4)
        await_snapshot(gateway)
        put = metric(gateway, "penstock_tier2_snapshots_total")
        client = client_of(minio)
        newest = max(key for key in objects(minio, bucket) if "/meta/" in key)
        answer = client.get_object(bucket, newest)
        later = newest.rpartition("/")[0] + "/0000ffff-0000000000000001"
        client.put_object(bucket, later, answer, int(answer.headers["Content-Length"]))
        answer.close()
        commit(gateway.ready()["kafka"][0], 0, 1)
        await_metric(gateway, "penstock_tier2_snapshot_failures_total", 1)
        assert metric(gateway, "penstock_tier2_snapshots_total") <= put + 1
        (told,) = readiness(gateway)["detail"]
        assert told.startswith("metadata snapshots fail: ")
        assert "Start the gateway once more" in told
        assert gateway.terminate() == 0
    with serving(tmp_path, *flags) as again:
        produce(again.ready()["kafka"][0], 4)
        await_snapshot(again)
        assert readiness(again) == {"status": "serving"}
        assert metric(again, "penstock_tier2_snapshot_failures_total") == 0
        assert max(key for key in objects(minio, bucket) if "/meta/" in key) > later


def test_an_emptied_prefix_and_then_the_disk(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """After `tier2 init` on an emptied prefix a recovery gives back topics, groups and what has come since."""
    where = place(minio, bucket)
    data = ("--data-dir", str(tmp_path / "data"), *where)
    with serving(tmp_path, *where, *QUICK) as gateway:
        produce(gateway.ready()["kafka"][0], 40)
        commit(gateway.ready()["kafka"][0], 0, 7)
        await_tiered(gateway, 40)
        gateway.terminate()
    for name in objects(minio, bucket):
        client_of(minio).remove_object(bucket, name)
    assert run("tier2", "init", "--yes", *data).returncode == 0
    with serving(tmp_path, *where, *QUICK) as gateway:
        produce(gateway.ready()["kafka"][0], 4, first=40)
        await_tiered(gateway, 44)
        assert gateway.terminate() == 0
    shutil.rmtree(tmp_path / "data")
    ended = run("recover", "--json", *data)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["groups"] == ["g"]
    assert [one["end"] for one in report["topics"][0]["partitions"]] == [11] * 4


def test_an_identity_from_a_backup(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """A damaged identity ends a start; put back from a backup, all goes on, also when the owner object is lost."""
    flags = (*place(minio, bucket), *QUICK)
    name = "a/prefix/identity.json"
    with serving(tmp_path, *flags) as gateway:
        produce(gateway.ready()["kafka"][0], 40)
        await_tiered(gateway, 40)
        gateway.terminate()
    client = client_of(minio)
    answer = client.get_object(bucket, name)
    backup = answer.read()
    answer.close()
    put(minio, bucket, name, b"{")
    assert "put the object back from a backup" in refused(tmp_path, *flags, code=4)
    put(minio, bucket, name, backup)
    client.remove_object(bucket, "a/prefix/owner.json")
    with serving(tmp_path, *flags) as gateway:
        assert len(consume(gateway.ready()["kafka"][0], 40)) == 40
        assert "a/prefix/owner.json" in objects(minio, bucket)


def test_what_an_operator_is_told(tmp_path: Path, minio: MinioServer, bucket: str) -> None:
    """`/readyz` and the metrics tell of a store without room, and of a bucket that keeps versions, while it is so."""
    client = client_of(minio)
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    with FaultProxy(minio.port) as proxy:
        where = ("--tier2", f"s3://{bucket}/a/prefix", "--tier2-endpoint", f"http://127.0.0.1:{proxy.port}")
        with serving(tmp_path, *where, *QUICK) as gateway:
            gateway.ready()
            (versions,) = readiness(gateway)["detail"]
            assert "NoncurrentVersionExpiration" in versions
            assert versions in gateway.err.read_text()
            proxy.chooses = lambda line: Refuse(507) if line.startswith(("PUT", "POST")) else None
            produce(gateway.ready()["kafka"][0], 4)
            await_that(lambda: len(readiness(gateway)["detail"]) == 3, gateway)
            told = readiness(gateway)["detail"]
            assert any(one.startswith("chunks cannot be put: ") and "507" in one for one in told)
            assert any(one.startswith("metadata snapshots fail: ") for one in told)
            assert metric(gateway, "penstock_tier2_full") == 1
            proxy.chooses = lambda line: None
            await_that(lambda: readiness(gateway)["detail"] == [versions], gateway)
            assert metric(gateway, "penstock_tier2_full") == 0
            await_tiered(gateway, 4)


def await_that(condition: Callable[[], bool], gateway: Running) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, (readiness(gateway), gateway.err.read_text())
        time.sleep(0.02)


def test_a_copy_with_its_own_storage(tmp_path: Path) -> None:
    """A copy of a data directory with long-term storage inside starts beside the original gateway."""
    with serving(tmp_path / "one", *QUICK) as first:
        produce(first.ready()["kafka"][0], 40)
        await_tiered(first, 40)
        shutil.copytree(tmp_path / "one" / "data", tmp_path / "two" / "data")
        with serving(tmp_path / "two", *QUICK) as second:
            assert len(consume(second.ready()["kafka"][0], 40)) == 40
            assert first.terminate() == 0


def put(server: MinioServer, bucket: str, name: str, data: bytes) -> None:
    client_of(server).put_object(bucket, name, io.BytesIO(data), len(data))
