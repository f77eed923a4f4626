"""Everything that may happen to a cluster's nodes, to etcd, to the object store and to the ways between them, under
transactional and idempotent producers, copiers and groups.

The invariant is the same throughout: nothing acknowledged is lost, doubled, reordered or torn, whoever slept or was cut
off acknowledges nothing, and all is whole again by itself. `tests.faults.cluster.scenarios` has what each waits for.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from compat_tests.histories.workload import Workload
from tests.faults.cluster.hurt_node import OF_A_TAKER, OF_AN_HEIR, OF_AN_OWNER, STEPS
from tests.faults.cluster.nodes import TAKEOVER_S, WHOLE_WITHIN_S, Nodes, hurt_by
from tests.faults.cluster.scenarios import IN_CI, IN_SOAK, Hurting
from tests.faults.settings import SEED, SOAK

SCENARIO_S_MAX: Final = 300.0
STEPS_IN_CI: Final = ("fenced", "log ended")
VICTIM, BESIDE = 3, 1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0 if SOAK else 240),
    pytest.mark.skipif(not SOAK, reason="minutes of faults: make soak"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        nodes.begin()
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    cluster.heal()
    return cluster


class Once:
    """One thing that happens, told by its name."""

    def __init__(self, name: str, happen: Callable[[], None]) -> None:
        self._name, self._happen = name, happen
        self.done: dict[str, int] = {}

    def strike(self) -> None:
        self._happen()
        self.done[self._name] = 1


def check(nodes: Nodes, name: str, happen: Callable[[], None], directory: Path) -> None:
    """What clients see while it happens is as it should be."""
    prefix = "".join(letter if letter.isalnum() else "-" for letter in name)
    workload = Workload(nodes.address, SEED, prefix, lambda topics: Once(name, happen), patience_s=WHOLE_WITHIN_S)
    result = workload.run(SCENARIO_S_MAX, 1)
    print(f"seed {SEED}: {len(result.history.events)} events, {result}")
    if not result.is_clean:
        result.history.write_to(directory / "history.jsonl")
    assert result.is_clean, f"{name}, seed {SEED}, all of it: {directory}\n{result}\n{nodes.log_tail()}"


@pytest.mark.parametrize("name", sorted(IN_SOAK if SOAK else IN_CI))
def test_scenario(nodes: Nodes, name: str, tmp_path: Path) -> None:
    hurting = Hurting(nodes, random.Random(f"{SEED}/{name}"))
    check(nodes, name, lambda: (IN_SOAK | IN_CI)[name](hurting), tmp_path)


@pytest.mark.parametrize("name", sorted(STEPS) if SOAK else STEPS_IN_CI)
def test_a_kill_at_a_step(nodes: Nodes, name: str, tmp_path: Path) -> None:
    """kill -9 of a node that takes, gives or gets a container: others take it from there, in time."""
    armed = tmp_path / "armed"
    nodes.kill(VICTIM)
    nodes.nodes[VICTIM].command = hurt_by("step", name, str(armed))
    if name not in OF_AN_HEIR:
        nodes.start(VICTIM)
    nodes.until_whole()

    def taker_dies() -> None:
        nodes.kill(BESIDE)
        try:
            nodes.until_ended(VICTIM, TAKEOVER_S / 2)
        except AssertionError:  # the third node was faster with all of it
            nodes.kill(2)
            nodes.until_ended(VICTIM, TAKEOVER_S)
            nodes.start(2)
        nodes.until_led_by_others([BESIDE, VICTIM])

    def owner_dies() -> None:
        running = nodes.nodes[VICTIM].running
        assert running is not None
        running.process.send_signal(signal.SIGTERM)
        nodes.until_ended(VICTIM, WHOLE_WITHIN_S)
        assert running.process.returncode == -signal.SIGKILL, "it did not come to that step"
        nodes.until_led_by_others([VICTIM])

    def heir_dies() -> None:
        nodes.launch(VICTIM)
        nodes.until_ended(VICTIM, WHOLE_WITHIN_S)
        nodes.until_led_by_others([VICTIM])

    def happen() -> None:
        armed.touch()
        if name in OF_A_TAKER:
            taker_dies()
        elif name in OF_AN_OWNER:
            owner_dies()
        else:
            heir_dies()
        nodes.heal()

    check(nodes, name, happen, tmp_path)
