"""Histories of concurrent transactions on a server that is hurt: nothing that exactly-once forbids is in them.

SOAK_SECONDS makes the run as long as asked; `python -m compat_tests.histories` has more choices.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Final

import pytest

from compat_tests.harness.system import Kafka, Penstock, System
from compat_tests.histories.broken_gateway import BUGS
from compat_tests.histories.faults import Faults
from compat_tests.histories.workload import Workload

SECONDS: Final = float(os.environ.get("SOAK_SECONDS") or 20)
"""So long the server is hurt, every second or three: each kind of fault comes several times."""
BROKEN_SECONDS: Final = 8.0
BROKEN_PATIENCE_S: Final = 4.0
SEED: Final = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**9))
OVERHEAD_S: Final = 400  # every wait of a run has a bound; this is above their sum


@pytest.mark.timeout(SECONDS + OVERHEAD_S)
def test_histories(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Writers, copiers and readers through kills, pauses and scales: the history is clean."""
    config = request.config
    if config.getoption("--bootstrap"):
        pytest.skip("a server that runs elsewhere is not ours to kill")
    is_kafka = config.getoption("--system") == "kafka"
    system: System = Kafka(tmp_path) if is_kafka else Penstock(tmp_path)
    system.start()
    try:
        faults = Faults.on(system, ("kill", "pause", "scale"), SEED)
        result = Workload(system.address, SEED, "history", faults, epoch_may_rise=is_kafka).run(SECONDS)
    finally:
        system.kill()
    result.write_to(tmp_path)

    assert result.is_clean, f"seed {SEED}, {result}\nall of it: {tmp_path}\n{system.log_tail()}"


@pytest.mark.timeout(SECONDS + OVERHEAD_S)
@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        ({"containers": "4"}, ("kill", "pause", "scale")),
        ({"containers": "4", "workers": "2"}, ("kill_worker", "kill_worker", "kill", "pause", "scale")),
    ],
    ids=["containers", "workers"],
)
def test_histories_over_containers(
    request: pytest.FixtureRequest, tmp_path: Path, settings: dict[str, str], faults: tuple[str, ...]
) -> None:
    """The same where each partition, group and transactional id lies in one of four containers, of one process or of
    two workers; of those a random one is killed, or all are with their supervisor."""
    if request.config.getoption("--bootstrap") or request.config.getoption("--system") != "penstock":
        pytest.skip("only Penstock has containers")
    system = Penstock(tmp_path, settings)
    system.start()
    try:
        result = Workload(system.address, SEED, "history", Faults.on(system, faults, SEED)).run(SECONDS)
    finally:
        system.kill()
    result.write_to(tmp_path)

    assert result.is_clean, f"seed {SEED}, {result}\nall of it: {tmp_path}\n{system.log_tail()}"


@pytest.mark.timeout(OVERHEAD_S)
@pytest.mark.parametrize("bug", sorted(BUGS))
def test_planted_bugs(request: pytest.FixtureRequest, tmp_path: Path, bug: str) -> None:
    """The checker is worth its trust: on a gateway with a bug planted in it, it finds what is wrong."""
    if request.config.getoption("--bootstrap") or request.config.getoption("--system") != "penstock":
        pytest.skip("the bugs are planted in Penstock")
    launcher = (sys.executable, "-m", "compat_tests.histories.broken_gateway", bug, "--")
    system = Penstock(tmp_path, launcher=launcher)
    system.start()
    try:
        workload = Workload(system.address, SEED, f"broken-{bug}", patience_s=BROKEN_PATIENCE_S)
        result = workload.run(BROKEN_SECONDS)
    finally:
        system.kill()

    assert {anomaly.kind for anomaly in result.anomalies} & BUGS[bug].shows, f"seed {SEED}, {result}"
