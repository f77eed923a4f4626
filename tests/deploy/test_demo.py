"""`make demo`, in less than its minute: data goes to MinIO and comes back, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 10
END_S_MAX: Final = 150

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * END_S_MAX)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """The directory in which the demo makes its own; afterwards neither that nor a process of it is there."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert [
        one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])
    ] == []


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.demo", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def numbers(line: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (word.partition("=") for word in line.split())}


@pytest.mark.parametrize("more", [(), ("--workers", "2", "--secured")], ids=["one", "workers-secured"])
def test_to_the_end(place: Path, more: tuple[str, ...]) -> None:
    """Records leave the log, objects are in the bucket, and the consumer from the beginning is served from there.

    Two workers do it with TLS, passwords and ACLs.
    """
    demo = start(place, "--seconds", str(SECONDS), *more, "--exit")
    try:
        printed, _ = demo.communicate(timeout=END_S_MAX)
    finally:
        demo.terminate()
    assert demo.returncode == 0, printed

    shown = [numbers(line) for line in printed.splitlines() if line.startswith("seconds=")]
    last = shown[-1]
    assert last["records"] == last["produced"] > 0
    assert last["only_in_tier2"] > 0
    assert last["objects"] > 0
    assert last["read_chunk"] > 0
    assert last["rounds"] > 0


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(place: Path, ending: signal.Signals) -> None:
    """Ctrl-C in the middle ends everything."""
    demo = start(place)
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        if line.startswith("seconds="):
            break
    demo.send_signal(ending)
    try:
        rest, _ = demo.communicate(timeout=END_S_MAX)
    finally:
        demo.kill()

    assert "seconds=" in printed, printed
    assert demo.returncode == 0, printed + rest
