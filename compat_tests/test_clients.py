"""Every scenario of the table, with every client library that can do what it takes."""

from __future__ import annotations

import pytest

from compat_tests.harness.client import ABLE, CLIENTS
from compat_tests.scenarios import (
    TABLE,
    Scenario,
    World,
    fencing,
    groups,
    places,
    records,
    restarts,
    topics,
    transaction_restarts,
    transactions,
)

# Importing a module enters its scenarios.
ENTERED = (records, places, groups, topics, transactions, fencing, restarts, transaction_restarts)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    possible = {"restart", "kill"}
    if config.getoption("--bootstrap"):
        possible = set()
    elif config.getoption("--system") == "kafka":
        possible = {"restart"}  # Kafka does not promise what it acknowledged over kill -9
    # A restart is everybody's: those scenarios come last.
    table = sorted(TABLE, key=lambda scenario: bool(scenario.server))
    cells = [
        pytest.param(client, scenario, id=f"{client}-{scenario.name.replace(' ', '_')}")
        for scenario in table
        for client in CLIENTS
        if scenario.needs <= ABLE[client] and scenario.server <= possible
    ]
    metafunc.parametrize(("client_name", "scenario"), cells)


def test_scenario(world: World, client_name: str, scenario: Scenario) -> None:
    scenario.run(world)
