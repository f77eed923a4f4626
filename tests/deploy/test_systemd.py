"""The unit of systemd: systemd accepts it, its hardening holds what the page says, and its command serves and stops.

Where systemd is not installed, a reader of its own format checks what names parts of Penstock.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from gateway.exits import ExitCode
from tests.gateway.launching import PENSTOCK, run, serving

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT: Final = FOLDER / "penstock.service"
USER: Final = FOLDER / "penstock.sysusers.conf"
INSTALLED: Final = "/opt/penstock/bin/penstock"
EXPOSURE_MAX: Final = 20  # tenths
COMMAND_S_MAX: Final = 60


def settings() -> dict[str, dict[str, list[str]]]:
    """By section and name; a name may be given several times."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(heading[1], {})
        elif line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            assert equals, line
            section.setdefault(name, []).append(value)
    return found


def one(name: str) -> str:
    (value,) = settings()["Service"][name]
    return value


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )


def test_systemd_accepts_it(tmp_path: Path) -> None:
    """No unknown name, no value of the wrong kind; a misspelled name is told."""
    text = UNIT.read_text().replace(INSTALLED, PENSTOCK)
    unit = tmp_path / UNIT.name

    unit.write_text(text)
    done = analyze("verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(text.replace("LimitNOFILE=", "LimitNOFILES="))
    assert "LimitNOFILES" in analyze("verify", unit).stderr


def test_hardening() -> None:
    """systemd's own measure of what the service may do beside its work stays low."""
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", "--no-pager", UNIT)

    assert done.returncode == 0, done.stdout


def test_it_stays_down_where_a_start_finds_the_same() -> None:
    """Configuration, somebody else's directory, damage: no restart. A crash, a failed write: a restart."""
    stays = {ExitCode(int(code)) for code in one("RestartPreventExitStatus").split()}

    assert stays == {ExitCode.CONFIGURATION, ExitCode.TAKEN, ExitCode.CORRUPT}
    assert one("Restart") == "on-failure"


def test_one_place_for_the_data() -> None:
    """What the process may write is where its command keeps the data, and belongs to a user that is made for it."""
    words = shlex.split(one("ExecStart"))

    assert words[words.index("--data-dir") + 1] == f"/var/lib/{one('StateDirectory')}"
    assert Path(words[words.index("--config") + 1]).parent == Path("/etc") / one("ConfigurationDirectory")
    assert one("ProtectSystem") == "strict"
    kind, user, *_ = shlex.split(re.sub(r"^#.*\n", "", USER.read_text(), flags=re.MULTILINE))
    assert (kind, user) == ("u", one("User"))


@pytest.mark.slow
def test_its_command_serves_and_stops(tmp_path: Path) -> None:
    """With the file that `penstock config --toml` writes, and within the time that systemd grants a stop."""
    file = tmp_path / "penstock.toml"
    file.write_text(run("config", "--toml").stdout)
    words = shlex.split(one("ExecStart"))
    at = words.index("--data-dir")
    assert words[:2] == [INSTALLED, "serve"]
    arguments = words[2:at] + words[at + 2 :]
    arguments[arguments.index("--config") + 1] = str(file)

    with serving(tmp_path / "gateway", *arguments) as gateway:
        gateway.ready()
        begin = time.monotonic()
        assert gateway.terminate() == 0

    assert time.monotonic() - begin < float(one("TimeoutStopSec").removesuffix("s"))
