"""Pravega standalone, and the load of its own client.

Its log is in memory: it syncs nothing, and acknowledged records are lost when the process ends.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

from bench import jars
from bench.loadgen import Load, LoadFailed
from bench.servers import READY_SECONDS_MAX, StartFailed, _Process, accepts

CONTROLLER_PORT: Final = 9090
SETTINGS: Final = {
    "singlenode.zk.port": "2181",
    "singlenode.controller.rest.enable": "false",
    "pravegaservice.rest.listener.enable": "false",
    "pravegaservice.dataLog.impl.name": "INMEMORY",
    "pravegaservice.cache.size.max": str(4 << 30),
}
# With 1 GiB, as Kafka has, it dies: both its log and its long-term storage are in the heap here.
JVM: Final = ("-server", "-Xms1g", "-Xmx6g", "-XX:+UseG1GC", "-XX:MaxDirectMemorySize=5g")
CLIENT_JVM: Final = ("-server", "-Xmx1g", "-XX:+UseG1GC")
ANSWER_SECONDS_MAX: Final = 25


class Pravega(_Process):
    """Controller, segment store and ZooKeeper in one process, and the process of the client beside it."""

    name = "pravega"

    def __init__(self, directory: Path) -> None:
        for port in (CONTROLLER_PORT, int(SETTINGS["singlenode.zk.port"])):
            if accepts(port):
                raise StartFailed(f"port {port} is taken, and Pravega standalone has it for itself")
        (directory / "config").mkdir(parents=True, exist_ok=True)
        properties = "".join(f"{key}={value}\n" for key, value in SETTINGS.items())
        (directory / "config" / "standalone-config.properties").write_text(properties)
        temporary = directory / "tmp"
        temporary.mkdir(exist_ok=True)
        self._flags = [f"-Dlogback.configurationFile={jars.PRAVEGA / 'logback.xml'}", f"-Djava.io.tmpdir={temporary}"]
        self._class_path = jars.pravega_class_path()
        super().__init__(self._java(JVM, "io.pravega.local.LocalPravegaEmulator"), directory, {})
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not accepts(CONTROLLER_PORT):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed("Pravega does not serve")
            time.sleep(0.01)
        self.ready_seconds = time.perf_counter() - self.started_at
        self._client = _Client(self._java(CLIENT_JVM, "penstock.bench.PravegaLoad"), directory)

    def _java(self, flags: tuple[str, ...], main: str) -> list[str]:
        return ["java", *flags, *self._flags, "-cp", self._class_path, main]

    def create_topic(self, stream: str, segments: int) -> None:
        self._client.ask(f"create stream={stream} segments={segments}")

    def delete_topic(self, stream: str) -> None:
        self._client.ask(f"delete stream={stream}")

    def write(self, stream: str, **options: object) -> Load:
        return self._load("write", stream, options)

    def read(self, stream: str, **options: object) -> Load:
        return self._load("read", stream, options)

    def _load(self, verb: str, stream: str, options: dict[str, object]) -> Load:
        words = [f"{name}={value}" for name, value in options.items()]
        return Load(**self._client.ask(" ".join([verb, f"stream={stream}", *words])))

    def stop(self) -> None:
        """Kill it: there is nothing to keep, and its own stop takes half a minute."""
        self._client.stop()
        self.kill()


class _Client:
    """The load program: a line for each load, a line for its outcome."""

    def __init__(self, command: list[str], directory: Path) -> None:
        self._errors = (directory / "client.log").open("ab")
        self._process = subprocess.Popen(
            [*command, f"tcp://127.0.0.1:{CONTROLLER_PORT}"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._answer("start")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)

    def ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer(line)

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            outcome: dict[str, Any] = json.loads(self._answers.get(timeout=ANSWER_SECONDS_MAX))
        except queue.Empty:
            raise LoadFailed(f"pravega: {line}: no answer within {ANSWER_SECONDS_MAX} s") from None
        if "failure" in outcome:
            raise LoadFailed(f"pravega: {line}: {outcome['failure']}")
        return outcome

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()
