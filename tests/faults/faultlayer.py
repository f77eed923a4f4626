"""Builds the layer in `faultlayer.c`, and passes its instructions in a process' environment."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
BUILD: Final = Path(__file__).resolve().parents[2] / "build" / "faults"

SYNC_POINTS: Final = ("fsync", "fdatasync", "rename", "unlink")


def build() -> Path:
    """The layer's path; compiled when it is missing or older than its source."""
    library = BUILD / "faultlayer.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        made = BUILD / f"faultlayer.{os.getpid()}.so"
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(made)]
        subprocess.run([*command, str(SOURCE), "-ldl", "-lpthread"], check=True)
        made.replace(library)
    return library


@dataclass(frozen=True, slots=True)
class Faults:
    """The fault of one process. Without `at` there is none: its calls are only counted."""

    root: Path  # only what lies below counts
    calls: tuple[str, ...] = SYNC_POINTS
    match: str | None = None  # glob over whole paths
    at: int | None = None  # which call is hit
    onward: bool = False  # and all that follow
    errno: int | None = None  # how it fails; None kills the process
    report: Path | None = None
    shadow: Path | None = None
    sector: int | None = None  # of a file that `match` names: what lies around this byte cannot be read
    tally: Path | None = None  # of a `Tally`, which counts the calls of a whole family of processes
    clock: Path | None = None  # holds an i64: seconds by which the wall clock is off

    def environment(self) -> dict[str, str]:
        wanted = {
            "LD_PRELOAD": build(),
            "FAULT_ROOT": self.root,
            "FAULT_CALLS": ",".join(self.calls),
            "FAULT_MATCH": self.match,
            "FAULT_AT": self.at,
            "FAULT_ONWARD": 1 if self.onward else None,
            "FAULT_DO": self.errno,
            "FAULT_REPORT": self.report,
            "FAULT_SHADOW": self.shadow,
            "FAULT_SECTOR": self.sector,
            "FAULT_TALLY": self.tally,
            "FAULT_CLOCK": self.clock,
        }
        return {name: str(value) for name, value in wanted.items() if value is not None}


class Tally:
    """What a family of processes counts together, and the call at which one of them is hit."""

    _FORM: Final = struct.Struct("<qq")

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(self._FORM.size))
        self._path = path

    @property
    def counted(self) -> int:
        return int(self._FORM.unpack(self._path.read_bytes())[0])

    def hit_at(self, number: int) -> None:
        """Hit the call of that number; 0: none."""
        with self._path.open("r+b") as file:
            file.seek(8)
            file.write(struct.pack("<q", number))


@dataclass(frozen=True, slots=True)
class Point:
    """One counted call."""

    number: int
    call: str
    path: str


def read_report(path: Path) -> list[Point]:
    """All counted calls, in order."""
    points = []
    for line in path.read_text().splitlines() if path.exists() else []:
        number, call, where = line.split(" ", 2)
        points.append(Point(int(number), call, where))
    return points
