"""Real etcd servers for tests: processes with a temporary directory each, on ports of the system's choice."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from core.cluster.etcd.client import EtcdSettings
from core.cluster.etcd.http import Endpoint

START_TIMEOUT_S = 90.0
REPOSITORY = Path(__file__).resolve().parents[4]


def etcd_program() -> str:
    """The path of etcd; fails rather than skips, as no suite is left out for want of a tool."""
    found = subprocess.run([REPOSITORY / "scripts/install-etcd", "--find"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, "there is no etcd server here: run scripts/install-etcd"
    return found.stdout.strip()


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class EtcdServer:
    """One member. The port stays the same over a restart."""

    def __init__(
        self,
        directory: Path,
        name: str = "m0",
        ports: tuple[int, int] | None = None,
        members: str = "",
        tls: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.directory = directory
        self.port, self._peer_port = ports or tuple(free_ports(2))
        self._members = members or f"{name}=http://127.0.0.1:{self._peer_port}"
        self._tls = tls
        if tls:
            certify(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def settings(self, *endpoints: Endpoint, user: str = "", password: str = "") -> EtcdSettings:
        files = (
            {name: str(self.directory / name) for name in ("ca.crt", "client.crt", "client.key")} if self._tls else {}
        )
        return EtcdSettings(
            endpoints=endpoints or (self.endpoint,),
            tls=self._tls,
            ca_file=files.get("ca.crt"),
            cert_file=files.get("client.crt"),
            key_file=files.get("client.key"),
            user=user,
            password=password,
        )

    def start(self) -> None:
        self.begin()
        self.wait_ready()

    def begin(self) -> None:
        """Start it, and do not wait: the first of several members is ready only with the second."""
        client = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        command = [etcd_program(), "--name", self.name, "--data-dir", str(self.directory / "data")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", self._members, "--heartbeat-interval", "50", "--election-timeout", "500"]
        if self._tls:
            command += ["--client-cert-auth", "--trusted-ca-file", str(self.directory / "ca.crt")]
            command += ["--cert-file", str(self.directory / "server.crt")]
            command += ["--key-file", str(self.directory / "server.key")]
        environment = {"PATH": os.environ["PATH"], "ETCD_UNSAFE_NO_FSYNC": "true", "GOMAXPROCS": "2"}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, (self.directory / "log").read_text()
            if self._is_healthy():
                return
            time.sleep(0.05)
        raise AssertionError("etcd is not up: " + (self.directory / "log").read_text())

    def _is_healthy(self) -> bool:
        context = None
        if self._tls:
            context = ssl.create_default_context(cafile=str(self.directory / "ca.crt"))
            context.load_cert_chain(str(self.directory / "client.crt"), str(self.directory / "client.key"))
        url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                return b"true" in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def three_members(directory: Path) -> list[EtcdServer]:
    """Members of one cluster, all started."""
    ports = free_ports(6)
    members = ",".join(f"m{n}=http://127.0.0.1:{ports[2 * n + 1]}" for n in range(3))
    servers = [
        EtcdServer(directory / f"m{n}", f"m{n}", (ports[2 * n], ports[2 * n + 1]), members=members) for n in range(3)
    ]
    try:
        for server in servers:
            server.begin()
        for server in servers:
            server.wait_ready()
    except BaseException:
        stop_all(servers)
        raise
    return servers


def stop_all(servers: Sequence[EtcdServer]) -> None:
    for server in servers:
        server.stop()


def certify(directory: Path) -> None:
    """An authority, and two certificates of it: the server's for 127.0.0.1, and a client's."""

    def openssl(arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=directory, check=True, capture_output=True)

    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(f"req -x509 {new_key} -days 2 -subj /CN=penstock-test-ca -keyout ca.key -out ca.crt")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(f"req {new_key} -subj /CN={name} -keyout {name}.key -out {name}.csr")
        openssl(f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -days 2 -extfile names -out {name}.crt")
