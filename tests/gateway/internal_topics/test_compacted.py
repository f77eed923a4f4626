"""The compacted log of keys, against a list of all changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.internal_topics import compacted
from gateway.internal_topics.compacted import CompactedLog

pytestmark = pytest.mark.slow

FIRST = 1_000


class Histories(RuleBasedStateMachine):
    """Keys change and are deleted; a model keeps every change."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(compacted, "BLOCK_ENTRIES", 4)
        self.patch.setattr(compacted, "TOMBSTONES_MAX", 3)
        self.log: CompactedLog[int] = CompactedLog(FIRST)
        self.changes: list[tuple[int, int]] = []
        self.gone: list[int] = []

    def teardown(self) -> None:
        self.patch.undo()

    @rule(key=st.integers(0, 12), gone=st.booleans())
    def change(self, key: int, gone: bool) -> None:
        offset = self.log.note(key, gone=gone)
        self.changes.append((offset, key))
        if key in self.gone:
            self.gone.remove(key)
        if gone:
            self.gone.append(key)
            if len(self.gone) > 3:
                forgotten = self.gone.pop(0)
                self.changes = [change for change in self.changes if change[1] != forgotten]

    @rule(back=st.integers(0, 40))
    def read(self, back: int) -> None:
        position = self.log.end - back
        newest = {key: offset for offset, key in self.changes}
        expected = sorted((offset, key) for key, offset in newest.items() if offset >= position)
        assert list(self.log.behind(position)) == expected

    @invariant()
    def offsets_rise(self) -> None:
        offsets = [offset for offset, _ in self.log.behind(0)]
        assert offsets == sorted(set(offsets))
        assert all(FIRST <= offset < self.log.end for offset in offsets)
        assert self.log.start() == min(offsets, default=self.log.end)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.log.entries_held <= 2 * len(self.log) + 2 * compacted.BLOCK_ENTRIES


TestHistories = Histories.TestCase


@given(st.integers(1, 50), st.integers(1, 3_000))
def test_hot_keys(keys: int, changes: int) -> None:
    """However often a few keys change, each is there once, and memory holds no more than some blocks."""
    log: CompactedLog[int] = CompactedLog(0)
    for n in range(changes):
        log.note(n % keys)

    assert len(list(log.behind(0))) == min(keys, changes)
    assert log.entries_held <= 2 * keys + 2 * compacted.BLOCK_ENTRIES
