"""The load of franz-go's own tests, with four containers and two workers: copies from topic to topic by groups, with
transactions and without, each record once and in order.

The tests are those of the version in `examples/go`, built from the module's sources. CI runs one of each kind with few
records; a soak (SOAK=1) all of them, which are groups of each protocol and assignor side by side, with many.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from compat_tests.harness.system import Penstock

MODULE: Final = "github.com/twmb/franz-go"
PINNED: Final = Path(__file__).resolve().parent.parent / "examples" / "go"
SOAK: Final = bool(os.environ.get("SOAK"))
RECORDS: Final = 500_000 if SOAK else 10_000
TESTS: Final = "^(TestGroupETL|TestTxnEtl)$" if SOAK else "^(TestGroupETL|TestTxnEtl)$/^sticky$/^848$"
BUILD_S_MAX: Final = 300
RUN_S_MAX: Final = 3_600 if SOAK else 120

pytestmark = pytest.mark.timeout(BUILD_S_MAX + RUN_S_MAX + 60)


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Penstock]:
    if request.config.getoption("--bootstrap") or request.config.getoption("--system") != "penstock":
        pytest.skip("only Penstock has workers")
    server = Penstock(tmp_path, {"containers": "4", "workers": "2"})
    server.start()
    yield server
    server.stop()


def built(target: Path) -> Path:
    """The program of the client's tests."""
    sources = subprocess.run(
        ["go", "list", "-m", "-f", "{{.Dir}}", MODULE], cwd=PINNED, capture_output=True, text=True, check=True
    ).stdout.strip()
    command = ["go", "test", "-c", "-o", str(target), "."]
    done = subprocess.run(
        command, cwd=Path(sources) / "pkg" / "kgo", capture_output=True, text=True, timeout=BUILD_S_MAX, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_copies(gateway: Penstock, tmp_path: Path) -> None:
    """What they expect of any Kafka: nothing lost, doubled or out of order in copies of copies."""
    program = built(tmp_path / "kgo.test")
    done = subprocess.run(
        [str(program), "-test.run", TESTS, "-test.v", "-test.timeout", f"{RUN_S_MAX}s"],
        env={**os.environ, "KGO_SEEDS": gateway.address, "KGO_TEST_RF": "1", "KGO_TEST_RECORDS": str(RECORDS)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX + 30,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8_000:]}{done.stderr[-2_000:]}\n{gateway.log_tail()}"
    passed = {line.split()[2] for line in done.stdout.splitlines() if line.lstrip().startswith("--- PASS: ")}
    assert {"TestGroupETL", "TestTxnEtl"} <= passed
    assert any(name.startswith("TestTxnEtl/") for name in passed), "no test of that name was run"
