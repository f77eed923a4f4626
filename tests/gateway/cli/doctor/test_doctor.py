"""`penstock doctor` as a process: before the first start, beside a running gateway, and where something is wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.forking import run, serving
from tests.gateway.launching import free_port

pytestmark = pytest.mark.slow


def findings(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The findings by check."""
    done = run("doctor", "--json", *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["healthy"] is (code == 0)
    return {one["check"]: one for one in told["findings"]}


def test_before_the_first_start(tmp_path: Path) -> None:
    """It needs no gateway, and makes no data directory."""
    data = tmp_path / "data"
    found = findings("--data-dir", str(data), "--listen", "127.0.0.1:0", "--http", "off")

    assert found[f"directory {data}"]["what"] == "is not there yet, and can be made"
    assert found["advertised PLAINTEXT"]["level"] == "ok"
    assert not data.exists()


def test_beside_a_gateway(tmp_path: Path) -> None:
    """A running gateway's ports and lock are its own, its addresses are dialled, its storage has an owner."""
    flags = ("--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{free_port()}")
    with serving(tmp_path, *flags) as gateway:
        pid = gateway.ready()["pid"]
        found = findings("--data-dir", str(tmp_path / "data"), *flags)

        assert gateway.terminate() == 0
    assert f"pid {pid} " in found["port PLAINTEXT"]["what"]
    assert f"pid {pid} " in found["port HTTP"]["what"]
    assert "clients can connect" in found["advertised PLAINTEXT"]["what"]
    assert f"locked by process {pid}" in found[f"directory {tmp_path / 'data'}"]["what"]
    assert f"owned by process {pid}" in found["long-term storage owner"]["what"]
    assert found["long-term storage conditional put"]["level"] == "ok"


def test_advertised_to_nowhere(tmp_path: Path) -> None:
    """An address that clients get from Metadata, and where nobody listens, is a failure while the gateway runs."""
    flags = ("--listen", f"127.0.0.1:{free_port()}=127.0.0.1:{free_port()}")
    with serving(tmp_path, *flags) as gateway:
        gateway.ready()
        found = findings("--data-dir", str(tmp_path / "data"), *flags, "--http", "off", code=1)

    assert "cannot be dialled" in found["advertised PLAINTEXT"]["what"]
    assert "--listen" in found["advertised PLAINTEXT"]["advice"]


def test_taken_port(tmp_path: Path) -> None:
    """Another process's port is a failure, and the process is named."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        flags = ("--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--http", "off")
        found = findings("--data-dir", str(tmp_path / "data"), *flags, code=1)

    assert found["port PLAINTEXT"]["level"] == "failure"
    assert "is taken by pid " in found["port PLAINTEXT"]["what"]


def test_configuration_that_does_not_load() -> None:
    """A wrong configuration is a finding like others; the exit code is that of `serve`."""
    assert "nearest known key" in findings("--set", "num.partition=3", code=2)["configuration"]["what"]


def test_for_people(tmp_path: Path) -> None:
    """A finding's remedy stands below it, and a count at the end."""
    tmp_path.joinpath("data").mkdir(mode=0o755)
    done = run("doctor", "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--http", "off")

    assert done.returncode == 0
    lines = done.stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("warning  rights"))
    assert lines[at + 1].split("-> ")[1] == f"chmod 700 {tmp_path / 'data'}"
    assert "0 failures" in lines[-1]
