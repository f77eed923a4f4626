"""Read-ahead rests where its thread waited for a processor while something is appended, and nowhere else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.tiering.reading import yielding
from core.tiering.reading.yielding import ACTIVE_S, REST, REST_S_MAX, WAIT_S_MIN, Yielding, waited_s


class World:
    """A thread's waits, the log and the clock, as a test wants them; remembers rests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lsn = 1
        self.now_s = 100.0
        self.waited_s = 5.0
        self.rests: list[float] = []
        monkeypatch.setattr(yielding, "waited_s", lambda: self.waited_s)
        monkeypatch.setattr(yielding, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(yielding, "sleep", self.rests.append)
        self.stretch = Yielding(lambda: self.lsn).stretch()
        self.stretch.yield_now()

    def page(self, *, waited_s: float, appended: bool) -> None:
        """A page comes, after this wait; something was appended meanwhile, or not."""
        self.waited_s += waited_s
        self.lsn += appended
        self.stretch.yield_now()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_thread_that_waited_rests_for_longer(world: World) -> None:
    world.page(waited_s=0.001, appended=True)
    world.page(waited_s=0.002, appended=True)

    assert world.rests == pytest.approx([REST * 0.001, REST * 0.002])


def test_no_rest_is_longer_than_the_bound(world: World) -> None:
    """However long the thread had to wait: its reader goes on."""
    world.page(waited_s=3.0, appended=True)

    assert world.rests == [REST_S_MAX]


def test_nobody_rests_where_a_processor_is_free(world: World) -> None:
    world.page(waited_s=0.0, appended=True)
    world.page(waited_s=WAIT_S_MIN / 2, appended=True)

    assert world.rests == []


def test_nobody_rests_while_nothing_is_appended(world: World) -> None:
    """A consumer that catches up alone has all processors; what was appended a while ago does not count."""
    world.page(waited_s=0.001, appended=False)
    assert world.rests == []

    world.page(waited_s=0.001, appended=True)
    world.now_s += ACTIVE_S / 2
    world.page(waited_s=0.001, appended=False)
    assert len(world.rests) == 2

    world.now_s += ACTIVE_S
    world.page(waited_s=0.001, appended=False)
    assert len(world.rests) == 2


def test_a_rest_is_no_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its rest a thread may have to wait again: that is not counted, or it would rest for ever."""

    def sleep(seconds: float) -> None:
        world.rests.append(seconds)
        world.waited_s += 1.0

    monkeypatch.setattr(yielding, "sleep", sleep)
    world.page(waited_s=0.001, appended=True)
    world.page(waited_s=0.0, appended=True)

    assert len(world.rests) == 1


def test_the_wait_of_a_thread_is_known_or_nothing() -> None:
    """It never goes back, and a system that does not tell it has none."""
    before = waited_s()
    deadline = time.monotonic() + 0.01
    while time.monotonic() < deadline:
        pass

    assert 0.0 <= before <= waited_s()


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yielding, "_SCHEDSTAT", tmp_path / "missing")

    assert waited_s() == 0.0
