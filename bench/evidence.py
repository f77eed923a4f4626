"""What is left to look at when a load was not carried out: the server's log, its metrics, its threads, and what the
load generator said.

Keeps: metrics and stacks are taken while the load still stands still, if it does: its connections end with it. A part
that cannot be had is a line that says why, and hides no failure.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.loadgen import LoadFailed
from bench.servers import Penstock

LATE_S: Final = 40.0
"""No load of half a second takes so long: it is over when librdkafka has waited for an answer for a minute."""
LOOK_S_MAX: Final = 20.0


@contextlib.contextmanager
def kept(server: Penstock, whose: str, directory: Path, late_s: float = LATE_S) -> Iterator[None]:
    """Run a load; where it fails, say at whose server, and keep what there is about it in the directory."""
    late = threading.Timer(late_s, _look, (server, directory / "late"))
    late.daemon = True
    late.start()
    try:
        yield
    except LoadFailed as failed:
        _look(server, directory / "failed")
        (directory / "load.txt").write_text(f"{failed}\n{failed.said}")
        shutil.copy(server.directory / "output.log", directory)
        raise LoadFailed(f"{whose}: {failed}. See {directory}", failed.said) from failed
    finally:
        late.cancel()


def _look(server: Penstock, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "metrics.txt").write_text(_metrics(server))
    (directory / "stacks.txt").write_text(_stacks(server.process.pid))


def _metrics(server: Penstock) -> str:
    try:
        with urllib.request.urlopen(f"http://{server.ready['http']}/metrics", timeout=LOOK_S_MAX) as answer:
            return str(answer.read(), "utf-8")
    except OSError as error:
        return f"no metrics: {error}\n"


def _stacks(pid: int) -> str:
    command = [str(Path(sys.executable).parent / "py-spy"), "dump", "--pid", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOOK_S_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stacks: {error}\n"
    return done.stdout + done.stderr
