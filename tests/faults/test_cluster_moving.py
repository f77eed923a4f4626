"""Slots that move between nodes of a cluster, over a real etcd and MinIO, under transactional and idempotent producers,
copiers and groups; and kill -9 of the node that carries a move out, at each of its steps.

Nothing acknowledged is lost, doubled, reordered or torn; each move ends, and each slot lies in one container.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

import pytest

from compat_tests.histories.workload import Workload
from tests.faults.cluster.hurt_node import OF_A_MOVER
from tests.faults.cluster.moving import Moving
from tests.faults.cluster.nodes import PROBE, WHOLE_WITHIN_S, Nodes, hurt_by
from tests.faults.settings import SEED, SOAK, scaled

RUN_S_MAX: Final = 300.0
MOVES: Final = scaled(3, 40)
STEPS_IN_CI: Final = ("state there", "decided")
VICTIM: Final = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if SOAK else 240)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        nodes.begin()
        yield nodes


class Strikes:
    """What happens to the topics of a workload, some times."""

    def __init__(self, happen: Callable[[Collection[str]], None], topics: Collection[str]) -> None:
        self._happen, self._topics = happen, topics
        self.done: dict[str, int] = {"moves": 0}

    def strike(self) -> None:
        self._happen(self._topics)
        self.done["moves"] += 1


def check(nodes: Nodes, name: str, happen: Callable[[Collection[str]], None], times: int, directory: Path) -> None:
    workload = Workload(
        nodes.address, f"{SEED}/{name}", name, lambda topics: Strikes(happen, topics), patience_s=WHOLE_WITHIN_S
    )
    result = workload.run(RUN_S_MAX, times)
    print(f"seed {SEED}: {len(result.history.events)} events, {result}")
    if not result.is_clean:
        result.write_to(directory)
        nodes.keep_logs(directory)
    assert result.is_clean, f"{name}, seed {SEED}, all of it: {directory}\n{result}\n{nodes.log_tail()}"


@pytest.mark.skipif(not SOAK, reason="beside this load a move may take minutes: make soak")
def test_slots_move_between_nodes(cluster: Nodes, tmp_path: Path) -> None:
    moving = Moving(cluster, random.Random(SEED))

    def move(topics: Collection[str]) -> None:
        wanted = moving.want(topics)
        moving.until_ended()
        assert wanted is None or moving.containers(wanted.stream)[wanted.slot] == wanted.target, cluster.log_tail()

    cluster.heal()
    check(cluster, "moves", move, MOVES, tmp_path)


@pytest.mark.parametrize("step", sorted(OF_A_MOVER) if SOAK else STEPS_IN_CI)
def test_a_kill_at_a_step_of_a_move(cluster: Nodes, step: str, tmp_path: Path) -> None:
    """Whoever takes over from the node that dies finds the slot whole, in one container, and ends the move."""
    armed, dice = tmp_path / "armed", random.Random(f"{SEED}/{step}")
    moving = Moving(cluster, dice)
    cluster.heal()
    cluster.kill(VICTIM)
    cluster.nodes[VICTIM].command = hurt_by("step", step, str(armed))
    cluster.start(VICTIM)
    cluster.until_whole()

    def happen(topics: Collection[str]) -> None:
        armed.touch()
        wanted, deadline = None, time.monotonic() + WHOLE_WITHIN_S
        while wanted is None:
            assert time.monotonic() < deadline, "the victim has no slot that could move"
            wanted = moving.want(topics, VICTIM) or moving.want([PROBE], VICTIM)
        cluster.until_ended(VICTIM, WHOLE_WITHIN_S)
        cluster.until_led_by_others([VICTIM])
        moving.until_ended()
        assert moving.containers(wanted.stream)[wanted.slot] == wanted.target, cluster.log_tail()
        cluster.heal()

    check(cluster, "".join(letter if letter.isalnum() else "-" for letter in step), happen, 1, tmp_path)
