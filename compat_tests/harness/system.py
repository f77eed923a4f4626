"""The server under test, as a process of its own: Penstock or Apache Kafka, started, restarted and killed alike.

Keeps: a restart serves the same address and the same data; whoever starts a process ends it, by its pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from compat_tests.harness.waiting import until
from tests.gateway.launching import free_ports

HERE: Final = Path(__file__).resolve().parent.parent
JARS: Final = HERE / "java" / "target" / "lib"
CLASSES: Final = HERE / "java" / "target" / "classes"
JVM_FLAGS: Final = ("-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:+UseSerialGC")

DEFAULT_PARTITIONS: Final = 16
SETTINGS: Final = {
    "num.partitions": str(DEFAULT_PARTITIONS),
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "500",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
}
"""The settings that scenarios need of either server, by Kafka's own names."""

READY_WITHIN_S: Final = 60.0


def brokers_known_at(address: str) -> int:
    """Ask for Metadata (v1, no topics) over a bare socket: how many brokers does the server name?"""
    host, port = address.rsplit(":", 1)
    request = struct.pack(">hhih5si", 3, 1, 7, 5, b"ready", 0)
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(12)
    except OSError:
        return 0
    return struct.unpack(">iii", answer)[2] if len(answer) == 12 else 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class System(ABC):
    """One server process with its data directory and its log."""

    name: str
    address: str
    stop_within_s: float = 15.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that serves `address` from this directory's data."""

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            until(self._is_ready, within_s=READY_WITHIN_S, what=f"{self.name} serves")
        except AssertionError:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        self._assert_running()
        return brokers_known_at(self.address) > 0

    def _assert_running(self) -> None:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.log_tail()}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def stop(self) -> None:
        """End it the polite way; a server that needs more than that is a failure."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        code = self._wait_for_end()
        assert code in (0, 128 + signal.SIGTERM), f"exit {code} on SIGTERM:\n{self.log_tail()}"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._wait_for_end()

    def _wait_for_end(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(self.stop_within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self.name} did not stop in {self.stop_within_s:g} s:\n{self.log_tail()}") from None
        finally:
            self._process = None

    def log_tail(self, lines: int = 60) -> str:
        if not self.log_path.exists():
            return "(no log)"
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])


class Penstock(System):
    name = "penstock"

    def __init__(
        self,
        directory: Path,
        settings: dict[str, str] | None = None,
        *,
        launcher: Sequence[str] = (str(Path(sys.executable).parent / "penstock"),),
    ) -> None:
        super().__init__(directory)
        self.address = ""
        self.http = ""
        self._launcher = launcher
        self._settings = SETTINGS | (settings or {})
        self.workers = int(self._settings.get("workers", "1"))
        if self.workers > 1:
            self.address = f"127.0.0.1:{free_ports(self.workers)}"
        self._ready_file = directory / "ready.json"

    def command(self) -> list[str]:
        settings = [f"--set={key}={value}" for key, value in self._settings.items()]
        return [
            *self._launcher,
            "serve",
            f"--listen={self.address or '127.0.0.1:0'}",
            "--http=127.0.0.1:0",
            f"--data-dir={self.directory / 'data'}",
            f"--ready-file={self._ready_file}",
            *settings,
        ]

    def start(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        super().start()

    def _is_ready(self) -> bool:
        self._assert_running()
        if not self._ready_file.exists():
            return False
        ready = json.loads(self._ready_file.read_text())
        self.address, self.http = ready["kafka"][0], ready["http"]
        return super()._is_ready()

    def kill(self) -> None:
        """Workers end by themselves once their supervisor is gone."""
        workers = [psutil.Process(pid) for pid in self.worker_pids()] if self.workers > 1 else []
        super().kill()
        _, left = psutil.wait_procs(workers, self.stop_within_s)
        assert not left, f"workers outlive their supervisor: {left}"

    def worker_pids(self) -> list[int]:
        """The processes that serve clients: the workers of several, or the one that there is."""
        if self.workers == 1:
            return [self.pid]
        found = []
        for child in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended since
                if "worker" in child.cmdline():
                    found.append(child.pid)
        return found

    def serves_whole(self) -> bool:
        """Whether all workers serve."""
        self._assert_running()
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # 503 among them
            return False


class Kafka(System):
    """Apache Kafka in one process (KRaft, broker and controller), from the jars of java/pom.xml."""

    name = "kafka"
    stop_within_s = 120.0  # it takes its time after a thousand connections

    def __init__(
        self, directory: Path, settings: dict[str, str] | None = None, *, features: Sequence[str] = ()
    ) -> None:
        super().__init__(directory)
        self.address = f"127.0.0.1:{free_port()}"
        self._settings = SETTINGS | (settings or {})
        self._features = [f"--feature={feature}" for feature in features]
        self._properties = directory / "server.properties"
        self._properties.write_text(self._configuration(f"127.0.0.1:{free_port()}"))
        self._format()

    def _configuration(self, controller: str) -> str:
        settings = self._settings | {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self.directory / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())

    def _format(self) -> None:
        subprocess.run(
            [
                *java_command("kafka.tools.StorageTool"),
                *("format", "-t", "cGVuc3RvY2stY29tcGF0MQ", "-c", str(self._properties), *self._features),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def command(self) -> list[str]:
        return [*java_command("kafka.Kafka", "-Xmx1g"), str(self._properties)]


class Running(System):
    """A server that somebody else started: scenarios that need to restart it are not for it."""

    name = "running"

    def __init__(self, directory: Path, address: str) -> None:
        super().__init__(directory)
        self.address = address

    def command(self) -> list[str]:
        raise AssertionError("this server was started elsewhere")

    def start(self) -> None:
        until(
            lambda: brokers_known_at(self.address) > 0,
            within_s=READY_WITHIN_S,
            what=f"{self.address} serves",
        )


def compile_runner() -> None:
    """Compile the Java runner where its sources are newer than its classes; others that run beside wait for it."""
    sources = sorted((HERE / "java" / "src").rglob("*.java"))
    stamp = CLASSES / "penstock" / "compat" / "Agent.class"
    CLASSES.parent.mkdir(parents=True, exist_ok=True)
    with (CLASSES.parent / "compiling.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            return
        subprocess.run(
            ["javac", "--release", "17", "-cp", str(JARS / "*"), "-d", str(CLASSES), *map(str, sources)],
            check=True,
            timeout=120,
        )


def java_command(main: str, *flags: str) -> list[str]:
    class_path = f"{CLASSES}{os.pathsep}{JARS / '*'}"
    return ["java", *JVM_FLAGS, *flags, "-cp", class_path, main]
