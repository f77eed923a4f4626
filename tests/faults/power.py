"""The state after a power cut: a tree that holds only what a sync had promised.

It is the worst state that POSIX allows: files as they were at their last sync, directories with the names that they
had at theirs. `kill -9` is the best one: all that was written is there.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final

import psutil

from tests.faults.faultlayer import Faults
from tests.faults.gateway_process import Gateway

END_SECONDS_MAX: Final = 60.0


def start_shadowed(gateway: Gateway, shadow: Path) -> None:
    """Start a gateway whose shadow keeps the state that a power cut would leave."""
    for copy in shadow.iterdir():
        copy.unlink()
    gateway.data.mkdir(exist_ok=True)
    gateway.start(Faults(gateway.data, shadow=shadow).environment())


def cut_power(gateway: Gateway, shadow: Path) -> None:
    """Take the power away, and start on what that leaves."""
    gateway.kill()
    end_all(shadow)
    rebuild(shadow, gateway.data)
    start_shadowed(gateway, shadow)


def end_all(shadow: Path) -> None:
    """End all processes that write under this shadow: no power, no process."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("FAULT_SHADOW") == str(shadow):
                process.kill()
                process.wait(END_SECONDS_MAX)


def rebuild(shadow: Path, directory: Path) -> None:
    """Replace `directory` by the content of the shadow of FAULT_ROOT."""
    shutil.rmtree(directory, ignore_errors=True)
    _rebuild_directory(shadow, (shadow / "root").read_text(), directory)


def _rebuild_directory(shadow: Path, key: str, directory: Path) -> None:
    directory.mkdir()
    names = shadow / key
    for line in names.read_text().splitlines() if names.exists() else []:
        child, name = line.split(" ", 1)
        if child.startswith("d-"):
            _rebuild_directory(shadow, child, directory / name)
        elif (shadow / child).exists():
            shutil.copyfile(shadow / child, directory / name)
        else:
            (directory / name).touch()  # the name was promised, the content never
