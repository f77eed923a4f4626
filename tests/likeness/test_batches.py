"""Damaged batches are refused as by Kafka, or more strictly: Penstock refuses some that Kafka stores unreadably."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

from tests.gateway.harness import Client, running_broker
from tests.likeness.batches import ANSWERS, KINDS, Answers, ask

REFUSED: Final = [87, []]
STRICTER: Final = ("of -2 bytes", "a timestamp of 70 bits", "a negative length", "a length beyond the batch")
"""Kafka takes lengths below -1 for -1, drops what a number has beyond 64 bits, and opens compressed records loosely: it
stores these, names the record, or fails with UNKNOWN_SERVER_ERROR."""
MENDED: Final = "a wrong offset"
"""Kafka stores it if uncompressed, and fails with UNKNOWN_SERVER_ERROR if it cannot; here the places become offsets."""


def test_as_kafka(tmp_path: Path) -> None:
    """Code and places of each answer, but for the differences that are named above."""

    async def asked() -> Answers:
        async with running_broker(tmp_path, "record.validation=full") as broker:
            client = await Client.connect(broker)
            for kind, config in KINDS.items():
                await client.create(kind, 1, **config)
            answers = await ask(client)
            client.close()
            return answers

    ours, kafkas = asyncio.run(asked()), json.loads(ANSWERS.read_text())

    assert ours.keys() == kafkas.keys()
    different = {
        (name, kind): (ours[name][kind], answer)
        for name, kinds in kafkas.items()
        for kind, answer in kinds.items()
        if ours[name][kind] != answer
    }
    unexplained = {
        place: (mine, its)
        for place, (mine, its) in different.items()
        if not (mine == REFUSED and place[0].endswith(STRICTER)) and not (mine == [0, []] and place[0].endswith(MENDED))
    }
    assert unexplained == {}
