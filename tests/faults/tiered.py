"""A gateway with a real MinIO server as long-term storage, the contents of its bucket, and the operator's messages.

Everything happens early: objects of a few hundred KiB are put within a fraction of a second, looked at once more soon
after, and little of them is cached, so that what a test reads comes from the server.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from tests.faults.client import Connection
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History, Partition, check_history, read_outcome
from tests.faults.questions import ask_everything
from tests.faults.settings import SEED
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

KIB: Final = 1024
MIB: Final = 1024 * KIB
BUCKET: Final = "faults"
PREFIX: Final = "penstock"
CHUNKS: Final = f"{PREFIX}/chunks/"
EARLIEST_LOCAL: Final = -4
POLL_S: Final = 0.05
QUIET_POLLS: Final = 40  # two seconds, in which everything that is due has happened
MOVED_SECONDS_MAX: Final = 60.0
COMMAND_SECONDS_MAX: Final = 120.0

QUICK: Final[Mapping[str, object]] = {
    **EAGER,
    "chunk.bytes": 256 * KIB,
    "chunk.age.ms": 300,
    "tier2.verify.delay.ms": 300,
    "tier2.snapshot.interval.ms": 300,
    "file.delete.delay.ms": 300,
    "tier2.abandoned.ms": 500,
    "rewrite.interval.ms": 300,
    "log.cache.bytes": MIB,  # what leaves the log leaves memory soon
    "tier2.cache.bytes": MIB,
    "tier2.read.ahead.bytes": 256 * KIB,
    # Time-outs after which a call is tried again: below what a test waits for.
    "tier2.connect.timeout.ms": 1_000,
    "tier2.io.timeout.ms": 2_000,
    "tier2.read.timeout.ms": 4_000,
    "tier2.write.timeout.ms": 4_000,
}


def settings_for(minio: MinioServer, *, port: int | None = None, **changes: object) -> dict[str, object]:
    """A gateway's settings; `port` is that of a proxy before the server."""
    return {
        **QUICK,
        "tier2": f"s3://{BUCKET}/{PREFIX}",
        "tier2.endpoint": f"http://127.0.0.1:{port or minio.port}",
        "tier2.region": "us-east-1",
        "tier2.access.key": ROOT_USER,
        "tier2.secret.key": ROOT_PASSWORD,
        **{name.replace("_", "."): value for name, value in changes.items()},
    }


class Bucket:
    """The content of the bucket, and ways to damage it."""

    def __init__(self, minio: MinioServer) -> None:
        self._client = Minio(f"127.0.0.1:{minio.port}", ROOT_USER, ROOT_PASSWORD, secure=False, region="us-east-1")

    def objects(self, prefix: str = f"{PREFIX}/") -> dict[str, int]:
        """Keys and sizes; empty where there is no bucket."""
        try:
            found = list(self._client.list_objects(BUCKET, prefix=prefix, recursive=True))
        except S3Error as error:
            if error.code != "NoSuchBucket":
                raise
            return {}
        return {str(one.object_name): one.size or 0 for one in found}

    def chunks(self) -> dict[str, int]:
        return self.objects(CHUNKS)

    def get(self, key: str) -> bytes:
        with contextlib.closing(self._client.get_object(BUCKET, key)) as answer:
            return bytes(answer.read())

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(BUCKET, key, io.BytesIO(data), len(data))

    def remove(self, *keys: str) -> None:
        errors = list(self._client.remove_objects(BUCKET, [DeleteObject(key) for key in keys]))
        assert not errors, errors

    def drop(self) -> None:
        """The whole bucket, with all that lies in it."""
        with contextlib.suppress(S3Error):  # objects that are being put meanwhile keep it: once more
            self.remove(*self.objects(""))
        until(self._is_dropped, "the bucket is gone")

    def _is_dropped(self) -> bool:
        self.remove(*self.objects(""))
        try:
            self._client.remove_bucket(BUCKET)
        except S3Error as error:
            return error.code == "NoSuchBucket"
        return True

    def make(self) -> None:
        with contextlib.suppress(S3Error):  # the gateway may have been first
            self._client.make_bucket(BUCKET)


def until(condition: Callable[[], object], what: str, seconds_max: float = MOVED_SECONDS_MAX) -> None:
    """Wait for it to be so."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds_max:.0f} s: {what}"
        time.sleep(POLL_S)


def local_start(connection: Connection, partition: Partition) -> int:
    """The first offset that the log holds; older ones lie in chunks only."""
    return connection.tier_offset(*partition, EARLIEST_LOCAL)


def await_moved(connection: Connection, partition: Partition, before: int) -> None:
    """Wait until everything before an offset lies in chunks only."""
    until(lambda: local_start(connection, partition) >= before, f"{partition} before {before} has left the log")


def await_quiet(bucket: Bucket) -> dict[str, int]:
    """Wait until objects neither come nor go any more; what there is."""
    seen: list[dict[str, int]] = []

    def same() -> bool:
        seen.append(bucket.chunks())
        return len(seen) > QUIET_POLLS and all(one == seen[-1] for one in seen[-QUIET_POLLS:])

    until(same, "the bucket has come to rest")
    return seen[-1]


def problems(gateway: Gateway, history: History, partitions: list[Partition]) -> list[str]:
    """The faults in the records that a reader from the beginning gets, and in the reported offsets."""
    with gateway.connect() as connection:
        found = check_history(history, read_outcome(connection, partitions, history))
        return found + ask_everything(connection, partitions, random.Random(SEED))


def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `penstock` with the gateway's directory and settings."""
    line = [str(Path(sys.executable).parent / "penstock"), *arguments, "--data-dir", str(gateway.data)]
    for key, value in gateway.settings.items():
        line += ["--set", f"{key}={value}"]
    return subprocess.run(line, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False)


def verify(gateway: Gateway) -> dict[str, Any]:
    """The findings of `penstock tier2 verify`, while the gateway is not running."""
    done = command(gateway, "tier2", "verify", "--json")
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 1) == bool(found["missing"] or found["damaged"]), done.stdout
    return found


class RevocableUser:
    """Credentials that the server's owner takes back, and gives again."""

    name: Final = "gateway"
    secret: Final = "gateway-secret-51c2"

    def __init__(self, minio: MinioServer) -> None:
        self._admin = MinioAdmin(
            endpoint=f"127.0.0.1:{minio.port}",
            credentials=StaticProvider(ROOT_USER, ROOT_PASSWORD),
            secure=False,
            region="us-east-1",
        )
        self._admin.user_add(self.name, self.secret)
        self._admin.attach_policy(["readwrite"], user=self.name)

    def revoke(self) -> None:
        self._admin.user_disable(self.name)

    def restore(self) -> None:
        self._admin.user_enable(self.name)
