"""Files of another user: missing rights are no damage, and no data is lost."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, encode_batch
from tests.gateway.launching import END_WITHIN_S, PENSTOCK, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")]

NOBODY: Final = 65534
LIMITED: Final = 20


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory that belongs to nobody, where nobody may go: pytest's own are for its user alone."""
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        directory.chmod(0o755)
        with serving(directory, "--set", "chunk.age.ms=100") as running:
            with Connection(running.ready()["kafka"][0]) as client:
                client.create_topic("t", 1)
                client.produce("t", 0, encode_batch([b"x"]))
            assert running.terminate() == 0
        for path in (directory / "data", *(directory / "data").rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        if as_nobody("version", directory=directory).returncode:
            pytest.skip("nobody may not run this installation")
        yield directory / "data"


def as_nobody(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", PENSTOCK, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=END_WITHIN_S,
        cwd=directory,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    "name",
    [
        "penstock.json",
        "penstock.lock",
        "tier2.owner",
        "tier2",
        "tier2/identity.json",
        "store",
        "store/lock",
        "store/container-0/log",
        "store/container-0/log/*.log",
        "store/container-0/metadata",
        "store/container-0/metadata/CURRENT",
        "store/container-0/metadata/*.sst",
    ],
)
def test_one_file_of_root(data: Path, name: str) -> None:
    """The start ends with code 2, and names the file, its owner and who runs."""
    path = next(data.glob(name))
    mode = path.stat().st_mode
    os.chown(path, 0, 0)
    path.chmod(0o700)
    try:
        ended = as_nobody("serve", "--listen", "127.0.0.1:0", "--http", "off", "--data-dir", str(data), directory=data)
    finally:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)

    assert ended.returncode == 2, ended.stderr
    assert f"{path}" in ended.stderr
    assert "user root" in ended.stderr
    assert "Permission denied" in ended.stderr
    for wrong in ("backup", "lost", "Traceback", "disk"):
        assert wrong not in ended.stderr


def test_other_commands(data: Path) -> None:
    """Commands that read the directory give the same message."""
    path = next(data.glob("store/container-0/log/*.log"))
    os.chown(path, 0, 0)
    path.chmod(0o600)
    try:
        ended = [as_nobody("tier2", what, "--data-dir", str(data), directory=data) for what in ("ls", "verify")]
    finally:
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o644)

    assert [(each.returncode, "Permission denied" in each.stderr) for each in ended] == [(2, True)] * 2


def test_too_few_descriptors(tmp_path: Path) -> None:
    """A start without descriptors says so, and not that the disk is at fault."""
    command = ["prlimit", f"--nofile={LIMITED}", PENSTOCK, "serve", "--listen", "127.0.0.1:0", "--http", "off"]
    ended = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        timeout=END_WITHIN_S,
    )

    assert (ended.returncode, "ulimit -n" in ended.stderr) == (2, True), ended.stderr
