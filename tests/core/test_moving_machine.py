"""The rules of a move over the real records of containers and the real states of streams, with kills between any two.

Two containers' logs are lists of records that `Outcomes` applies, as in life and in a recovery; the registry is one
state. What the model keeps is only what was acknowledged. Mistakes are planted in it, and each is found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from core.applied.tables import Delete, Put
from core.container.arrivals import arrival_delete, arrival_put, place_of
from core.container.outcomes import Outcomes
from core.container.unsaved import Unsaved
from core.streams.handing import begun, handed_over
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.state import STREAMS_TABLE, StreamState, new_stream, stream_key
from core.streams.writers import WriterBatch

STREAM, NUMBER, WRITER = 1, 0, 9
PLACE = STREAM, NUMBER

Record = Put | Delete | int
"""An operation, or an entry of the slot by its number."""


@dataclass
class Container:
    """A container as its log makes it. A kill leaves the log, and nothing else."""

    id: int
    world: World
    log: list[Record] = field(default_factory=list)
    epoch: int = 0

    def __post_init__(self) -> None:
        self.recover(())

    @property
    def known_writers(self) -> KnownWriters:
        return self.outcomes.known_writers

    def recover(self, log: tuple[Record, ...]) -> None:
        self.log = []
        self.outcomes = Outcomes(
            self.id,
            Unsaved(),
            KnownWriters(100),
            lambda stream_id, state: self.world.stream_changed(self, stream_id, state),
            lambda slot: None,
            lambda stream, number: Slot(self, stream, number),
            lambda slot: None,
            lambda stream_id: None,
            lambda slot: self.world.containers[slot.container_id].displaced(slot),
        )
        for record in log:
            self.write(record)

    def write(self, record: Record) -> None:
        self.log.append(record)
        if not isinstance(record, int):
            self.outcomes.apply([record])
            return
        slot = self.outcomes.slot_at(*PLACE)
        if slot is not None:
            assert slot.end == record, "frames of a slot follow one another"
            slot.appended(record, 1, 10, 0, self.epoch, 0, WRITER, 0, record, 0, 0)
            slot.durable(record + 1, 10)

    def displaced(self, slot: Slot) -> None:
        self.outcomes.displaced(slot)

    @property
    def slot(self) -> Slot | None:
        return self.outcomes.slot_at(*PLACE)


class World:
    """Two containers, of which the first decides, and what callers were told."""

    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.containers = [Container(id, self) for id in range(2)]
        self.acknowledged = 0
        created = new_stream(
            stream_id=STREAM,
            name="s",
            uuid=UUID(int=1),
            slots=2,
            created_ms=0,
            container=0,
            config={},
            placement=(0, 1),
        )
        self.decided = created
        for one in self.containers:
            one.write(Put(STREAMS_TABLE, stream_key(STREAM), created.encode()))

    def stream_changed(self, container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
        if state is None:
            return self.streams.get(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self.streams[stream_id] = Stream(state, StreamPolicy(), self.make_slot)
        elif state.revision >= stream.state.revision:
            stream.state = state
        return stream

    def make_slot(self, stream: Stream, number: int) -> Slot:
        return Slot(self.containers[stream.logged.container_of_slot(number)], stream, number)

    @property
    def owner(self) -> Container:
        return self.containers[self.decided.container_of_slot(NUMBER)]

    def restart(self) -> None:
        """All are recovered from their logs, then a start settles what they do not agree about."""
        logs = [tuple(one.log) for one in self.containers]
        self.streams.clear()
        for one, log in zip(self.containers, logs, strict=True):
            one.recover(log)
        for one in self.containers:
            self.follow(one)
        for one in self.containers:
            for key in list(one.outcomes.table("arriving.slots").entries):
                one.write(arrival_delete(place_of(key)))

    def follow(self, one: Container) -> None:
        if one.outcomes.copies[STREAM].revision < self.decided.revision:
            one.write(Put(STREAMS_TABLE, stream_key(STREAM), self.decided.encode()))


seldom = st.integers(0, 5).map(lambda n: n == 0)


class Moves(RuleBasedStateMachine):
    """One move at a time, step by step; appends and kills whenever they are possible."""

    forgets_the_seal: ClassVar[bool] = False
    forgets_writers: ClassVar[bool] = False
    decides_before_the_state: ClassVar[bool] = False
    settles_by_its_own: ClassVar[bool] = False

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.step = "rest"
        self.source = self.target = self.world.owner

    @precondition(lambda self: self.step in ("rest", "copying") or self.forgets_the_seal)
    @rule()
    def append(self) -> None:
        owner = self.world.owner if self.step != "decided" else self.source
        slot = owner.slot
        if slot is None:
            return
        owner.write(slot.end)
        self.world.acknowledged = max(self.world.acknowledged, slot.end)

    @precondition(lambda self: self.step == "rest")
    @rule()
    def arrive(self) -> None:
        self.source = self.world.owner
        self.target = self.world.containers[1 - self.source.id]
        assert self.source.slot is not None
        self.target.write(arrival_put(PLACE, begun(self.source.slot, len(self.target.log) + 1)))
        self.step = "copying"

    @precondition(lambda self: self.step in ("copying", "frozen"))
    @rule(most=st.integers(1, 4))
    def copy(self, most: int) -> None:
        ours, theirs = self.target.slot, self.source.slot
        assert ours is not None
        assert theirs is not None
        for n in range(ours.end, min(ours.end + most, theirs.end)):
            self.target.write(n)

    @precondition(lambda self: self.step == "copying")
    @rule()
    def freeze(self) -> None:
        self.step = "frozen"

    @precondition(lambda self: self.step == "frozen")
    @rule()
    def hand_over(self) -> None:
        ours, theirs = self.target.slot, self.source.slot
        assert ours is not None
        assert theirs is not None
        if not self.decides_before_the_state:
            for n in range(ours.end, theirs.end):
                self.target.write(n)
            if self.forgets_writers:
                theirs.writers = None
            self.target.write(arrival_put(PLACE, handed_over(theirs, ours, ())))
        self.step = "settled"

    @precondition(lambda self: self.step in ("copying", "frozen", "settled"))
    @rule(is_meant=seldom)
    def take_back(self, is_meant: bool) -> None:
        if not is_meant:
            return
        self.target.write(arrival_delete(PLACE))
        self.step = "rest"

    @precondition(lambda self: self.step == "settled")
    @rule()
    def decide(self) -> None:
        world = self.world
        world.decided = world.decided.moved(NUMBER, self.target.id, 0, "moved")
        world.follow(world.containers[0])  # the decision is a record of this one
        self.step = "decided"

    @precondition(lambda self: self.step == "decided")
    @rule()
    def follow(self) -> None:
        for one in self.world.containers:
            self.world.follow(one)
        self.target.write(arrival_delete(PLACE))
        self.step = "rest"

    @rule(is_meant=seldom)
    def kill(self, is_meant: bool) -> None:
        if not is_meant:
            return
        if self.settles_by_its_own and self.step in ("settled", "decided"):
            self.target.write(arrival_delete(PLACE))  # as if nothing had been decided
        self.world.restart()
        self.step = "rest"

    @invariant()
    def one_owner_has_all(self) -> None:
        """At rest one container has the slot, whole, and it is the one that was decided; and the stream's object is
        its."""
        if self.step != "rest":
            return
        world = self.world
        assert [one.id for one in world.containers if one.slot is not None] == [world.owner.id]
        slot = world.owner.slot
        assert slot is not None
        assert world.streams[STREAM].slot(NUMBER) is slot
        assert not slot.has_moved
        assert slot.end == slot.durable_end >= world.acknowledged
        if world.acknowledged:
            assert slot.writers is not None
            newest: WriterBatch = slot.writers[WRITER].batches[-1]
            assert newest.last_sequence == slot.end - 1


@dataclass(frozen=True)
class Late:
    """A decision on its way to the registry: from which state it was made, under which claims, and its target."""

    revision: int
    claims: tuple[int, ...]
    target: int


class MovesInACluster(Moves):
    """The registry is somebody else's: it may take a decision long after it was sent, and a container may have another
    owner by then, who has settled what it found."""

    compares_no_claims: ClassVar[bool] = False
    gives_back_what_is_open: ClassVar[bool] = False

    @initialize()
    def begin_claims(self) -> None:
        self.claims = [1, 2]
        self.late: Late | None = None

    @rule(is_meant=seldom)
    def kill(self, is_meant: bool) -> None:
        """Whoever is there afterwards has claims of its own."""
        if is_meant:
            self.claims = [max(self.claims) + 1, max(self.claims) + 2]
            self.world.restart()
            self.step = "rest"

    def send(self) -> None:
        self.late = Late(self.world.decided.revision, tuple(self.claims), self.target.id)

    @precondition(lambda self: self.step == "settled")
    @rule(container=st.integers(0, 1))
    def sleep(self, container: int) -> None:
        """The decision is sent, and others have a container before it comes there."""
        self.send()
        self.claims[container] = max(self.claims) + 1
        self.world.restart()
        self.step = "rest"

    @precondition(lambda self: self.step == "settled")
    @rule()
    def hear_nothing(self) -> None:
        """The decision is sent, and its answer is lost: it is settled by a change of nothing, and taken back."""
        self.send()
        world = self.world
        if not self.gives_back_what_is_open:
            world.decided = world.decided.after(world.decided)
            world.follow(world.containers[0])
        self.target.write(arrival_delete(PLACE))
        self.step = "rest"

    @precondition(lambda self: self.late is not None and self.step == "rest")
    @rule()
    def come_late(self) -> None:
        late, self.late = self.late, None
        assert late is not None
        world, is_theirs = self.world, late.claims == tuple(self.claims) or self.compares_no_claims
        if world.decided.revision == late.revision and is_theirs:
            world.decided = world.decided.moved(NUMBER, late.target, 0, "moved")
            for one in world.containers:
                world.follow(one)


def explore(machine: type[Moves], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=[Phase.generate],  # what is found need not be small
        ),
    )


def test_moves_with_kills() -> None:
    """Whatever is killed when, a slot has one owner, all of its entries, and its writers."""
    explore(Moves, 150)


@pytest.mark.parametrize(
    "mistake", ["forgets_the_seal", "forgets_writers", "decides_before_the_state", "settles_by_its_own"]
)
def test_a_planted_mistake_is_found(mistake: str) -> None:
    """Appends that go on at the source, writers left behind, a decision without the state, a start that does not ask
    the registry: each is found."""
    planted = type("Planted", (Moves,), {mistake: True})
    with pytest.raises(AssertionError):
        explore(planted, 400)


def test_moves_of_a_cluster_with_decisions_that_come_late() -> None:
    explore(MovesInACluster, 150)


@pytest.mark.parametrize("mistake", ["compares_no_claims", "gives_back_what_is_open"])
def test_a_mistake_that_is_planted_in_a_cluster_is_found(mistake: str) -> None:
    """A decision that asks for no claims, and a slot that is given back while its decision may still come."""
    planted = type("Planted", (MovesInACluster,), {mistake: True})
    with pytest.raises(AssertionError):
        explore(planted, 1_000)
