"""A kill at every sync point: before each fsync, fdatasync, rename and unlink of a short eventful life.

What is left is started twice: as `kill -9` leaves it, with all that was written, and as a power cut does, with only
what was synced. CI takes the first point of each required kind, counted among its kind alone, because threads make the
count over all kinds differ from run to run; then, while its time lasts, the first and the last of every kind and every
STRIDE-th of all, in another order in each run. A soak takes all, until a run ends without reaching its point.
"""

from __future__ import annotations

import collections
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.faults.faultlayer import SYNC_POINTS, Faults, Point, read_report
from tests.faults.gateway_process import Ended, Gateway
from tests.faults.power import rebuild
from tests.faults.script import SETTINGS, Script
from tests.faults.settings import SEED, SOAK

STRIDE: Final = 1 if SOAK else 30
AT_ONCE: Final = 2
RECOVERY_BUDGET_S: Final = float("inf") if SOAK else 25.0
BUDGET_S: Final = float("inf") if SOAK else 70.0  # what is not tried by then is left to other runs, and to the soak
POINTS_MAX: Final = 2000
KILLED: Final = -9

Kind = tuple[tuple[str, ...], str | None]  # calls, glob over paths
ANY: Final[Kind] = (SYNC_POINTS, None)
LOG_WRITES: Final[Kind] = (("fdatasync",), "*/log/*.log")
CRASH_AT_WRITE: Final = 36  # of about 45: topics were deleted, the log has been truncated

REQUIRED: Final[dict[str, Kind]] = {
    "identity written": (("rename",), "*/data/penstock.json*"),
    "log written": LOG_WRITES,
    "log file prepared": (("fdatasync",), "*/log/*.prepared"),
    "log rolled": (("rename",), "*/log/*.log"),
    "sidecar written": (("rename",), "*/log/*.idx*"),
    "checkpoint": (("fdatasync", "fsync"), "*/store/container-0/metadata/*"),
    "log truncated": (("unlink",), "*/log/*.idx"),
}


def kind_of(point: Point) -> str:
    """The gateway's work at that point."""
    path = Path(point.path)
    if "/data/tier2/" in point.path:
        return f"long-term storage {point.call}"
    if "penstock.json" in path.name:
        return "identity written"
    if path.parent.name == "metadata" or path.name == "metadata":
        return "checkpoint"
    if path.suffix == ".log":
        return "log rolled" if point.call == "rename" else "log written"
    if ".idx" in path.suffixes:
        return "log truncated" if point.call == "unlink" else "sidecar written"
    if path.suffix == ".spare":
        return "log truncated" if point.call == "rename" else "log file prepared"
    if path.suffix == ".prepared":
        return "log file prepared"
    return "directory synced" if point.call == "fsync" else f"{point.call} {path.name}"


def in_order_of_worth(points: Sequence[Point]) -> list[int]:
    """First the edges of every kind and call, then every STRIDE-th, each in any order."""
    by_kind = collections.defaultdict(list)
    for point in points:
        by_kind[kind_of(point), point.call].append(point.number)
    edges = [number for numbers in by_kind.values() for number in (numbers[0], numbers[-1])]
    strides = [point.number for point in points[::STRIDE]]
    dice = random.Random(SEED)
    dice.shuffle(edges)
    dice.shuffle(strides)
    return list(dict.fromkeys(edges + strides))


@pytest.mark.timeout(0 if SOAK else 600)
def test_killed_at_every_sync_point(tmp_path: Path, shadow: Path) -> None:
    """Wherever it is killed, the next start finds all that was acknowledged."""
    unkilled = one_life(tmp_path / "unkilled", shadow / "unkilled", None)
    assert unkilled.finished, "the unkilled run did not end well"
    points = read_report(tmp_path / "unkilled" / "points")
    assert {kind_of(point) for point in points} >= REQUIRED.keys()

    deadline = time.monotonic() + BUDGET_S
    with ThreadPoolExecutor(AT_ONCE) as pool:
        required = pool.map(lambda kind: killed_at(1, tmp_path, shadow, kind), REQUIRED.values())
        hits = [hit for hit in required if hit is not None]
        for some in batched(sweep_numbers(points)):
            if time.monotonic() > deadline:
                break
            results = list(pool.map(lambda number: killed_at(number, tmp_path, shadow), some))
            hits += [hit for hit in results if hit is not None]
            if SOAK and not any(results):
                break

    show(hits, len(points))
    assert {kind_of(hit) for hit in hits} >= REQUIRED.keys()


