"""The servers of the demo, as processes of their own.

Keeps: a server is in its own process group, so that Ctrl-C reaches the demo only; the demo ends its servers, by process
id, newest first.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PENSTOCK: Final = str(Path(sys.executable).parent / "penstock")
IMAGE: Final = "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
"""The image that `deploy/compose/minio.yaml` names, too."""
BUCKET: Final = "penstock-demo"
READY_S_MAX: Final = 60.0
PULL_S_MAX: Final = 600.0
STOP_S_MAX: Final = 20.0
POLL_S: Final = 0.05
PORT_TRIES: Final = 20


class CannotStart(Exception):
    """The demo cannot go on; the message has the reason and a remedy."""


def port_near(preferred: int, count: int = 1) -> int:
    """The port, or another one if it is taken; with a count, the first of as many in a row."""
    for first in (preferred, *[0] * PORT_TRIES):
        with contextlib.ExitStack() as probes:
            try:
                port = _bound(probes, first)
                for further in range(1, count):
                    _bound(probes, port + further)
            except (OSError, OverflowError):  # one of them is taken, or beyond the last port
                continue
            return port
    raise CannotStart("there is no free port on 127.0.0.1")


def _bound(probes: contextlib.ExitStack, port: int) -> int:
    probe = probes.enter_context(socket.socket())
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", port))
    return int(probe.getsockname()[1])


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Delay Ctrl-C until after this block, so that no process is started and then forgotten."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda *_: caught.append(1)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


class Server:
    """One process, its output in a file; it is stopped when `ends` is closed."""

    def __init__(
        self,
        ends: contextlib.ExitStack,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        stop: Sequence[str] = (),
    ) -> None:
        self.name, self._log, self._stop = name, log, stop
        with undisturbed(), log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )
            ends.callback(self.stop)

    def await_url(self, url: str, context: ssl.SSLContext | None = None) -> None:
        """Return when the server answers `url` with 200. Raises CannotStart."""
        deadline = time.monotonic() + READY_S_MAX
        while True:
            self.check()
            try:
                with urllib.request.urlopen(url, timeout=2, context=context):
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise CannotStart(f"{self.name} is not ready after {READY_S_MAX:.0f} s:\n{self.last_words()}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raises CannotStart when the server has ended."""
        if self._process.poll() is not None:
            raise CannotStart(f"{self.name} ended with {self._process.returncode}:\n{self.last_words()}")

    def await_ready_file(self, file: Path) -> dict[str, Any]:
        """What a Penstock tells in its ready file, once clients are served. Raises CannotStart."""
        deadline = time.monotonic() + READY_S_MAX
        while not file.exists():
            self.check()
            if time.monotonic() > deadline:
                raise CannotStart(f"{self.name} is not ready after {READY_S_MAX:.0f} s:\n{self.last_words()}")
            time.sleep(POLL_S)
        ready: dict[str, Any] = json.loads(file.read_text())
        return ready

    def kill(self) -> None:
        """As a power failure would."""
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        if self._stop:
            subprocess.run(self._stop, capture_output=True, timeout=2 * STOP_S_MAX, check=False)
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Minio(Server):
    """MinIO from PATH or built by `scripts/install-minio`; else in a container."""

    def __init__(self, ends: contextlib.ExitStack, directory: Path) -> None:
        port = port_near(9000)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.access_key, self.secret_key = "penstock-demo", secrets.token_hex(16)
        credentials = {"MINIO_ROOT_USER": self.access_key, "MINIO_ROOT_PASSWORD": self.secret_key}
        data = directory / "minio"
        data.mkdir()
        log = directory / "minio.log"
        program = _minio_program()
        if program is not None:
            command = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(data)]
            quiet = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "HOME": str(directory)}
            super().__init__(ends, "MinIO", command, log, credentials | quiet)
        else:
            engine = _container_engine()
            subprocess.run([engine, "pull", "--quiet", IMAGE], check=True, timeout=PULL_S_MAX)
            name = f"penstock-demo-{os.getpid()}"
            command = [engine, "run", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:9000"]
            command += ["--env", "MINIO_ROOT_USER", "--env", "MINIO_ROOT_PASSWORD", IMAGE, "server", "/data"]
            super().__init__(ends, "MinIO", command, log, credentials, stop=[engine, "stop", name])
        self.await_url(f"{self.endpoint}/minio/health/ready")


def _minio_program() -> str | None:
    """The program, found or built with progress on standard error; None if neither is possible."""
    script = REPOSITORY / "scripts" / "install-minio"
    found = subprocess.run([script, "--find"], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode and shutil.which("go"):
        found = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def _container_engine() -> str:
    engine = shutil.which("docker")
    if engine is None or subprocess.run([engine, "info"], capture_output=True, check=False).returncode:
        raise CannotStart(
            "The demo needs a MinIO server, and none is here. Install one of these: MinIO (https://min.io), Go 1.24 or "
            "later, with which the demo builds MinIO, or a Docker engine."
        )
    return engine
