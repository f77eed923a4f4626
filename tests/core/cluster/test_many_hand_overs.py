"""A container that changes hands again and again: what a taker reads of its log does not grow with that."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from core.log.objects import home
from core.log.objects.format import HEADER_SIZE
from core.tiering.writing import storage_writer
from tests.core.cluster.test_handing_over import slot_in
from tests.core.cluster.test_membership import Cluster, Node, cluster_in, contents
from tests.core.log.objects.test_store import text
from tests.core.support import append, run, until
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.storage import Buffer, ObjectInfo, ObjectStat

pytestmark = pytest.mark.slow

HAND_OVERS: Final = 10
APPENDS: Final = 30
"""Of each owner, with a put for each."""
MOVING: Final = 2
"""The container that changes hands."""
LOG_OBJECTS: Final = 60


class Counting(FilesystemStorage):
    """One node's door to the store: counts what is listed and read of one container's log until it puts into it."""

    work = 0
    is_counting = False

    def begin(self) -> None:
        self.work, self.is_counting = 0, True

    def _count(self, key: str) -> None:
        self.work += self.is_counting and key.startswith((f"log/{MOVING}/", f"packs/{MOVING}/"))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self._count(key)
        return await super().get_range(key, start, length)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in super().list(prefix, after=after):
            self._count(info.key)
            yield info

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        if key.startswith(f"log/{MOVING}/") and len(data) > HEADER_SIZE:  # no fence: it serves
            self.is_counting = False
        return await super().put_new(key, data, token=token)


def objects_of(node: Node) -> int:
    """The objects that the container's log has, as its owner counts them."""
    archive = node.store.containers[MOVING]._archive
    assert archive is not None
    return archive.objects


def is_short(node: Node) -> bool:
    return objects_of(node) < LOG_OBJECTS


def serves(node: Node) -> bool:
    return MOVING in node.membership.serving


def walked(records: list[logging.LogRecord]) -> list[int]:
    """The objects of the container's log in each takeover, in their order."""
    taken: list[dict[str, Any]] = [vars(one) for one in records if one.getMessage() == "log taken over"]
    return [one["objects"] for one in taken if one["container"] == MOVING]


def test_the_last_hand_over_reads_no_more_than_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No owner has it for as long as entries may wait for a chunk. Each one cuts the log all the same, so that neither
    the next one nor whoever replaces it when it dies reads what many owners before it have written."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(home, "LOG_OBJECTS_MAX", LOG_OBJECTS)
    monkeypatch.setattr(home, "FILE_OBJECTS", LOG_OBJECTS // 4)
    monkeypatch.setattr(storage_writer, "LONG_PAUSE_S", 0.0)
    monkeypatch.setattr(storage_writer, "TICK_S", 0.02)
    monkeypatch.setattr(storage_writer, "LOOK_COST", 0)

    async def scenario() -> None:
        async with cluster_in(tmp_path) as cluster:
            doors = [await Counting.open(FilesystemSettings(directory=tmp_path / "bucket")) for _ in range(2)]
            nodes = await served_by_the_first(cluster, doors)
            number = slot_in(nodes[0], MOVING).number
            written: list[bytes] = []
            work: list[int] = []
            for turn in range(HAND_OVERS):
                owner, heir = nodes[turn % 2], 1 - turn % 2
                for _ in range(APPENDS):
                    written.append(text(len(written)))
                    await append(slot_in(owner, MOVING), written[-1])
                await until(partial(is_short, owner))
                doors[heir].begin()
                cluster.coordinator.ask(MOVING, heir)
                await until(partial(serves, nodes[heir]))
                work.append(doors[heir].work)
            last = HAND_OVERS % 2
            assert b"".join((await contents([nodes[last]]))[number]) == b"".join(written)
            assert max(walked(caplog.records)) < 2 * LOG_OBJECTS < HAND_OVERS * APPENDS / 2
            assert max(work) < 6 * LOG_OBJECTS, f"listed and read: {work}"

            doors[1 - last].begin()
            cluster.coordinator.end(nodes[last].seat.life)
            await cluster.at_rest(nodes[1 - last])
            assert b"".join((await contents([nodes[1 - last]]))[number]) == b"".join(written)
            assert walked(caplog.records)[-1] < 2 * LOG_OBJECTS
            assert doors[1 - last].work < 6 * LOG_OBJECTS
            for door in doors:
                await door.close()

    run(scenario())


async def served_by_the_first(cluster: Cluster, doors: list[Counting]) -> list[Node]:
    """Two nodes, of which the first has all containers, and a stream with a slot in each."""
    first = await cluster.join(doors[0])
    await cluster.at_rest(first)
    await first.store.create_stream("s", slots=4)
    second = await cluster.join(doors[1])
    await second.store.catch_up()
    return [first, second]
