"""Long random histories on the model of `model.py`, for cases beyond the exhaustive search."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.transactions.transaction import EPOCH_MAX
from tests.faults.settings import SOAK, scaled
from tests.gateway.transactions.model import AWAY, CLIENTS, HOME, World

pytestmark = pytest.mark.slow

VERSIONS = st.sampled_from([1, 2])


class Transactions(RuleBasedStateMachine):
    """Producers of either version, a second transactional id, any number of crashes and of lost answers."""

    world: World

    @initialize(
        versions=st.tuples(VERSIONS, VERSIONS, VERSIONS),
        first_epoch=st.sampled_from([0, EPOCH_MAX - 3, EPOCH_MAX - 1]),
        containers=st.sampled_from([(HOME, AWAY), (HOME, HOME)]),
    )
    def begin(self, versions: tuple[int, ...], first_epoch: int, containers: tuple[int, int]) -> None:
        clients = [replace(client, bumps=version == 2) for client, version in zip(CLIENTS, versions, strict=True)]
        self.world = World(clients, first_epoch, containers)
        for client in clients:
            self.world.happen(("init", client.name))
            self.world.happen(("sync", str(HOME)))

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """Anything; crashes and lost answers are rarer than the rest."""
        events = sorted(self.world.events(crashes=10, tags=20, recovers=True))
        rare = [event for event in events if event[0] in ("crash", "lose", "timeout", "recover")]
        common = [event for event in events if event not in rare]
        is_rare = data.draw(st.integers(0, 4)) == 0
        choice = (rare or common) if is_rare else (common or rare)
        if choice:
            self.world.happen(data.draw(st.sampled_from(choice)))

    @invariant()
    def all_or_nothing(self) -> None:
        self.world.check_settled()


HISTORIES = settings(deadline=None, max_examples=40, stateful_step_count=50, suppress_health_check=list(HealthCheck))


def test_long_histories() -> None:
    """In every state readers see all or nothing of each transaction, and none hangs when time-outs have run."""
    run_state_machine_as_test(Transactions, settings=HISTORIES)


@pytest.mark.timeout(0 if SOAK else 600)
def test_many_long_histories() -> None:
    """The same, more of them and longer."""
    many = settings(HISTORIES, max_examples=scaled(150, 5_000), stateful_step_count=150)
    run_state_machine_as_test(Transactions, settings=many)
