"""One server for the whole run, one process per client library, and a matrix of results at the end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("compat_tests.scenarios", "compat_tests.harness")

from compat_tests.harness.client import CLIENTS, Client  # noqa: E402 - after the line above
from compat_tests.harness.pool import Pool  # noqa: E402
from compat_tests.harness.system import Kafka, Penstock, Running, System, compile_runner  # noqa: E402
from compat_tests.scenarios import World  # noqa: E402
from tests.grouping import Grouped, grouped, module_of  # noqa: E402

if TYPE_CHECKING:
    from xdist.remote import Producer

SERVER: pytest.StashKey[System] = pytest.StashKey()
POOL: pytest.StashKey[Pool] = pytest.StashKey()
_RESULTS: dict[tuple[str, str], str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--system", choices=("penstock", "kafka"), default="penstock")
    parser.addoption(
        "--bootstrap",
        default=os.environ.get("PENSTOCK_COMPAT_BOOTSTRAP"),
        help="HOST:PORT of a server that runs already: nothing is done to its process",
    )
    parser.addoption(
        "--containers", type=int, default=1, help="of Penstock: each has a log and coordinators of its own"
    )
    parser.addoption("--matrix", type=Path, help="write the table of scenarios and clients here")


def pytest_configure() -> None:
    """Told to end, a run still ends the processes that it started."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", returncode=143))


def group_of(nodeid: str) -> str:
    """With `--dist loadgroup` a module stays together, but for the table of scenarios: it takes as long as all others,
    and each client library's part of it has processes of its own."""
    module = module_of(nodeid)
    if module != "test_clients":
        return module
    return f"{module} {next((library for library in CLIENTS if f'[{library}-' in nodeid), '')}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped | None:
    return grouped(config, log, group_of)


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("server")
    address = request.config.getoption("--bootstrap")
    server: System
    if address:
        server = Running(directory, address)
    elif request.config.getoption("--system") == "kafka":
        server = Kafka(directory)
    else:
        containers = request.config.getoption("--containers")
        server = Penstock(directory, {"containers": str(containers)} if containers > 1 else None)
    request.config.stash[SERVER] = server
    compile_runner()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest, system: System) -> Iterator[Pool]:
    processes = Pool(system)
    request.config.stash[POOL] = processes
    yield processes
    processes.end()


@pytest.fixture
def world(
    request: pytest.FixtureRequest, system: System, pool: Pool, client_name: str, tmp_path: Path
) -> Iterator[World]:
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[-60:].lower()
    made = World(
        system=system,
        client=pool.client(client_name),
        fellow=lambda number: pool.client(client_name, number),
        directory=tmp_path,
        prefix=prefix,
    )
    with made.cleanup:
        yield made


@pytest.fixture
def java(pool: Pool) -> Client:
    return pool.client("java")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call" and "scenario" in item.fixturenames:
        parameters = item.callspec.params  # type: ignore[attr-defined]
        place = parameters["scenario"].name, parameters["client_name"]
        _RESULTS[place] = report.outcome
    server = item.config.stash.get(SERVER, None)
    if report.failed and server is not None:
        report.sections.append((f"{server.name}'s log", server.log_tail()))
    processes = item.config.stash.get(POOL, None)
    if report.failed and processes is not None:
        report.sections.append(("the clients' logs", processes.log_tails(item.nodeid)))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--matrix")
    if path is not None and _RESULTS:
        path.write_text(matrix(), encoding="utf-8")


def matrix() -> str:
    """A Markdown table: one row per scenario, one column per client."""
    marks = {"passed": "ok", "failed": "FAILED"}
    rows = [["scenario", *CLIENTS], ["---"] * (1 + len(CLIENTS))]
    for name in dict.fromkeys(scenario for scenario, _ in _RESULTS):
        cells = [_RESULTS.get((name, client)) for client in CLIENTS]
        rows.append([name, *(marks.get(cell, cell) if cell else "-" for cell in cells)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
