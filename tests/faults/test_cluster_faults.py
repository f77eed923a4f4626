"""Everything that may happen to a cluster's nodes, to etcd, to the object store and to the ways between them, under
transactional and idempotent producers, copiers and groups.

The invariant is the same throughout: nothing acknowledged is lost, doubled, reordered or torn, whoever slept or was cut
off acknowledges nothing, and all is whole again by itself. `tests.faults.cluster.scenarios` has what each waits for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from compat_tests.histories.workload import Workload
from tests.faults.cluster.hurt_node import STEPS
from tests.faults.cluster.nodes import REST_S_MAX, WHOLE_WITHIN_S, Nodes
from tests.faults.cluster.scenarios import IN_CI, SCENARIOS, Hurting
from tests.faults.cluster.step_kills import StepKill
from tests.faults.settings import SEED, SOAK

SCENARIO_S_MAX: Final = 300.0
STEP_IN_CI: Final = "fenced"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if SOAK else 600)]
in_soak = pytest.mark.skipif(not SOAK, reason="minutes of faults, each with a history of its own: make soak")
in_ci = pytest.mark.skipif(SOAK, reason="all of these have histories of their own")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("cluster")) as nodes:
        nodes.begin()
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    cluster.heal()
    return cluster


class InTurn:
    """What happens, one after the other, each told by its name."""

    def __init__(self, happenings: Mapping[str, Callable[[], None]]) -> None:
        self._left = list(happenings.items())
        self.done: dict[str, int] = {}

    def strike(self) -> None:
        name, happen = self._left.pop(0)
        self.done[name] = 0
        began_s = time.monotonic()
        happen()
        self.done[name] = 1
        print(f"{name}: over after {time.monotonic() - began_s:.1f} s", flush=True)


def check(nodes: Nodes, prefix: str, happenings: Mapping[str, Callable[[], None]], directory: Path) -> None:
    """What clients see while these happen is as it should be."""
    names = "".join(letter if letter.isalnum() else "-" for letter in prefix)
    workload = Workload(
        nodes.address,
        SEED,
        names,
        lambda topics: InTurn(happenings),
        patience_s=WHOLE_WITHIN_S,
        pause_s_max=REST_S_MAX,
    )
    result = workload.run(SCENARIO_S_MAX, len(happenings))
    print(f"seed {SEED}: {len(result.history.events)} events, {result}", flush=True)
    if not result.is_clean:
        result.write_to(directory)
        nodes.keep_logs(directory)
    assert result.is_clean, f"{prefix}, seed {SEED}, all of it: {directory}\n{result}\n{nodes.log_tail()}"
    assert sum(result.faults.values()) == len(happenings), result


@in_ci
def test_some_of_all(nodes: Nodes, tmp_path: Path) -> None:
    """Scenarios, and the kill of a taker, in one history: its beginning and its end take as long as some of them."""
    hurting, kill = Hurting(nodes, random.Random(SEED)), StepKill(nodes, STEP_IN_CI, tmp_path)

    def taker_dies() -> None:
        kill.prepare()
        kill.strike()
        nodes.heal(until_all_lead=False)

    happenings = {name: lambda name=name: SCENARIOS[name](hurting) for name in IN_CI}  # type: ignore[misc]
    check(nodes, "some", {**happenings, f"a taker dies: {STEP_IN_CI}": taker_dies}, tmp_path)


@in_soak
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(nodes: Nodes, name: str, tmp_path: Path) -> None:
    hurting = Hurting(nodes, random.Random(f"{SEED}/{name}"))
    check(nodes, name, {name: lambda: SCENARIOS[name](hurting)}, tmp_path)


@in_soak
@pytest.mark.parametrize("name", STEPS)
def test_a_kill_at_a_step(nodes: Nodes, name: str, tmp_path: Path) -> None:
    kill = StepKill(nodes, name, tmp_path)
    kill.prepare()

    def happen() -> None:
        kill.strike()
        nodes.heal()

    check(nodes, name, {name: happen}, tmp_path)
