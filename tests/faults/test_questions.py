"""After a kill, what left the log is found as before, whatever is asked: by time, by largest timestamp, by tiers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from tests.faults.client import encode_batch
from tests.faults.gateway_process import Gateway
from tests.faults.questions import ask_everything
from tests.faults.settings import SEED
from tests.faults.tiered import QUICK, local_start, until

P: Final = ("left", 0)
Q: Final = ("left", 1)
BATCH_BYTES: Final = 60_000
BATCHES: Final = 60
BEGAN_MS: Final = 1_700_000_000_000


def test_what_left_the_log_is_found_after_a_kill(tmp_path: Path) -> None:
    """Rows of log files that are gone come back with a kill, and are forgotten again by the start."""
    settings = {**QUICK, "log.retention.check.interval.ms": 3_600_000}
    with Gateway(tmp_path, settings) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            connection.create_topic(P[0], 2, {"retention.ms": "-1"})
            for number in range(BATCHES):
                for partition in (P, Q):
                    batch = encode_batch([bytes(BATCH_BYTES)], timestamp_ms=BEGAN_MS + number * 1_000)
                    assert connection.produce(*partition, batch).code == 0
            # Killed as soon as files have gone: what the index has forgotten of them is not on the disk yet.
            until(lambda: local_start(connection, P) > BATCHES // 3, "most of it has left the log")
        gateway.kill()
        told = len(gateway.output.read_text(errors="replace"))
        gateway.start()

        with gateway.connect() as connection:
            assert ask_everything(connection, [P, Q], random.Random(SEED)) == []
        text = gateway.output.read_text(errors="replace")[told:]
        assert "the file is gone" not in text
        assert "rows of log files that are gone were forgotten again" in text
