"""The collector of cyclic garbage: short passes, whatever there is, and no garbage for ever."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest

from gateway.process.gc_passes import ShortPasses

pytestmark = pytest.mark.slow

OBJECTS: Final = 1_500_000
LOOKED_AT_MAX: Final = 15_000
"""0.4 µs each where they lie scattered: 6 ms."""


class Node:
    """Refers to itself, so it goes only with the collector."""

    def __init__(self) -> None:
        self.itself = self


@contextmanager
def collecting(old_min: int = 100_000_000) -> Iterator[list[Callable[[], None]]]:
    """A collector at work, and what it wants to be called later."""
    later: list[Callable[[], None]] = []
    before, was_enabled = gc.get_threshold(), gc.isenabled()
    passes = ShortPasses(later.append, old_min)
    passes.begin()
    try:
        yield later
    finally:
        passes.end()
        gc.unfreeze()
        gc.set_threshold(*before)
        if not was_enabled:
            gc.disable()


@contextmanager
def watched_passes() -> Iterator[list[int]]:
    """The number of objects that each pass looks at."""
    passes: list[int] = []

    def passed(phase: str, info: Mapping[str, Any]) -> None:
        if phase == "start":
            passes.append(sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1)))

    gc.callbacks.append(passed)
    try:
        yield passes
    finally:
        gc.callbacks.remove(passed)


def make(objects: int) -> list[list[int]]:
    return [[n] for n in range(objects)]


def test_passes_are_short() -> None:
    """However many objects there are that stay."""
    with collecting(), watched_passes() as passes:
        kept = make(OBJECTS)
        assert len(kept) == OBJECTS

    assert len(passes) > 100
    assert max(passes) < LOOKED_AT_MAX


def test_young_garbage() -> None:
    """Young garbage is found soon, beside many objects that stay."""
    with collecting():
        kept = make(OBJECTS // 10)
        lost = weakref.ref(Node())
        kept += make(OBJECTS // 10)
        assert lost() is None


def test_old_garbage() -> None:
    """Garbage among old objects is found when twice as many are there as before."""
    with collecting(old_min=gc.get_freeze_count() + len(gc.get_objects()) + OBJECTS // 2) as later:
        node = Node()
        lost = weakref.ref(node)
        kept = make(OBJECTS // 10)
        del node
        kept += make(OBJECTS // 10)
        assert lost() is not None  # it was set aside
        assert not later

        kept += make(OBJECTS)
        (look,) = later
        look()
        assert lost() is None
        later.clear()
        kept += make(OBJECTS // 2)
        assert not later


def test_what_is_gone_by_itself() -> None:
    """Objects that were set aside and went do not bring about a long pass."""
    with collecting(old_min=gc.get_freeze_count() + len(gc.get_objects()) + OBJECTS // 5) as later:
        for _ in range(10):
            make(OBJECTS // 10)
        for look in later:
            with watched_passes() as passes:
                look()
            assert not passes
        assert later
