"""Random schedules over the log's protocol: owners that sleep, late puts, lost answers, checkpoints and removals.

Whatever happens, a later taker finds every group that was acknowledged, with the same bytes, and can go on. Each
mistake that is planted here, all of which were made by others, must be found by the same schedules.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from core.log.objects.protocol import (
    FAST_LINGER_S,
    GENESIS,
    LINGER_MAX_S,
    Fence,
    FindCheckpoint,
    Group,
    Linger,
    LogObject,
    Outcome,
    Owned,
    Place,
    PutFence,
    Read,
    Takeover,
    Window,
    outcome,
)

pytestmark = pytest.mark.slow

OWNERS_MAX = 4
STEPS_MAX = 200
NUMBER = st.integers(0, 5)


class Store:
    """Puts if absent, and a list of checkpoints: all that the protocol asks of a store."""

    def __init__(self) -> None:
        self.objects: dict[Place, LogObject] = {}
        self.checkpoints: list[Place] = []
        self.below: dict[int, str] = {}  # first LSN -> token, of all groups that checkpoints hold

    def name(self, place: Place) -> Place:
        return place

    def read(self, place: Place) -> LogObject | None:
        return self.objects.get(self.name(place))

    def put_new(self, found: LogObject) -> bool:
        return self.objects.setdefault(self.name(found.place), found) is found

    def newest(self) -> Place:
        return max(self.checkpoints, key=lambda place: (place.lsn, place.epoch), default=GENESIS)

    def remove_below(self, lsn: int) -> None:
        for place in [p for p, o in self.objects.items() if p.lsn < lsn and isinstance(o, Group)]:
            del self.objects[place]


@dataclass
class Owner:
    takeover: Takeover
    window: Window | None = None
    known: list[Group] = field(default_factory=list)  # acknowledged or found, and in no checkpoint of this owner yet
    sent: list[Group] = field(default_factory=list)  # not at the store yet
    silent: list[Group] = field(default_factory=list)  # at the store, or refused by it; the answer was lost
    waiting: list[Group] = field(default_factory=list)  # begun, not acknowledged
    checkpoint: int = 0  # LSN below which it may remove groups


class Schedules(RuleBasedStateMachine):
    """One container's log under several owners, only one of which owns it."""

    store_class: ClassVar[type[Store]] = Store
    window_class: ClassVar[type[Window]] = Window
    takeover_class: ClassVar[type[Takeover]] = Takeover

    def __init__(self) -> None:
        super().__init__()
        self.store = self.store_class()
        self.owners: list[Owner] = []
        self.tokens = itertools.count(1)
        self.acknowledged: dict[int, str] = {}  # first LSN -> token
        self.finish(self.new_owner())

    def token(self) -> str:
        return f"{next(self.tokens):032x}"

    def new_owner(self) -> Owner:
        owner = Owner(self.takeover_class(self.token()))
        self.owners.append(owner)
        return owner

    def one(self, number: int, *, serving: bool) -> Owner | None:
        those = [o for o in self.owners if (o.window is not None and not o.window.is_deposed) is serving]
        return those[-1 - number % len(those)] if those else None

    def step(self, owner: Owner) -> None:
        takeover = owner.takeover
        match takeover.wanted:
            case FindCheckpoint():
                takeover.found_checkpoint(self.store.newest())
            case Read(place):
                takeover.has_read(self.store.read(place))
            case PutFence(fence):
                self.store.put_new(fence)
                takeover.has_put()
            case Owned(place, groups, _):
                owner.window = self.window_class(place, 4)
                owner.known = list(groups)

    def finish(self, owner: Owner) -> None:
        for _ in range(STEPS_MAX):
            if owner.window is not None:
                return
            self.step(owner)
        raise AssertionError(f"a takeover does not end: {owner.takeover}")

    def tell(self, owner: Owner, group: Group, what: Outcome) -> None:
        assert owner.window is not None
        stored = owner.window.ended(group, what)
        while stored is not None and owner.waiting and owner.waiting[0].last_lsn <= stored:
            done = owner.waiting.pop(0)
            assert done.place.lsn not in self.acknowledged, f"LSN {done.place.lsn} is acknowledged twice"
            self.acknowledged[done.place.lsn] = done.token
            owner.known.append(done)

    # Rules

    @precondition(lambda self: len(self.owners) < OWNERS_MAX)
    @rule(at_once=st.booleans())
    def another_takes_over(self, at_once: bool) -> None:
        owner = self.new_owner()
        if at_once:
            self.finish(owner)

    @rule(number=NUMBER, steps=st.integers(1, 5))
    def a_taker_goes_on(self, number: int, steps: int) -> None:
        if (owner := self.one(number, serving=False)) is not None and owner.window is None:
            for _ in range(steps):
                if owner.window is None:
                    self.step(owner)

    @rule(number=NUMBER, size=st.integers(1, 2))
    def a_group_is_sent(self, number: int, size: int) -> None:
        owner = self.one(number, serving=True)
        if owner is not None and owner.window is not None and owner.window.is_open:
            before = owner.waiting[-1].last_lsn if owner.waiting else owner.window.stored_lsn
            group = owner.window.begin(before + size, self.token())
            owner.sent.append(group)
            owner.waiting.append(group)

    @rule(number=NUMBER, which=NUMBER, answers=st.sampled_from(("comes", "comes", "is lost", "is lost, as the put")))
    def a_put_arrives(self, number: int, which: int, answers: str) -> None:
        owner = self.one(number, serving=True)
        if owner is None or not owner.sent:
            return
        group = owner.sent.pop(which % len(owner.sent))
        if answers == "is lost, as the put":
            owner.silent.append(group)
            return
        stored = self.store.put_new(group)
        if answers == "is lost":
            owner.silent.append(group)
        else:
            self.tell(owner, group, Outcome.STORED if stored else outcome(self.store.read(group.place), group.token))

    @rule(number=NUMBER, size=st.integers(1, 2))
    def a_group_is_sent_and_arrives(self, number: int, size: int) -> None:
        self.a_group_is_sent(number, size)
        self.a_put_arrives(number, -1, "comes")

    @rule(number=NUMBER, which=NUMBER)
    def an_outcome_is_settled(self, number: int, which: int) -> None:
        owner = self.one(number, serving=True)
        if owner is None or not owner.silent:
            return
        group = owner.silent.pop(which % len(owner.silent))
        what = outcome(self.store.read(group.place), group.token)
        if what is Outcome.UNKNOWN:
            owner.sent.append(group)
        self.tell(owner, group, what)

    @rule(number=NUMBER, count=st.integers(1, 4))
    def a_checkpoint_is_stored(self, number: int, count: int) -> None:
        owner = self.one(number, serving=True)
        if owner is not None and owner.known:
            self.checkpoint(owner, count)

    @rule(number=NUMBER, count=st.integers(1, 4))
    def a_checkpoint_is_stored_and_the_log_cut(self, number: int, count: int) -> None:
        self.a_checkpoint_is_stored(number, count)
        self.the_log_is_cut(number)

    @rule(number=NUMBER)
    def the_log_is_cut(self, number: int) -> None:
        owner = self.one(number, serving=True)
        if owner is not None:
            self.store.remove_below(owner.checkpoint)

    def checkpoint(self, owner: Owner, count: int) -> None:
        held, owner.known = owner.known[:count], owner.known[count:]
        last = held[-1]
        for group in held:
            self.store.below[group.place.lsn] = group.token
        self.store.checkpoints.append(Place(last.place.epoch, last.last_lsn + 1))
        owner.checkpoint = last.last_lsn + 1

    def teardown(self) -> None:
        last = self.new_owner()
        self.finish(last)
        found = self.store.below | {group.place.lsn: group.token for group in last.known}
        missing = {lsn for lsn, token in self.acknowledged.items() if found.get(lsn) != token}
        assert not missing, f"acknowledged, and lost: {missing}"
        assert last.window is not None
        group = last.window.begin(last.window.stored_lsn + 1, self.token())
        assert self.store.put_new(group), f"the only owner cannot go on: {self.store.read(group.place)}"


