"""Transactions of one slot, played from a script in which a letter is an entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from core.log.records import Put
from core.streams.live import Slot
from tests.core.support import append, append_in_transaction, end_of, owner_of

WRITERS: Final = {"a": 1, "b": 2, "c": 3}
DONE: Final = Put("t", b"done", b"x")


async def play(slot: Slot, script: str) -> None:
    """`a`: an entry of writer a's transaction; `a+`, `a-`: its end; `.`: an entry of nobody's. All of one byte."""
    for token in script.split():
        if token == ".":
            await append(slot, b"x")
        elif len(token) == 1:
            await append_in_transaction(slot, b"x", (WRITERS[token], 0, next_sequence(slot, WRITERS[token])))
        else:
            end = end_of(slot, WRITERS[token[0]], committed=token[1] == "+")
            await owner_of(slot).end_transactions([replace(end, entry=lambda *_: b"x")], [DONE])


def next_sequence(slot: Slot, writer_id: int) -> int:
    state = (slot.writers or {}).get(writer_id)
    return state.batches[-1].last_sequence + 1 if state is not None and state.batches else 0


def aborted(slot: Slot, first: int = 0, end: int = 1 << 40) -> list[tuple[int, int, int]]:
    """First, marker, writer of the transactions that a reader of a range skips."""
    return [(row.first, row.last, row.writer_id) for row in slot.aborted_in(first, end)]
