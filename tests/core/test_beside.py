"""What lies beside a slot when it moves: each who keeps something there is asked, and told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.errors import CannotMove, NotMovedYet, StorageFull
from core.streams.live import Slot
from tests.core.cluster.several import open_several
from tests.core.support import append, run

NUMBER = 1


def test_everyone_hears_of_each_freeze(tmp_path: Path) -> None:
    """Of its beginning and its end: when the slot has gone, when there was no room, and when somebody could not bring
    what lies there. It is brought twice where all goes well. After a refusal nobody was asked to bring anything."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        slot, heard = stream.slot(NUMBER), list[str]()
        await append(slot, b"entry")
        targets = [one for one in store.containers if one != slot.container_id]
        hindrance: str | None = None
        errors: list[Exception] = [NotMovedYet("s", NUMBER, "it is not loaded"), StorageFull("no room")]

        def bring(one: Slot, target: int) -> None:
            assert one is slot
            assert store.hosted(one).container.is_leaving(one)
            heard.append(f"to {target}")
            if errors:
                raise errors.pop(0)

        def ended(one: Slot) -> None:
            is_there = stream.slot(NUMBER).container_id == targets[0]
            assert is_there == one.has_moved
            assert one.has_moved == store.hosted(one).container.is_leaving(one)
            heard.append("there" if is_there else "here")

        store.mover.beside.comes_along(bring, ended)
        store.on_move(lambda one: hindrance)
        with pytest.raises(NotMovedYet, match="not loaded"):
            await store.move_slot(stream, NUMBER, targets[0])
        assert heard == [f"to {targets[0]}", "here"]
        heard.clear()
        hindrance = "it is needed here"
        with pytest.raises(CannotMove, match="needed here"):
            await store.move_slot(stream, NUMBER, targets[0])
        assert heard == []
        hindrance = None
        await store.move_slot(stream, NUMBER, targets[0])  # the second freeze has room
        assert heard == [f"to {targets[0]}", "here", f"to {targets[0]}", f"to {targets[0]}", "there"]
        await store.close()

    run(scenario())


def test_a_hindrance_that_comes_up_during_the_copying(tmp_path: Path) -> None:
    """It is asked for again once the slot is frozen; the freeze ends for all."""

    async def scenario() -> None:
        store = await open_several(tmp_path)
        stream = await store.create_stream("s", slots=4)
        slot, ends = stream.slot(NUMBER), list[Slot]()
        await append(slot, b"entry")
        target = next(one for one in store.containers if one != slot.container_id)
        store.mover.beside.comes_along(lambda one, to: None, ends.append)
        store.on_move(lambda one: "it has begun" if store.hosted(one).container.is_leaving(one) else None)
        with pytest.raises(CannotMove, match="has begun"):
            await asyncio.wait_for(store.move_slot(stream, NUMBER, target), 20)
        assert ends == [slot]
        assert not slot.has_moved
        await store.close()

    run(scenario())
