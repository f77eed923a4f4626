"""Random kills of a cluster's nodes, over a real etcd and MinIO, while transactional and idempotent producers, copiers
and groups write and read.

Nothing acknowledged is lost, doubled, reordered or torn, whatever is killed, and others have all of it in time.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Final

import pytest

from compat_tests.histories.workload import Workload
from tests.faults.cluster.nodes import NODES, PATIENT_LEASE_MS, REST_S_MAX, WHOLE_WITHIN_S, Nodes
from tests.faults.settings import SEED, SOAK, scaled

KILLS: Final = int(os.environ.get("KILLS") or scaled(3, 300))
IN_A_ROUND: Final = scaled(3, 20)
"""After so many the history is judged, and another one begins on the same cluster."""
ROUND_S_MAX: Final = scaled(60, 600)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if SOAK else 600)]


class Kills:
    """kill -9 of one node, sometimes of two, seldom of all; sometimes again while the last one is coming back."""

    def __init__(self, nodes: Nodes, dice: random.Random) -> None:
        self._nodes, self._dice = nodes, dice
        self.count = 0

    @property
    def done(self) -> dict[str, int]:
        return {"kill": self.count}

    def strike(self) -> None:
        nodes, dice = self._nodes, self._dice
        victims = dice.sample(NODES, dice.choices((1, 2, 3), (80, 15, 5))[0])
        for victim in victims:
            nodes.kill(victim)
            self.count += 1
            time.sleep(dice.choice((0.0, dice.random())))
        if len(victims) < len(NODES):
            nodes.until_led_by_others(victims)
        nodes.start(*victims)
        if dice.random() < 0.5:
            nodes.until_whole()


def test_random_kills(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    with Nodes(tmp_path) as nodes:
        for node in nodes.nodes.values():
            node.settings["cluster.lease.ms"] = PATIENT_LEASE_MS
        nodes.begin()
        kills, turn = Kills(nodes, dice), 0
        while kills.count < KILLS:
            turn += 1
            workload = Workload(
                nodes.address,
                f"{SEED}/{turn}",
                f"kills-{turn}",
                lambda topics: kills,
                patience_s=WHOLE_WITHIN_S,
                pause_s_max=REST_S_MAX,
            )
            result = workload.run(ROUND_S_MAX, min(IN_A_ROUND, KILLS - kills.count))
            print(f"{time.monotonic():.0f} round {turn}: {len(result.history.events)} events, {result}", flush=True)
            if not result.is_clean:
                result.write_to(tmp_path)
                nodes.keep_logs(tmp_path)
            assert result.is_clean, f"seed {SEED}, round {turn}, all of it: {tmp_path}\n{result}\n{nodes.log_tail()}"
            nodes.heal()
