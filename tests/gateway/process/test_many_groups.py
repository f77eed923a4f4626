"""Groups that strangers make up, in a real gateway: nobody waits for Python's collector beside them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import pytest

from bench.hostile.wire import Stranger, frame
from tests.gateway.launching import WATCHED, longest_turn_ms, serving

pytestmark = pytest.mark.slow

GROUPS: Final = 25_000
AT_ONCE: Final = 250
TOPIC: Final = "t"


def commit(group: str) -> bytes:
    partition = {"partition_index": 0, "committed_offset": 1}
    topics = [{"name": TOPIC, "partitions": [partition]}]
    return frame(
        "OffsetCommit",
        8,
        {"group_id": group, "generation_id_or_member_epoch": -1, "member_id": "", "topics": topics},
    )


def test_many_groups(tmp_path: Path) -> None:
    """The longest turn of the loop, passes of the collector, a stop and all, is below 50 ms of its CPU time."""
    with serving(tmp_path, command=WATCHED) as gateway:
        host, _, port = gateway.ready()["kafka"][0].rpartition(":")
        with contextlib.closing(Stranger((host, int(port)))) as stranger:
            stranger.create([(TOPIC, 1)])
            for first in range(0, GROUPS, AT_ONCE):
                stranger.send(*(commit(f"made up {n}") for n in range(first, first + AT_ONCE)))
                for _ in range(AT_ONCE):
                    stranger.skip()

        assert 0 < longest_turn_ms(gateway) < 50
        assert gateway.terminate() == 0
        assert 0 < longest_turn_ms(gateway) < 50
