"""Power cuts: after each, only what was synced is there. Finds the sync that was forgotten; kill -9 never does."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.faults.faultlayer import Faults, read_report
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.history import History, check_history, read_outcome
from tests.faults.load import BatchWriter, Committer, IdempotentWriter, Load, TailReader
from tests.faults.power import cut_power, rebuild, start_shadowed
from tests.faults.questions import ask, ask_everything
from tests.faults.settings import SEED, scaled

CUTS: Final = scaled(8, 300)
UP_SECONDS_MAX: Final = 1.5
TOPIC: Final = "unplugged"
PARTITIONS: Final = 3


def test_shadow_forgets_what_was_not_synced(tmp_path: Path, shadow: Path) -> None:
    """The layer itself: a write, a rename, a deletion count once file and directory are synced."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "before").write_text("b")
    script = (
        "import os; os.chdir(os.environ['FAULT_ROOT']);"
        "at = os.open('kept', os.O_CREAT | os.O_RDWR); os.write(at, b'1'); os.fsync(at);"
        "late = os.open('late', os.O_CREAT | os.O_RDWR); os.write(late, b'1');"
        "here = os.open('.', os.O_RDONLY); os.fsync(here);"
        "os.write(at, b'2'); os.unlink('before'); os.rename('late', 'renamed');"
    )
    run_python(script, Faults(root, shadow=shadow))

    rebuild(shadow, tmp_path / "after")

    after = {path.name: path.read_text() for path in (tmp_path / "after").iterdir()}
    assert after == {"before": "b", "kept": "1", "late": ""}


def test_shadow_keeps_a_write_with_its_sync(tmp_path: Path, shadow: Path) -> None:
    """The layer itself: a write with RWF_DSYNC counts when it returns, and takes no other write along."""
    root = tmp_path / "root"
    root.mkdir()
    script = (
        "import os; os.chdir(os.environ['FAULT_ROOT']);"
        "at = os.open('file', os.O_CREAT | os.O_RDWR); os.write(at, b'......'); os.fsync(at);"
        "here = os.open('.', os.O_RDONLY); os.fsync(here);"
        "os.pwritev(at, [b'x'], 0); os.pwritev(at, [b'1', b'2'], 2, os.RWF_DSYNC); os.pwritev(at, [b'x'], 5);"
    )
    run_python(script, Faults(root, shadow=shadow))

    rebuild(shadow, tmp_path / "after")

    assert (root / "file").read_text() == "x.12.x"
    assert (tmp_path / "after" / "file").read_text() == "..12.."


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_write_with_its_sync_fails_in_both_ways(tmp_path: Path, call: str) -> None:
    """The layer itself: a write with RWF_DSYNC is hit as a write, of which nothing is there, or as a sync."""
    root = tmp_path / "root"
    root.mkdir()
    script = (
        "import os; os.chdir(os.environ['FAULT_ROOT']); at = os.open('file', os.O_CREAT | os.O_RDWR)\n"
        "os.pwritev(at, [b'a'], 0, os.RWF_DSYNC)\n"
        "try: os.pwritev(at, [b'b'], 1, os.RWF_DSYNC)\n"
        "except OSError as error: assert error.errno == 5\n"
        "else: raise SystemExit(1)\n"
    )
    report = tmp_path / "points"
    run_python(script, Faults(root, (call,), at=2, errno=errno.EIO, report=report))
    assert [point.call for point in read_report(report)] == [call, call]
    assert (root / "file").read_text() == ("a" if call == "write" else "ab")


@pytest.mark.timeout(400 if CUTS == 8 else 0)
def test_power_cuts_under_load(tmp_path: Path, shadow: Path) -> None:
    """Every acknowledged record had been synced, with everything that leads to it."""
    dice = random.Random(SEED)
    history = History()
    with Gateway(tmp_path, EAGER) as gateway:
        start_shadowed(gateway, shadow)
        with gateway.connect() as connection:
            connection.create_topic(TOPIC, PARTITIONS)
        partitions = [(TOPIC, number) for number in range(PARTITIONS)]
        load = Load(
            [
                BatchWriter("plain", lambda: gateway.address, history, partitions, SEED),
                IdempotentWriter("sure", lambda: gateway.address, history, partitions, SEED),
                TailReader(lambda: gateway.address, history, partitions[0], SEED),
                Committer(lambda: gateway.address, history, partitions[1], SEED),
            ]
        )
        with load:
            for number in range(CUTS):
                load.run_for(dice.random() * UP_SECONDS_MAX)
                cut_power(gateway, shadow)
                with gateway.connect() as connection:
                    found = load.problems() + ask(connection, [dice.choice(partitions)], dice)
                assert found == [], f"after cut {number + 1}, seed {SEED}"
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        with gateway.connect() as connection:
            outcome = read_outcome(connection, partitions, history)
            assert ask_everything(connection, partitions, dice) == [], f"seed {SEED}"
        assert check_history(history, outcome) == [], f"seed {SEED}"
    assert history.acknowledged_count() > 50 * CUTS


def run_python(script: str, faults: Faults) -> None:

    subprocess.run([sys.executable, "-c", script], env={**os.environ, **faults.environment()}, check=True)