class DeletesFences(Store):
    """As a naive truncation: everything below the checkpoint goes."""

    def remove_below(self, lsn: int) -> None:
        for place in [place for place in self.objects if place.lsn < lsn]:
            del self.objects[place]


class NamesBySequence(Store):
    """The names of DESIGN's first form: no epoch in them."""

    def name(self, place: Place) -> Place:
        return Place(0, place.lsn)


class AcknowledgesAtOnce(Window):
    """Each put is acknowledged with all before it as soon as it alone is stored."""

    def ended(self, group: Group, outcome: Outcome) -> int | None:
        if self.is_deposed or outcome is not Outcome.STORED:
            return super().ended(group, outcome)
        while self._puts and self._puts[0].last_lsn <= group.last_lsn:
            self._puts.popleft()
        self.stored_lsn = max(self.stored_lsn, group.last_lsn)
        return self.stored_lsn


class BelievesSilence(Window):
    """A put without an answer, and without an object, counts as stored."""

    def ended(self, group: Group, outcome: Outcome) -> int | None:
        return super().ended(group, Outcome.STORED if outcome is Outcome.UNKNOWN else outcome)


class LooksOnce(Takeover):
    """Does not look at the checkpoint again after its fence."""

    def has_read(self, found: LogObject | None) -> None:
        super().has_read(found)
        if isinstance(found, Fence) and found.token == self._token:
            self._wanted = Owned(self._at, tuple(self._groups), ())


