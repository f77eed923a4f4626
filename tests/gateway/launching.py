"""The `penstock` command as a process, with whatever arguments a test wants."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

PENSTOCK: Final = str(Path(sys.executable).parent / "penstock")
ROOT: Final = Path(__file__).resolve().parents[2]
WATCHED: Final = (sys.executable, "-m", "tests.gateway.turns")
"""`penstock`, with its loop's longest turn in its output."""
READY_WITHIN_S: Final = 90.0
END_WITHIN_S: Final = 90.0


class Process(Protocol):
    """What tests need of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


Start = Callable[[Sequence[str], int, int, Path, Mapping[str, str]], Process]
"""Starts a command: descriptors of its output and of its errors, directory, environment."""


def started(command: Sequence[str], output: int, errors: int, directory: Path, environ: Mapping[str, str]) -> Process:
    """A process as users start it."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=directory, env=dict(environ)
    )


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [PENSTOCK, *arguments],
        capture_output=True,
        text=True,
        timeout=END_WITHIN_S,
        check=False,
        env={**os.environ, **(environ or {})},
    )


class Running:
    """A started `penstock serve`; the files `out` and `err` hold its output."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        command: Sequence[str] = (PENSTOCK,),
        environ: Mapping[str, str] | None = None,
        start: Start = started,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.out, self.err = directory / "out", directory / "err"
        self._ready_file = directory / "ready.json"
        self._ready_file.unlink(missing_ok=True)
        whole = [*command, "serve", "--ready-file", str(self._ready_file)]
        whole += ["--data-dir", str(directory / "data"), *arguments]
        self.started_s = time.monotonic()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            around = {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})}
            self.process = start(whole, out.fileno(), err.fileno(), directory, around)

    def ready(self) -> dict[str, Any]:
        """The content of the ready file, once it is there."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._ready_file.exists():
            code = self.process.poll()
            assert code is None, f"ended with {code}\n{self.err.read_text()}"
            assert time.monotonic() < deadline, f"not ready\n{self.err.read_text()}"
            time.sleep(0.002)
        state: dict[str, Any] = json.loads(self._ready_file.read_text())
        return state

    def await_line(self, text: str) -> None:
        """Return when a log line has this text."""
        deadline = time.monotonic() + END_WITHIN_S
        while text not in self.err.read_text():
            assert time.monotonic() < deadline, f"no {text!r}\n{self.err.read_text()}"
            time.sleep(0.002)

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(END_WITHIN_S)

    def terminate(self) -> int:
        self.process.terminate()
        return self.end()


@contextlib.contextmanager
def serving(
    directory: Path, *arguments: str, command: Sequence[str] = (PENSTOCK,), start: Start = started
) -> Iterator[Running]:
    """A gateway on free ports of 127.0.0.1; killed in the end, if the test has not ended it."""
    if "--listen" not in arguments:
        arguments = ("--listen", "127.0.0.1:0", *arguments)
    if "--http" not in arguments:
        arguments = ("--http", "off", *arguments)
    running = Running(directory, *arguments, command=command, start=start)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody has, below those that the system gives to clients."""
    among_tests = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # each has a range of its own
    for first in range(20_000 + 2_000 * among_tests + os.getpid() % 1_000, 32_000, 16):
        with contextlib.ExitStack() as bound:
            try:
                for port in range(first, first + count):
                    bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError(f"no {count} free ports in a row")


def longest_turn_ms(watched: Running) -> float:
    """The longest turn of a WATCHED gateway since clients are served, in CPU time of its loop."""
    return float(watched.out.read_text().split()[-1])


def http_get(address: str, path: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
