"""`penstock bench` with transactions, against a real Kafka broker: the load generator belongs to no server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.harness.system import Kafka
from tests.gateway.launching import PENSTOCK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    broker = Kafka(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.kill()


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_end_to_end(kafka: Kafka, tmp_path: Path, client: str) -> None:
    """Readers see every committed record, and know the end although a marker is the last thing there."""
    written = tmp_path / "run.json"
    arguments = ["--writers", "2", "--readers", "1", "--transactions", "100", "--records", "1000", "--client", client]
    done = subprocess.run(
        [PENSTOCK, "bench", "--bootstrap", kafka.address, "--warmup", "0", *arguments, "--json", str(written)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(written.read_text())["records"] == 1000
