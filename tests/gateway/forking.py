"""`penstock` as forks of a process that has imported its modules: gateways, and commands that run to their end.

Where a test starts one process after the other, most of its time would go into Python's imports. A fork does all that
`penstock` does from its command line on. What the imports themselves do is tested by processes that begin as users'
(`tests.gateway.launching`): those of `tests/gateway/cli/test_cli.py` and `test_startup.py` among them. In a soak each
process begins so.

The process that forks is this module's `main`. It takes messages over a socket: JSON, beside it the descriptors 0 to 2
of the fork; it answers with JSON. It ends when the other end of the socket is closed.

**Invariant**: a fork has arguments, environment, directory and descriptors 0 to 2 as they are given, and no others.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.faults.settings import SOAK
from tests.gateway import launching
from tests.gateway.launching import END_WITHIN_S, PENSTOCK, Process, Running, started

MESSAGE_BYTES_MAX: Final = 128 << 10
DESCRIPTORS: Final = 3
DESCRIPTORS_MAX: Final = 1_024
PACKAGES: Final = ("tier2", "core", "gateway")
"""All of their modules are imported once."""
LATER: Final = (
    *("uvicorn", "starlette.applications", "prometheus_client", "minio", "confluent_kafka.admin", "rich.console"),
    *("rich.table", "rich.text", "rich.progress"),
)
"""Of the libraries, what functions import and not modules."""
AT_IMPORT: Final = ("PYTHON_WALKS", "PYTHONHASHSEED", "LD_", "MALLOC_", "OPENSSL_", "LANG", "LC_")
"""Beginnings of the names of what has its effect while a process begins: a fork has it from its parent."""


class Forked:
    """One fork: what tests need of `subprocess.Popen`."""

    def __init__(self, parent: Parent, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._parent = parent
        self._ends = os.pidfd_open(pid)
        self._one_at_a_time = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        code = self._code(None if timeout is None else timeout * 1_000)
        if code is None:
            raise subprocess.TimeoutExpired("penstock", timeout or 0.0)
        return code

    def _code(self, within_ms: float | None) -> int | None:
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._ends, select.POLLIN)
            if ended.poll(within_ms):
                self._reap()
        return self.returncode

    def _reap(self) -> None:
        with self._one_at_a_time:  # several may wait for it
            if self.returncode is None:
                self.returncode = int(self._parent.ask({"reap": self.pid})["code"])

    def send_signal(self, number: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._ends)


class Parent:
    """The process that forks, and the way to it."""

    def __init__(self) -> None:
        self.fixed = fixed_of(os.environ)
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.gateway.forking", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # no terminal: what forks print is buffered as it is into files and pipes
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
            )

    def start(
        self, arguments: Sequence[str], descriptors: Sequence[int], directory: Path, environ: Mapping[str, str]
    ) -> Forked:
        """A process with these arguments, the first of which is its name, and these descriptors 0 to 2."""
        assert len(descriptors) == DESCRIPTORS, descriptors
        assert fixed_of(environ) == self.fixed, "a process of its own is needed where this has another value"
        wanted = {"arguments": list(arguments), "directory": str(directory), "environ": dict(environ)}
        return Forked(self, int(self.ask(wanted, *descriptors)["pid"]))

    def ask(self, what: Mapping[str, Any], *descriptors: int) -> dict[str, Any]:
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        with self._one_at_a_time:
            self._line.sendmsg([json.dumps(what).encode()], beside)
            answer = self._line.recv(MESSAGE_BYTES_MAX)
        assert answer, "the process that forks has ended"
        found: dict[str, Any] = json.loads(answer)
        return found


@cache
def parent() -> Parent:
    """That of this process."""
    return Parent()


def fixed_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What a fork cannot have otherwise than its parent."""
    return {name: value for name, value in environ.items() if name.startswith(AT_IMPORT)}


# What tests call


def forked(command: Sequence[str], output: int, errors: int, directory: Path, environ: Mapping[str, str]) -> Process:
    """As `launching.started`."""
    if SOAK:
        return started(command, output, errors, directory, environ)
    with open(os.devnull, "rb") as nothing:
        return parent().start(command, (nothing.fileno(), output, errors), directory, environ)


@contextlib.contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[Running]:
    """As `launching.serving`."""
    with launching.serving(directory, *arguments, start=forked) as running:
        yield running


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """As `launching.run`."""
    done = finished(arguments, {**os.environ, **(environ or {})})
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def finished(
    arguments: Sequence[str], environ: Mapping[str, str], given: bytes = b"", within_s: float = END_WITHIN_S
) -> subprocess.CompletedProcess[bytes]:
    """The command's end; its standard input is `given`. Raises subprocess.TimeoutExpired."""
    command = [PENSTOCK, *arguments]
    if SOAK:
        return subprocess.run(
            command, input=given, capture_output=True, timeout=within_s, check=False, env=dict(environ)
        )
    (read_in, write_in), (read_out, write_out), (read_err, write_err) = (os.pipe() for _ in range(DESCRIPTORS))
    try:
        process = parent().start(command, (read_in, write_out, write_err), Path.cwd(), environ)
    finally:
        for theirs in (read_in, write_out, write_err):
            os.close(theirs)
    with ThreadPoolExecutor(DESCRIPTORS) as helpers:
        said = [helpers.submit(_all_of, end) for end in (read_out, read_err)]
        helpers.submit(_give, write_in, given)
        try:
            code = process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, code, *(one.result() for one in said))


def _all_of(end: int) -> bytes:
    with open(end, "rb") as opened:
        return opened.read()


def _give(end: int, given: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), open(end, "wb") as opened:  # it may end before it has read all
        opened.write(given)


# The process that forks


def main() -> None:
    """Fork until the line is closed; each fork returns from here as the process that it is."""
    import_all()
    from gateway.cli.app import main as penstock

    assert len(os.listdir("/proc/self/task")) == 1, "a fork would miss the other threads"
    gc.collect()
    gc.freeze()
    line = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, descriptors, _, _ = socket.recv_fds(line, MESSAGE_BYTES_MAX, DESCRIPTORS)
        if not data:
            return
        asked = json.loads(data)
        if "reap" in asked:
            _, status = os.waitpid(asked["reap"], 0)
            line.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
            continue
        pid = os.fork()
        if not pid:
            line.close()
            become(asked, descriptors)
            penstock()
            return
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(json.dumps({"pid": pid}).encode())


def import_all() -> None:
    """All modules of Penstock, and what they import later."""
    sys.modules["hypothesis"] = None  # type: ignore[assignment]  # as the command has it
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith(".__main__"):
                importlib.import_module(found.name)
    for name in LATER:
        importlib.import_module(name)


def become(asked: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Be the process that is asked for."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(DESCRIPTORS, DESCRIPTORS_MAX)
    os.chdir(asked["directory"])
    os.environ.clear()
    os.environ.update(asked["environ"])
    time.tzset()
    sys.argv = asked["arguments"]


if __name__ == "__main__":
    main()
