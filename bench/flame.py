"""Flame graphs of the gateway under some workloads of the comparison, kept beside the report."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Final

from bench.comparison import WORKS, Work, figures
from bench.profile import record
from bench.servers import Penstock
from bench.systems import PENSTOCK, KafkaLike

PROFILED: Final = ("size-100-1", "size-1000-1", "size-1000-10", "single", "partitions-1000", "latency-50", "tail")
HEAVIEST: Final = 8
SHARES: Final = "profiles.json"


def profile(directory: Path, scratch: Path) -> None:
    """Run each workload twice: once for the picture, once for the figures."""
    shares = {}
    for work in [work for work in WORKS if work.key in PROFILED]:
        picture = directory / f"flame-{work.key}.svg"
        _recorded(work, scratch, picture, "flamegraph")
        picture.write_text(titled(picture.read_text(), work.key))
        stacks = scratch / "stacks.txt"
        _recorded(work, scratch, stacks, "raw")
        shares[work.key] = _heaviest(stacks.read_text())
    (directory / SHARES).write_text(json.dumps(shares, indent=1) + "\n")


def kept(directory: Path) -> dict[str, dict[str, float]]:
    """The heaviest functions by workload, from the last profile."""
    file = directory / SHARES
    return dict(json.loads(file.read_text())) if file.exists() else {}


def titled(picture: str, title: str) -> str:
    """The picture with this title, in place of the command that made it, with the paths of one machine."""
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, picture, count=1)


def _recorded(work: Work, scratch: Path, output: Path, kind: str) -> None:
    place = scratch / "profiled"
    shutil.rmtree(place, ignore_errors=True)
    gateway = Penstock(place)
    try:
        recorder = record(gateway.process.pid, output, kind=kind)
        for _ in figures(work, KafkaLike(PENSTOCK, gateway), work.key):
            pass
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)
    finally:
        gateway.stop()


def _heaviest(stacks: str) -> dict[str, float]:
    """Own time by function, of the thread that serves the connections."""
    own: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        thread, *calls = frames.split(";")
        if calls and "MainThread" in thread:
            own[re.sub(r":\d+\)$", ")", calls[-1])] += int(count)
    return {function: round(count / own.total(), 3) for function, count in own.most_common(HEAVIEST)}
