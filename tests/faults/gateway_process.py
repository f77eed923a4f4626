"""The gateway as a process that tests start, hurt and start again on the same data.

Keeps: it listens on the same port after a restart, so that clients find it; no process outlives its test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from tests.faults.client import Connection
from tests.gateway.forking import forked
from tests.gateway.launching import Process, started

START_SECONDS_MAX: Final = 90.0  # it takes 1; a machine with other work on it may need more
END_SECONDS_MAX: Final = 60.0
POLL_S: Final = 0.005

# Everything happens early and often: files of 1 MiB, a checkpoint five times a second.
EAGER: Final[Mapping[str, object]] = {
    "log.file.bytes": 1 << 20,
    "checkpoint.interval.ms": 200,
    "checkpoint.bytes": 1 << 20,
    "log.retention.check.interval.ms": 200,
}


class Ended(Exception):
    """The process ended before it was ready."""

    def __init__(self, code: int, output: str) -> None:
        super().__init__(f"ended with {code} at start\n{output}")
        self.code, self.output = code, output


class Gateway:
    """One data directory and the processes that serve it, one after the other."""

    def __init__(self, directory: Path, settings: Mapping[str, object] = EAGER) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.data = directory / "data"
        self.settings = dict(settings)
        self.output = directory / "output.log"
        self._ready_file = directory / "ready.json"
        self._listen = "127.0.0.1:0"
        self.http = "off"
        self.process: Process | None = None
        self.forked = True  # from a process that has imported it already, where nothing else is asked for
        self.ready: dict[str, Any] = {}
        self.within: tuple[str, ...] = ()  # a command that runs the gateway, and becomes it
        self.arguments: tuple[str, ...] = ()  # further ones of `serve`
        self.starts = 0
        self.last_start_seconds = 1.0
        self._launched_at = 0.0

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def listen(self, address: str) -> None:
        """Listen there, instead of on a port that is free."""
        self._listen = address

    @property
    def address(self) -> str:
        return self._listen

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and return at once."""
        assert self.process is None, "it runs already"
        self._ready_file.unlink(missing_ok=True)
        command = [*self.within, str(Path(sys.executable).parent / "penstock"), "serve", "--http", self.http]
        command += ["--listen", self._listen, "--data-dir", str(self.data)]
        command += ["--ready-file", str(self._ready_file)]
        command += self.arguments
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        self.starts += 1
        self._launched_at = time.monotonic()
        with self.output.open("ab") as output:
            start = forked if self.forked and not self.within and not environment else started
            around = {**os.environ, **(environment or {})}
            self.process = start(command, output.fileno(), output.fileno(), self.directory, around)

    def await_ready(self, seconds_max: float = START_SECONDS_MAX) -> None:
        """Wait until clients are served. Raises Ended."""
        assert self.process is not None
        deadline = time.monotonic() + seconds_max
        while not self._ready_file.exists():
            code = self.process.poll()
            if code is not None:
                self.process = None
                raise Ended(code, self.last_output())
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"not ready in {seconds_max} s\n{self.last_output()}")
            time.sleep(POLL_S)
        self.last_start_seconds = time.monotonic() - self._launched_at
        self.ready = json.loads(self._ready_file.read_text())
        self._listen = self.ready["kafka"][0]

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it and wait until clients are served. Raises Ended."""
        self.launch(environment)
        self.await_ready()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL; the exit code, 0 when it did not run."""
        return self._end(signal.SIGKILL)

    def await_end(self, seconds_max: float = END_SECONDS_MAX) -> int:
        """Wait for it to end by itself; the exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds_max} s\n{self.last_output()}") from None
        self.process = None
        return code

    def _end(self, by: signal.Signals) -> int:
        if self.process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(by)
        return self.await_end()

    def connect(self) -> Connection:
        return Connection(self.address)

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)

    def last_output(self, lines: int = 30) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])
