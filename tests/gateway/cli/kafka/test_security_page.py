"""docs/operating/security.md: from nothing to SASL_SSL with ACLs in ten commands, as the page tells them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.gateway.launching import PENSTOCK, ROOT, free_port

pytestmark = pytest.mark.slow

PAGE: Final = (ROOT / "docs" / "operating" / "security.md").read_text()
COMMANDS_MAX: Final = 10
START_S: Final = 60
COMMAND_S: Final = 60


def section() -> str:
    return PAGE.partition("## From nothing to SASL_SSL with ACLs")[2].partition("\n## ")[0]


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", section(), re.M | re.S)
    return [line for block in blocks for line in block.splitlines()]


class Page:
    """The page's commands in a directory, with another port than the page's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = str(free_port())
        path = f"{Path(PENSTOCK).parent}:{os.environ['PATH']}"
        self._environ = {**os.environ, "XDG_CONFIG_HOME": str(directory / "home"), "PATH": path}
        for name, content in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", section(), re.M | re.S):
            (directory / name).write_text(content.replace("9093", self._port))

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command.replace("9093", self._port)],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    @contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """The gateway that this command starts, until it is stopped."""
        ready, output = self.directory / "ready", self.directory / "serve.log"
        with output.open("wb") as log:
            words = [*shlex.split(command), "--ready-file", str(ready)]
            process = subprocess.Popen(words, cwd=self.directory, env=self._environ, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not ready.exists():
                assert process.poll() is None, output.read_text()
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.05)
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_S) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_ten_commands() -> None:
    """The way takes ten commands; what alice does then is no part of it."""
    assert commands().index("echo hello | penstock produce orders") - 1 <= COMMANDS_MAX


def test_the_page(tmp_path: Path) -> None:
    """Every command succeeds, alice reads what she wrote, and all else is refused to her and to strangers."""
    page = Page(tmp_path)
    at = next(n for n, command in enumerate(commands()) if command.startswith("penstock serve"))
    before, serve, behind = commands()[:at], commands()[at], commands()[at + 1 :]
    for command in before:
        assert (done := page.run(command)).returncode == 0, (command, done.stderr)
    with page.serving(serve):
        for command in behind:
            assert (done := page.run(command)).returncode == 0, (command, done.stderr)
        assert done.stdout == "hello\n"

        refused = page.run("penstock topics create payments")
        assert refused.returncode != 0
        assert "authoriz" in refused.stderr.lower()
        assert page.run("penstock topics list --json").stdout.count("payments") == 0
        wrong = "echo wrong > wrong.password; penstock topics list --user alice --password-file wrong.password"
        told = page.run(f"{wrong} --ca ca.pem --bootstrap localhost:9093")
        assert told.returncode != 0
        assert "authentication" in told.stderr.lower()
        assert page.run("penstock topics list --bootstrap localhost:9093 --security-protocol PLAINTEXT").returncode != 0
    assert "can be read by every user" not in (tmp_path / "serve.log").read_text()
    private = ("ca.key", "server.key", "server.pem", "admin.password", "alice.password")
    assert [name for name in private if (tmp_path / name).stat().st_mode & 0o077] == []
    secrets = [(tmp_path / f"{user}.password").read_text().strip() for user in ("admin", "alice")]
    assert not any(secret in (tmp_path / "serve.log").read_text() for secret in secrets)
