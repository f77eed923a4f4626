"""Power cuts while chunks are put, merged, compacted and deleted, and transactions end.

The power is cut for the process that rewrites chunks, too.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from tests.faults.churn import KeyWriter, Trimmer
from tests.faults.gateway_process import Gateway
from tests.faults.history import History, Partition
from tests.faults.load import BatchWriter, Client, IdempotentWriter, Load, TailReader
from tests.faults.power import cut_power, start_shadowed
from tests.faults.questions import ask
from tests.faults.settings import SEED, scaled
from tests.faults.tiered import QUICK, problems, until, verify
from tests.faults.transfers import Transfers

CUTS: Final = scaled(5, 300)
UP_SECONDS: Final = (1.0, 2.5)
KEPT: Final[Partition] = ("unplugged", 0)
TRIMMED: Final[Partition] = ("unplugged", 1)
TRANSFERS: Final[list[Partition]] = [("transfers", 0), ("transfers", 1)]
COMPACTED: Final[Partition] = ("compacted", 0)
COMPACT: Final = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
REWRITTEN: Final = "chunks rewritten"
REWRITTEN_SECONDS_MAX: Final = 90.0


@pytest.mark.timeout(480 if CUTS == 5 else 0)
def test_power_cuts_while_it_moves_data(tmp_path: Path, shadow: Path) -> None:
    """Nothing acknowledged is lost, transactions are whole, and no object is missing or left behind."""
    dice = random.Random(SEED)
    history = History()
    with Gateway(tmp_path, QUICK) as gateway:
        start_shadowed(gateway, shadow)
        with gateway.connect() as connection:
            connection.create_topic(KEPT[0], 2)
            connection.create_topic(TRANSFERS[0][0], 2)
            connection.create_topic(COMPACTED[0], 1, COMPACT)

        def address() -> str:
            return gateway.address

        transfers = Transfers(address, TRANSFERS, SEED)
        keys = KeyWriter(address, COMPACTED, SEED)
        clients: list[Client] = [
            BatchWriter("plain", address, history, [KEPT, TRIMMED], SEED),
            IdempotentWriter("sure", address, history, [KEPT, TRIMMED], SEED),
            TailReader(address, history, KEPT, SEED),
            Trimmer(address, TRIMMED, SEED),
            transfers,
            keys,
        ]
        with Load(clients) as load:
            for number in range(CUTS):
                load.run_for(dice.uniform(*UP_SECONDS))
                cut_power(gateway, shadow)
                with gateway.connect() as connection:
                    found = load.problems() + ask(connection, [dice.choice([KEPT, TRIMMED, *TRANSFERS])], dice)
                assert found == [], f"after cut {number + 1}, seed {SEED}"
            until(lambda: load.problems() or rewritten(gateway), "chunks were rewritten", REWRITTEN_SECONDS_MAX)
            load.drain()
            assert load.problems() == [], f"seed {SEED}"
        cut_power(gateway, shadow)

        assert problems(gateway, history, [KEPT, TRIMMED]) == [], f"seed {SEED}"
        with gateway.connect() as connection:
            assert transfers.check(connection) == [], f"seed {SEED}"
            assert keys.check(connection) == [], f"seed {SEED}"
        assert gateway.stop() == 0
        checked = verify(gateway)
        print(
            f"seed {SEED}: {history.acknowledged_count()} records, {len(transfers.committed)} transactions committed, "
            f"{transfers.aborted} aborted, {rewritten(gateway)} rewrites; {checked}"
        )
        assert (checked["missing"], checked["damaged"], checked["orphaned"]) == ([], [], []), f"seed {SEED}"
    assert len(transfers.committed) > CUTS
    assert transfers.aborted > 0


def rewritten(gateway: Gateway) -> int:
    """Rewrites that were committed in all lives."""
    return gateway.output.read_text(errors="replace").count(REWRITTEN)