def machine(**planted: object) -> type[Schedules]:
    return type("Planted", (Schedules,), planted)


def searched(kind: type[Schedules], examples: int, *phases: Phase) -> None:
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            phases=phases or (Phase.generate,),
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


def test_no_schedule_loses_or_doubles_what_was_acknowledged() -> None:
    searched(Schedules, 300)


@pytest.mark.parametrize(
    ("planted", "what"),
    [
        ({"store_class": DeletesFences}, "lost|twice"),
        ({"store_class": NamesBySequence}, "cannot go on|does not end|lost"),
        ({"window_class": AcknowledgesAtOnce}, "lost|twice"),
        ({"window_class": BelievesSilence}, "lost|twice"),
        ({"takeover_class": LooksOnce}, "lost|twice"),
    ],
    ids=lambda one: next(iter(one.values())).__name__ if isinstance(one, dict) else "",
)
def test_a_planted_mistake_is_found(planted: dict[str, object], what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        searched(machine(**planted), 3000)


def test_a_deposed_owner_acknowledges_nothing_any_more() -> None:
    window = Window(Place(1, 1), 4)
    first, second = window.begin(1, "01"), window.begin(2, "02")
    assert window.ended(second, Outcome.STORED) is None
    assert window.ended(first, Outcome.DEPOSED) is None
    assert not window.is_open
    assert window.stored_lsn == 0


def test_puts_are_acknowledged_in_order_and_bounded() -> None:
    window = Window(Place(3, 10), 2)
    first, second = window.begin(12, "01"), window.begin(15, "02")
    assert (first.place, second.place) == (Place(3, 10), Place(3, 13))
    assert not window.is_open
    assert window.ended(second, Outcome.STORED) is None
    assert window.ended(first, Outcome.UNKNOWN) is None
    assert window.ended(first, Outcome.STORED) == 15
    assert window.is_idle


def test_the_linger_follows_the_store() -> None:
    linger = Linger(4)
    assert linger.seconds == FAST_LINGER_S
    linger.answered(0.1)
    assert linger.seconds == pytest.approx(0.025)
    linger.answered(10.0)
    assert linger.seconds == LINGER_MAX_S
    assert Linger(4, 0.5).seconds == 0.5
