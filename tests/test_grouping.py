"""Tests of one group run in one worker, one after the other; and the groups are those that are meant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from compat_tests.conftest import group_of as group_of_clients
from tests.faults.conftest import group_of

CONFTEST: Final = """
from tests.grouping import grouped

def pytest_xdist_make_scheduler(config, log):
    return grouped(config, log, lambda nodeid: nodeid.partition("[")[2][0])
"""
TESTS: Final = """
import os, pathlib, pytest, time

@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("group", "ab")
def test(number, group, pytestconfig, worker_id):
    time.sleep(0.01)
    with (pytestconfig.rootpath / "ran").open("a") as ran:
        ran.write(f"{group} {worker_id}\\n")
"""


@pytest.mark.slow
def test_one_worker_for_a_group(tmp_path: Path) -> None:
    """Each of two workers has a group, although tests of both come in turn."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", str(tmp_path)]
    environ = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = (tmp_path / "ran").read_text().splitlines()
    assert len(ran) == 8
    assert len(set(ran)) == 2, ran


def test_groups() -> None:
    """One cluster at a time; a part of the table of scenarios for each library; else modules."""
    assert group_of("tests/faults/test_cluster_moving.py::test_a[decided]") == "cluster"
    assert group_of("tests/faults/test_cluster_kills.py::test_random_kills") == "cluster"
    assert group_of("tests/faults/test_kill.py::test_a") == "test_kill"
    table = "compat_tests/test_clients.py::test_scenario"
    assert group_of_clients(f"{table}[confluent-kafka-headers]") == "test_clients confluent-kafka"
    assert group_of_clients(f"{table}[kafkajs-headers]") == "test_clients kafkajs"
    assert group_of_clients("compat_tests/test_acls.py::test_it[java]") == "test_acls"
