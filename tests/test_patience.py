"""Bounds of time are those that are named where nobody waits for a processor, and longer where somebody does."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.patience import STRETCH_MAX, Patience

BUSY = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
"""Two of these on one processor wait for each other."""


def test_nobody_waits() -> None:
    """Without processes, a bound is over when it says so."""
    patience = Patience(0.05, list)
    assert not patience.is_over()
    while not patience.is_over():
        assert patience.lengthened_s() == 0
    assert Patience(0, list).is_over()


@pytest.mark.slow
def test_some_wait() -> None:
    """Two processes on one processor wait for it half of the time each: a bound is lengthened, up to its multiple."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        patience = Patience(0.02, lambda: [one.pid for one in busy])
        before = time.monotonic()
        while patience.lengthened_s() < (STRETCH_MAX - 1) * 0.02:
            assert time.monotonic() < before + 30, patience
        assert "0.02 s, and 0.1 s without a processor" in str(patience)
    finally:
        for one in busy:
            one.kill()
            one.wait()


@pytest.mark.slow
def test_a_process_that_has_ended() -> None:
    """It counts for nothing, and is no error."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Patience(1, lambda: [gone.pid]).lengthened_s() == 0


@pytest.mark.parametrize("pids", [[os.getpid()], []])
def test_time_does_not_stand(pids: list[int]) -> None:
    """However busy the machine is, each bound is over some time."""
    patience = Patience(0.01, lambda: pids)
    deadline = time.monotonic() + 30
    while not patience.is_over():
        assert time.monotonic() < deadline