def sweep_numbers(points: Sequence[Point]) -> list[int]:
    """In a soak all, until a run ends unkilled: the count differs from run to run."""
    return list(range(1, POINTS_MAX)) if SOAK else in_order_of_worth(points)


def batched(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(numbers), AT_ONCE):
        yield numbers[first : first + AT_ONCE]


def killed_at(number: int, tmp_path: Path, shadow: Path, kind: Kind = ANY) -> Point | None:
    """Run, be killed at the point, start again in both worlds; the point, None if it was not reached."""
    name = f"at-{number}-of-{abs(hash(kind))}"
    place, copies = tmp_path / name, shadow / name
    script = one_life(place, copies, number, kind)
    if script.finished:
        shutil.rmtree(place)
        return None
    # Another thread may still report its own call while the kill is on its way.
    hit = next(point for point in read_report(place / "points") if point.number == number)
    for world in worlds(place, copies):
        with Gateway(world, SETTINGS) as gateway:
            gateway.start()
            found = script.copy().verify(gateway)
            assert found == [], f"{world.name}, killed at {hit}"
            assert gateway.stop() == 0
    shutil.rmtree(place)
    shutil.rmtree(copies)
    return hit


def one_life(place: Path, copies: Path, number: int | None, kind: Kind = ANY) -> Script:
    """Start and run the script; killed before the call of this number."""
    copies.mkdir()
    calls, match = kind
    with Gateway(place / "kept", SETTINGS) as gateway:
        gateway.data.mkdir()
        script = Script(gateway)
        faults = Faults(gateway.data, calls, match, number, report=place / "points", shadow=copies)
        try:
            gateway.start(faults.environment())
        except Ended as ended:
            if ended.code != KILLED:
                raise
            return script
        script.run()
        if not script.finished and gateway.process is not None:
            assert gateway.await_end() == KILLED, gateway.last_output()
        return script


def worlds(place: Path, copies: Path) -> Iterator[Path]:
    """The state after `kill -9`, then the state after a power cut."""
    cut = place / "cut"
    cut.mkdir()
    rebuild(copies, cut / "data")
    yield place / "kept"
    yield cut


def show(hits: Sequence[Point], points: int) -> None:
    counts = collections.Counter((kind_of(hit), hit.call) for hit in hits)
    print(f"\n{len(hits)} of {points} sync points killed at:")
    for (kind, call), count in sorted(counts.items()):
        print(f"  {count:4}  {kind} ({call})")


def recovery_numbers() -> list[int]:
    """CI begins with every fourth point, so that its time reaches to the end of the start."""
    everything = range(1, POINTS_MAX)
    return list(everything) if SOAK else [number for first in (3, 1, 2, 4) for number in range(first, 24, 4)]


@pytest.mark.timeout(0 if SOAK else 400)
def test_recovery_killed_at_every_sync_point(tmp_path: Path, shadow: Path) -> None:
    """A start that is killed at any point leaves a state that the next one recovers."""
    script = one_life(tmp_path / "life", shadow / "life", CRASH_AT_WRITE, LOG_WRITES)
    assert not script.finished
    crashed = tmp_path / "life" / "kept" / "data"
    hits: list[Point] = []
    deadline = time.monotonic() + RECOVERY_BUDGET_S
    for number in recovery_numbers():
        place = tmp_path / f"start-{number}"
        place.mkdir()
        shutil.copytree(crashed, place / "data")
        with Gateway(place, SETTINGS) as gateway:
            faults = Faults(gateway.data, at=number, report=place / "points")
            gateway.launch(faults.environment())
            try:
                gateway.await_ready()
            except Ended as ended:
                if ended.code != KILLED:
                    raise
            else:
                if SOAK:
                    break
                continue
            gateway.start()
            assert script.copy().verify(gateway) == [], f"start killed at {number}"
        hits.append(read_report(place / "points")[-1])
        if time.monotonic() > deadline:
            break
    show(hits, len(hits))
    assert len(hits) > 3
