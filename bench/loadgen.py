"""The load generator: builds the program in `load/` once and runs it.

Keeps: a run whose records were not all acknowledged is an error, never a sample.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "bench"
SOURCES: Final = Path(__file__).resolve().parent / "load"
RUN_SECONDS_MAX: Final = 90
GRACE_SECONDS: Final = 30

# A queue deep enough that the generator never waits for the application thread: its own default
# of 100,000 records is less than one sync's worth of 100-byte records.
PRODUCER: Final = {"queue.buffering.max.messages": "500000"}


class LoadFailed(Exception):
    """The load was not carried out in full, so it measured nothing. `said`: all that the generator wrote about it."""

    def __init__(self, why: str, said: str = "") -> None:
        super().__init__(why)
        self.said = said


@dataclass(frozen=True, slots=True)
class Load:
    """The outcome of one run. It has latencies only if they were asked for."""

    records: int
    seconds: float
    acknowledged: int = 0
    avg_ms: float = 0.0
    max_ms: float = 0.0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    p99_9_ms: float = 0.0
    p99_99_ms: float = 0.0

    @property
    def per_second(self) -> float:
        return self.records / self.seconds

    def mb_s(self, size: int) -> float:
        return self.per_second * size / 1e6


def build() -> Path:
    """The generator's path; compiles it when it is missing or older than its source."""
    binary = BUILD / "load"
    sources = sorted(SOURCES.glob("*.[ch]"))
    if not binary.exists() or binary.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run([str(SOURCES / "install.sh")], check=True)
        command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(binary)]
        subprocess.run([*command, *map(str, SOURCES.glob("*.c")), "-lrdkafka"], check=True)
    return binary


def run(mode: str, bootstrap: str, topic: str, **options: object) -> Load:
    """One run of the generator. Options are its own, or librdkafka's with `_` for `.`."""
    arguments = [f"bootstrap={bootstrap}", f"topic={topic}"]
    if mode == "produce":
        arguments += [f"{key}={value}" for key, value in PRODUCER.items()]
    own = {"seconds_max", "from_offset"}
    for name, value in options.items():
        arguments.append(f"{name if name in own else name.replace('_', '.')}={value}")
    command = [str(build()), mode, *arguments]
    patience_s = max(RUN_SECONDS_MAX, GRACE_SECONDS + float(str(options.get("seconds_max", 0))))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience_s)
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"{' '.join(command)}: not done in {patience_s:g} s") from late
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LoadFailed(f"{mode} {topic}: {last} ({done.stdout.strip()})", done.stderr)
    outcome = json.loads(done.stdout)
    del outcome["failed"]  # none: the exit status says so
    return Load(**outcome)
