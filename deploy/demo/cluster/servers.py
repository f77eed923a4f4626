"""etcd and the nodes, as processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Final

from deploy.demo.doors import Doors
from deploy.demo.servers import BUCKET, PENSTOCK, REPOSITORY, CannotStart, Minio, Server, port_near

NAME: Final = "demo"
CONTAINERS: Final = 6
SETTINGS: Final[dict[str, object]] = {
    "cluster.containers": CONTAINERS,
    "checkpoint.interval.ms": 1_000,
    "log.cache.bytes": 4 << 20,
    "tier2.cache.bytes": 4 << 20,
    "tier2.read.ahead.bytes": 1 << 20,
    "group.initial.rebalance.delay.ms": 0,
}
"""Little memory, as three of them are on one machine, and a rebalance without a pause."""


class Etcd(Server):
    """etcd from PATH or as `scripts/install-etcd` finds, loads or builds it."""

    def __init__(self, ends: contextlib.ExitStack, directory: Path) -> None:
        self.endpoint = f"127.0.0.1:{port_near(2379)}"
        client, peer = f"http://{self.endpoint}", f"http://127.0.0.1:{port_near(2380)}"
        command = [_etcd_program(), "--name", NAME, "--data-dir", str(directory / "etcd")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", f"{NAME}={peer}"]
        super().__init__(ends, "etcd", command, directory / "etcd.log", {})
        self.await_url(f"{client}/health")


def _etcd_program() -> str:
    found = subprocess.run(
        [REPOSITORY / "scripts" / "install-etcd"], stdout=subprocess.PIPE, text=True, check=False
    )  # its progress and its remedies go to standard error
    if found.returncode:
        raise CannotStart("The demo needs an etcd server, and none is here; the lines above say what to install.")
    return found.stdout.strip()


class Cluster:
    """The nodes, each with a directory and ports of its own. Any of the consoles tells of all nodes."""

    def __init__(
        self, ends: contextlib.ExitStack, directory: Path, etcd: Etcd, minio: Minio, count: int, doors: Doors
    ) -> None:
        self._ends, self._directory, self._etcd, self._minio, self._doors = ends, directory, etcd, minio, doors
        kafka, http = port_near(9092, count), port_near(9194, count)
        numbers = range(1, count + 1)
        self.addresses = {number: f"127.0.0.1:{kafka + number - 1}" for number in numbers}
        self.consoles = {number: f"{doors.scheme}://127.0.0.1:{http + number - 1}/" for number in numbers}
        self.nodes: dict[int, Server] = {}
        for number in self.addresses:
            self.begin(number)
        for number in self.addresses:
            self.await_ready(number)

    @property
    def bootstrap(self) -> str:
        return ",".join(self.addresses.values())

    @property
    def name(self) -> str:
        """As `penstock cluster` takes it."""
        return f"etcd://{self._etcd.endpoint}/{NAME}"

    def begin(self, number: int) -> None:
        """Start a node, for the first time or again."""
        self._ready_file(number).unlink(missing_ok=True)
        command = [PENSTOCK, "serve", "--node-id", str(number)]
        command += ["--http", self.consoles[number].split("/")[2]]
        command += ["--set", f"listeners={self._doors.protocol}://{self.addresses[number]}"]
        command += ["--cluster", self.name]
        command += ["--tier2", f"s3://{BUCKET}/cluster", "--tier2-endpoint", self._minio.endpoint]
        command += ["--data-dir", str(self._directory / f"node-{number}")]
        command += ["--ready-file", str(self._ready_file(number))]
        doors = self._doors
        for each in (*(f"{key}={value}" for key, value in SETTINGS.items()), *doors.keys, *doors.http_keys):
            command += ["--set", each]
        keys = {
            "PENSTOCK_TIER2_ACCESS_KEY": self._minio.access_key,
            "PENSTOCK_TIER2_SECRET_KEY": self._minio.secret_key,
        }
        log = self._directory / f"node-{number}.log"
        node = self.nodes[number] = Server(self._ends, f"node {number}", command, log, keys)
        self._ends.callback(node.kill)  # at the end nobody is left to hand over to

    def await_ready(self, number: int) -> None:
        """Raises CannotStart."""
        self.nodes[number].await_ready_file(self._ready_file(number))

    def kill(self, number: int) -> None:
        self.nodes.pop(number).kill()

    def check(self) -> None:
        """Raises CannotStart if a node has ended that nobody killed."""
        for node in self.nodes.values():
            node.check()

    def _ready_file(self, number: int) -> Path:
        return self._directory / f"node-{number}.json"
