"""The time that threads wait for a processor is reported where they wait, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.hostile.starved import Starved

BUSY = "while True: pass"
FOR_S = 0.5
WAIT_S_MIN = 0.002
"""Of two that want one processor the whole time: less than one slice of Linux's scheduler."""


def test_two_on_one_processor() -> None:
    processor = min(os.sched_getaffinity(0))
    both = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        for process in both:
            os.sched_setaffinity(process.pid, {processor})
        starved = Starved([process.pid for process in both])
        assert starved.longest_s == 0
        time.sleep(FOR_S)
        starved.look()
    finally:
        for process in both:
            process.kill()
            process.wait()

    assert WAIT_S_MIN < starved.longest_s < 2 * FOR_S


def test_one_that_ended() -> None:
    """A process that is gone waits for nothing."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    starved = Starved([process.pid])
    process.wait()
    starved.look()

    assert starved.longest_s < FOR_S
