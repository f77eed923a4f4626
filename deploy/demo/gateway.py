"""The gateway of the demo, with settings by which a minute shows what else takes hours."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.demo.doors import Doors
from deploy.demo.servers import BUCKET, PENSTOCK, Minio, Server, port_near

PREFIX: Final = "tier2"
LOG_FILE_BYTES: Final = 2 << 20
LOG_FILE_BYTES_MIN: Final = 1 << 20
"""The least that the gateway takes."""

# Everything happens within seconds, and little is kept in memory, so that a minute shows it.
SETTINGS: Final[dict[str, object]] = {
    "log.cache.bytes": 4 << 20,
    "checkpoint.interval.ms": 1_000,
    "log.retention.check.interval.ms": 1_000,
    "chunk.bytes": 1 << 20,
    "chunk.age.ms": 3_000,
    "tier2.verify.delay.ms": 3_000,
    "tier2.snapshot.interval.ms": 2_000,
    "tier2.cache.bytes": 4 << 20,
    "tier2.read.ahead.bytes": 1 << 20,
    "group.initial.rebalance.delay.ms": 0,
    "scaler.time.factor": 0.01,
}


class Gateway(Server):
    """Penstock, its long-term storage in MinIO. `kafka` has the address of each worker."""

    def __init__(self, ends: contextlib.ExitStack, directory: Path, minio: Minio, workers: int, doors: Doors) -> None:
        ready_file = directory / "ready.json"
        command = [PENSTOCK, "serve"]
        first = port_near(9092, workers + 1)  # one more than workers: the port of HTTP may lie among theirs
        command += ["--set", f"listeners={doors.protocol}://127.0.0.1:{first}"]
        command += ["--http", f"127.0.0.1:{port_near(9094)}"]
        command += ["--data-dir", str(directory / "penstock"), "--ready-file", str(ready_file)]
        command += ["--tier2", f"s3://{BUCKET}/{PREFIX}", "--tier2-endpoint", minio.endpoint]
        # Each worker has a log of its own: together they are as long as one.
        logs = {"workers": workers, "log.file.bytes": max(LOG_FILE_BYTES // workers, LOG_FILE_BYTES_MIN)}
        for each in (*(f"{key}={value}" for key, value in (SETTINGS | logs).items()), *doors.keys, *doors.http_keys):
            command += ["--set", each]
        environment = {"PENSTOCK_TIER2_ACCESS_KEY": minio.access_key, "PENSTOCK_TIER2_SECRET_KEY": minio.secret_key}
        super().__init__(ends, "Penstock", command, directory / "penstock.log", environment)
        ready = self.await_ready_file(ready_file)
        self.kafka: Sequence[str] = ready["kafka"]
        self.http: str = ready["http"]
        self.await_url(f"{doors.scheme}://{self.http}/readyz", doors.context)
