"""The servers that are measured, each a process of its own with its data on the real disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import psutil
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from bench import jars

ROOT: Final = Path(__file__).resolve().parent.parent
READY_SECONDS_MAX: Final = 60
STOP_SECONDS_MAX: Final = 30
PARTITIONS_AT_ONCE: Final = 5_000
"""Partitions that Kafka is asked for by one request: its controller makes a record of each, and takes no request that
makes 10,000."""
POLL_S: Final = 0.002
CLOCK_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
CPUCLOCK_SCHED: Final = 2
"""Low bits of the id of a process's clock, beside its process id (clock_getcpuclockid(3))."""


class StartFailed(Exception):
    """The server did not come up."""


class Server(Protocol):
    """One running server."""

    bootstrap: str
    name: str

    def create_topic(self, topic: str, partitions: int) -> None: ...
    def cpu_seconds(self) -> float: ...
    def stop(self) -> None: ...


def _as_installed() -> dict[str, str]:
    """The environment, but for what would have a server in Python compile its modules at each start."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class _Process:
    """A measured process: its CPU time, its memory, its end."""

    def __init__(self, command: list[str], directory: Path, environment: dict[str, str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._output = (directory / "output.log").open("ab")
        self.started_at = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env={**_as_installed(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
        )

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS_PER_S

    def cpu_ns(self) -> int:
        """The same, of all its threads, ended ones too, by the kernel's clock of the process."""
        return time.clock_gettime_ns(~self.process.pid << 3 | CPUCLOCK_SCHED)

    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def stop(self) -> None:
        """Ask it to end; insist after a while."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, by: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(by)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS_MAX)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._output.close()

    def failed(self, why: str) -> StartFailed:
        self.kill()
        tail = (self.directory / "output.log").read_text(errors="replace")[-2000:]
        return StartFailed(f"{why}\n{tail}")


class Penstock(_Process):
    """The gateway as an operator starts it, with one listener and nothing else changed."""

    name = "penstock"

    def __init__(
        self,
        directory: Path,
        settings: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        http: str = "off",
        program: Path | None = None,
        module: str | None = None,
        sealed: Mapping[str, str] | None = None,
    ) -> None:
        """`program`: another checkout's, if not this one's; `module`: one that starts it, in place of the program.
        `sealed`: keys of a second listener, with TLS."""
        ready = directory / "ready.json"
        ready.unlink(missing_ok=True)
        started = (
            [sys.executable, "-m", module] if module else [str(program or Path(sys.executable).parent / "penstock")]
        )
        command = [*started, "serve"]
        command += ["--http", http, "--ready-file", str(ready), "--data-dir", str(directory / "data")]
        if sealed is None:
            command += ["--listen", "127.0.0.1:0"]
        else:
            command += ["--set", "listeners=PLAINTEXT://127.0.0.1:0,SSL://127.0.0.1:0"]
        for key, value in {**(sealed or {}), **(settings or {})}.items():
            command += ["--set", f"{key}={value}"]
        super().__init__(command, directory, environment or {})
        self.ready = self._await_ready(ready)
        self.ready_seconds = time.perf_counter() - self.started_at
        self.bootstrap: str = self.ready["kafka"][0]
        self.sealed: str = self.ready["kafka"][-1]

    def _await_ready(self, ready: Path) -> dict[str, Any]:
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not ready.exists():
            if self.process.poll() is not None:
                raise self.failed(f"penstock ended with {self.process.returncode} at start")
            if time.monotonic() > deadline:
                raise self.failed(f"penstock not ready in {READY_SECONDS_MAX} s")
            time.sleep(POLL_S)
        state: dict[str, Any] = json.loads(ready.read_text())
        return state

    def create_topic(self, topic: str, partitions: int) -> None:
        create_topic(self.bootstrap, topic, partitions, {})


class Kafka(_Process):
    """Apache Kafka, broker and controller in one process: the JVM flags of its start script, a heap of 1 GiB."""

    name = "kafka"
    JVM: Final = (
        *("-server", "-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
        *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true"),
    )
    SETTINGS: ClassVar[dict[str, str]] = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.listener.names": "CONTROLLER",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "auto.create.topics.enable": "false",
    }

    def __init__(self, directory: Path, sealed: Mapping[str, str] | None = None) -> None:
        """`sealed`: keys of a second listener, with TLS."""
        directory.mkdir(parents=True, exist_ok=True)
        self._jars = jars.fetched(jars.KAFKA)
        self.bootstrap, self.sealed, controller = (f"127.0.0.1:{_free_port()}" for _ in range(3))
        properties = directory / "server.properties"
        listeners = {"PLAINTEXT": self.bootstrap, "CONTROLLER": controller} | ({"SSL": self.sealed} if sealed else {})
        settings = self.SETTINGS | {
            "controller.quorum.voters": f"1@{controller}",
            "listeners": ",".join(f"{name}://{address}" for name, address in listeners.items()),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL",
            "log.dirs": str(directory / "data"),
            **(sealed or {}),
        }
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        format_it = ["kafka.tools.StorageTool", "format", "-t", "cGVuc3RvY2stYmVuY2hfMQ", "-c", str(properties)]
        subprocess.run(self._java(*format_it), check=True, capture_output=True, timeout=READY_SECONDS_MAX)
        super().__init__(self._java("kafka.Kafka", str(properties)), directory, {})
        _until_served(self, self.bootstrap)
        self.ready_seconds = time.perf_counter() - self.started_at

    def _java(self, *arguments: str) -> list[str]:
        return ["java", *self.JVM, "-cp", f"{self._jars}/*", *arguments]

    def create_topic(self, topic: str, partitions: int) -> None:
        first, *later = sizes_to(partitions)
        create_topic(self.bootstrap, topic, first, {})
        for size in later:
            grow_topic(self.bootstrap, topic, size)


class Baseline(_Process):
    """A server in one Python file, `PORT=… NPART=… python FILE WALFILE`, that creates topics itself."""

    def __init__(self, file: Path, directory: Path, partitions: int) -> None:
        self.name = file.stem
        port = _free_port()
        environment = {"PORT": str(port), "NPART": str(partitions)}
        super().__init__([sys.executable, str(file), str(directory / "wal")], directory, environment)
        self.bootstrap = f"127.0.0.1:{port}"
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not accepts(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed(f"{file.name} does not accept connections")
            time.sleep(POLL_S)
        self.ready_seconds = time.perf_counter() - self.started_at

    def create_topic(self, topic: str, partitions: int) -> None:
        """Nothing to do: the server makes every topic that a client asks for."""


class Sink(_Process):
    """A broker that stores nothing (`bench.sink`), with a listener in the clear and one with TLS."""

    name = "sink"

    def __init__(self, directory: Path, pem: Path, topic: str, end: int, batches: bytes) -> None:
        """`batches`: what it gives to those who fetch below the offset `end`."""
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "batches"
        file.write_bytes(batches)
        ports = [_free_port(), _free_port()]
        self.bootstrap, self.sealed = (f"127.0.0.1:{port}" for port in ports)
        arguments = [*map(str, ports), str(pem), topic, str(end), str(file)]
        super().__init__([sys.executable, "-m", "bench.sink", *arguments], directory, {"PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not all(map(accepts, ports)):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed("the sink does not accept connections")
            time.sleep(POLL_S)

    def create_topic(self, topic: str, partitions: int) -> None:
        """Nothing to do: it has the one topic that it was given."""


def create_topic(bootstrap: str, topic: str, partitions: int, config: dict[str, str]) -> None:
    create_topics(bootstrap, [topic], partitions, config)


def create_topics(bootstrap: str, topics: list[str], partitions: int, config: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    wanted = [NewTopic(topic, partitions, 1, config=config) for topic in topics]
    for asked in admin.create_topics(wanted, operation_timeout=READY_SECONDS_MAX).values():
        asked.result(READY_SECONDS_MAX)


def sizes_to(partitions: int) -> list[int]:
    """How large a topic of Kafka is after each request that makes it, or makes it larger."""
    return [*range(PARTITIONS_AT_ONCE, partitions, PARTITIONS_AT_ONCE), partitions]


def grow_topic(bootstrap: str, topic: str, partitions: int) -> None:
    """Raise the number of partitions to this one."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    grown = admin.create_partitions([NewPartitions(topic, partitions)], operation_timeout=READY_SECONDS_MAX)
    grown[topic].result(READY_SECONDS_MAX)


def delete_topics(bootstrap: str, topics: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})  # its results die with it
    for asked in admin.delete_topics(topics).values():
        asked.result(READY_SECONDS_MAX)


def _until_served(server: _Process, bootstrap: str) -> None:
    """Return when the server answers a request for metadata; asks as often as it can."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    host, port = bootstrap.rsplit(":", 1)
    request = struct.pack(">hhih5si", 3, 1, 7, 5, b"ready", 0)
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(12)
            if len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0:
                return
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise server.failed(f"{bootstrap} does not serve")
        time.sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
