"""Whether a node reaches the object store, as others are told."""

from __future__ import annotations

import asyncio

import pytest

from core.cluster import reaching
from core.cluster.reaching import Reaching
from core.errors import CoordinatorAway
from tests.core.support import run, until
from tier2.storage import Unavailable


class Store:
    """Answers, refuses, or is silent until it is to answer."""

    def __init__(self) -> None:
        self.refuses = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = self.waiting = self.most = 0

    async def look(self) -> None:
        self.asked += 1
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.answers.wait()
        finally:
            self.waiting -= 1
        if self.refuses:
            raise Unavailable("nobody listens")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "ANSWER_S", "AGAIN_S"):
        monkeypatch.setattr(reaching, name, 0.01)


def test_what_changes_is_told_once() -> None:
    """A store that refuses, or says nothing, for as long as it does so; one question waits at a time."""

    async def scenario() -> None:
        store, told = Store(), list[bool]()

        async def tell(is_good: bool) -> None:
            told.append(is_good)

        looking = Reaching(store.look, tell, lambda: told[-1] if told else True)
        looking.start()
        await until(lambda: store.asked > 3)
        assert told == []
        store.refuses = True
        await until(lambda: told == [False])
        asked = store.asked
        await until(lambda: store.asked > asked + 3)
        store.refuses = False
        await until(lambda: told == [False, True])
        store.answers.clear()
        await until(lambda: told == [False, True, False])
        store.answers.set()
        await until(lambda: told == [False, True, False, True])
        await looking.stop()
        assert store.most == 1
        assert store.waiting == 0

    run(scenario())


def test_what_the_coordinator_has_not_heard_is_told_again() -> None:
    """And what changed back meanwhile is not told at all."""

    async def scenario() -> None:
        store, told, is_away = Store(), list[bool](), [True]
        tries = 0

        async def tell(is_good: bool) -> None:
            nonlocal tries
            tries += 1
            if is_away[0]:
                raise CoordinatorAway("cut off")
            told.append(is_good)

        looking = Reaching(store.look, tell, lambda: None)
        looking.start()
        store.refuses = True
        await until(lambda: tries > 2)
        store.refuses, asked = False, store.asked
        await until(lambda: store.asked > asked + 2)
        is_away[0], asked = False, store.asked
        await until(lambda: store.asked > asked + 2)
        assert told == []
        store.refuses = True
        await until(lambda: told == [False])
        await looking.stop()

    run(scenario())


def test_a_life_that_says_what_was_so_before_is_corrected() -> None:
    """It began while the store came back, with the word of before."""

    async def scenario() -> None:
        store, shown = Store(), [True]

        async def tell(is_good: bool) -> None:
            shown[0] = is_good

        looking = Reaching(store.look, tell, lambda: shown[0])
        looking.start()
        await until(lambda: store.asked > 1)
        shown[0] = False
        await until(lambda: shown[0])
        await looking.stop()

    run(scenario())
