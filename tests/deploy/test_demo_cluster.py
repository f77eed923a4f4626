"""`make demo-cluster`, in less than its minute: a node is killed and comes back, nothing is missed, nothing stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.gateway.launching import http_get, run

REPOSITORY: Final = Path(__file__).resolve().parents[2]
SECONDS: Final = 4
END_S_MAX: Final = 120

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
        [sys.executable, "-m", "deploy.demo.cluster", "--seconds", str(SECONDS), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def numbers(line: str) -> dict[str, int]:
    return {name: int(value) for name, _, value in (word.partition("=") for word in line.split())}


def test_to_the_end(place: Path) -> None:
    """The killed node leads nothing, the others go on, it gets partitions again, and the consumer misses nothing.

    With TLS, passwords and ACLs, of which no node may forget anything: without them all works by less.
    """
    demo = start(place, "--secured")
    try:
        printed, _ = demo.communicate(timeout=END_S_MAX)
    finally:
        demo.terminate()
    assert demo.returncode == 0, printed

    shown = [numbers(line) for line in printed.splitlines() if line.startswith("seconds=")]
    names = ("node_1", "node_2", "node_3")
    assert any(-1 in [look[name] for name in names] for look in shown)
    last = shown[-1]
    assert min(last[name] for name in names) > 0
    assert last["missed"] == 0
    assert last["read"] == last["acknowledged"] > 0
    assert "was killed" in printed
    assert "(SASL_SSL)" in printed


def test_interrupted(place: Path) -> None:
    """What it names shows all three nodes meanwhile; Ctrl-C in the middle ends everything."""
    demo = start(place)
    assert demo.stdout is not None
    printed = ""
    for line in demo.stdout:
        printed += line
        if line.startswith("seconds="):
            break
    consoles = re.findall(r"http://([\d.:]+)/", printed)
    told = [json.loads(http_get(address, "/api/v1/nodes")[1]) for address in consoles]
    status = run("cluster", "status", "--json", "--cluster", re.findall(r"etcd://\S+", printed)[0])
    demo.send_signal(signal.SIGINT)
    try:
        rest, _ = demo.communicate(timeout=END_S_MAX)
    finally:
        demo.kill()

    assert "seconds=" in printed, printed
    assert [len(one["nodes"]) for one in told] == [3, 3, 3]
    shown = json.loads(status.stdout)
    assert len(shown["ended"]) <= 1
    assert sorted(one["id"] for one in [*shown["nodes"], *shown["ended"]]) == [1, 2, 3]  # it kills one itself
    assert demo.returncode == 0, printed + rest
