"""The rules of a move over the real records of containers and the real states of streams, with kills between any two.

Two containers' logs are lists of records that `Outcomes` applies, as in life and in a recovery; the registry is one
state. Records of the source are queued before they are durable, and a kill takes those that are not. What the model
keeps is only what was acknowledged. Mistakes are planted in it, and each is found.
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
from core.log.format import COMMIT_MARKER, IN_TRANSACTION
from core.log.records import Trim
from core.streams.handing import begun, tiered_of, with_copied
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.markers import Marker
from core.streams.policy import StreamPolicy
from core.streams.saving import Foreseen, encode_slot
from core.streams.state import STREAMS_TABLE, StreamState, new_stream, stream_key
from core.streams.writers import WriterBatch

pytestmark = pytest.mark.slow

STREAM, NUMBER, WRITER, TRANSACTION = 1, 0, 9, 5
PLACE = STREAM, NUMBER
ENDED = "ended"
"""The table of a transaction's coordinator, which lies in the slot's container."""


@dataclass(frozen=True)
class Begin:
    """The first entry of a transaction."""

    number: int


@dataclass(frozen=True)
class End:
    """A step: the marker of the transaction that began with entry `first`, and the coordinator's row of its end."""

    number: int
    first: int

    @property
    def row(self) -> Put:
        return Put(ENDED, b"%d" % self.first, b"")


Record = Put | Delete | Trim | Begin | End | int
"""An operation, or an entry of the slot: a plain one by its number."""


@dataclass
class Queued:
    """A record that was given to a log."""

    record: Record
    slot: Slot | None = None  # of an entry, if it is here
    marker: Marker | None = None


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
        self.queued: list[Queued] = []
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
        """Have it durable, and all before it."""
        self.queue(record)
        self.settle()

    def queue(self, record: Record) -> None:
        queued = Queued(record)
        self.queued.append(queued)
        if isinstance(record, Put | Delete | Trim):
            return
        slot = queued.slot = self.outcomes.slot_at(*PLACE)
        if slot is None:
            return
        number = record if isinstance(record, int) else record.number
        assert slot.end == number, "frames of a slot follow one another"
        writer, flags = WRITER if isinstance(record, int) else TRANSACTION, 0
        if isinstance(record, Begin):
            flags = IN_TRANSACTION
        elif isinstance(record, End):
            flags = COMMIT_MARKER
            queued.marker = slot.mark_transaction(TRANSACTION, 0, number, 0, committed=True)
        slot.appended(number, 1, 10, 0, self.epoch, 0, writer, 0, number, flags, 0)

    def settle(self) -> None:
        """All that is queued is durable."""
        queued, self.queued = self.queued, []
        for one in queued:
            self.log.append(one.record)
            if isinstance(one.record, Put | Delete | Trim):
                self.outcomes.apply([one.record])
                continue
            if one.slot is not None:
                one.slot.durable(one.slot.durable_end + 1, 10)
            if one.marker is not None:
                one.marker.appended()
            if isinstance(one.record, End):
                self.outcomes.apply([one.record.row])

    @property
    def markers(self) -> list[Marker]:
        """Those on their way."""
        return [one.marker for one in self.queued if one.marker is not None]

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
        self.trimmed = 0
        self.plain: dict[int, None] = {}  # numbers of plain entries, of which a kill may have taken the last
        self.begun: dict[int, None] = {}  # first entries of transactions, likewise
        created = new_stream(
            stream_id=STREAM,
            name="s",
            uuid=UUID(int=1),
            slots=4,
            created_ms=0,
            container=0,
            config={},
            placement=(1, 0),
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

    def queue(self, one: Container, slot: Slot, kind: str) -> None:
        """A client's call at the container of this slot, if it makes sense just now."""
        first = None if slot.transactions is None else slot.transactions.open.get(TRANSACTION)
        number = slot.end
        if kind == "plain":
            one.queue(number)
            self.begun.pop(number, None)
            self.plain[number] = None
        elif kind == "begin" and first is None:
            one.queue(Begin(number))
            self.plain.pop(number, None)
            self.begun[number] = None
        elif kind == "end" and first is not None:
            one.queue(End(number, first))
            self.plain.pop(number, None)
            self.begun.pop(number, None)
        elif kind == "trim" and slot.start < slot.durable_end:
            one.queue(Trim(STREAM, NUMBER, slot.start + 1, 10 * (slot.start + 1)))

    def settle(self, one: Container) -> None:
        """What is queued there is durable, and acknowledged."""
        slot = one.slot
        one.settle()
        if slot is not None:
            self.acknowledged = max(self.acknowledged, slot.durable_end)
            self.trimmed = max(self.trimmed, slot.start)

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
        slot = self.owner.slot
        end = 0 if slot is None else slot.end
        self.plain = {number: None for number in self.plain if number < end}
        self.begun = {number: None for number in self.begun if number < end}

    def follow(self, one: Container) -> None:
        if one.outcomes.copies[STREAM].revision < self.decided.revision:
            one.write(Put(STREAMS_TABLE, stream_key(STREAM), self.decided.encode()))


seldom = st.integers(0, 5).map(lambda n: n == 0)
KINDS = ("plain", "plain", "begin", "end", "trim")


class Moves(RuleBasedStateMachine):
    """One move at a time, step by step; appends and kills whenever they are possible."""

    forgets_the_seal: ClassVar[bool] = False
    forgets_writers: ClassVar[bool] = False
    decides_before_the_state: ClassVar[bool] = False
    settles_by_its_own: ClassVar[bool] = False
    decides_before_its_source_settles: ClassVar[bool] = False
    trusts_what_it_foresaw: ClassVar[bool] = False
    foresees_no_markers: ClassVar[bool] = False

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.step = "rest"
        self.source = self.target = self.world.owner

    @precondition(lambda self: self.step in ("rest", "copying") or self.forgets_the_seal)
    @rule(kind=st.sampled_from(KINDS), is_acknowledged=st.booleans())
    def append(self, kind: str, is_acknowledged: bool) -> None:
        owner = self.world.owner if self.step != "decided" else self.source
        slot = owner.slot
        if slot is None:
            return
        self.world.queue(owner, slot, kind)
        if is_acknowledged:
            self.world.settle(owner)

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
        end = theirs.end if self.step == "frozen" else theirs.durable_end
        for n in range(ours.end, min(ours.end + most, end)):
            self.target.write(n)

    @precondition(lambda self: self.step == "copying")
    @rule()
    def freeze(self) -> None:
        self.step = "frozen"

    @precondition(lambda self: self.step == "frozen")
    @rule()
    def foresee(self) -> None:
        """The target gets the rest, and the state that the slot will have, while the source still settles."""
        ours, theirs = self.target.slot, self.source.slot
        assert ours is not None
        assert theirs is not None
        self.value = b""
        if not self.decides_before_the_state:
            for n in range(ours.end, theirs.end):
                self.target.write(n)
            if self.forgets_writers:
                theirs.writers = None
            markers = [] if self.foresees_no_markers else self.source.markers
            self.value = with_copied(encode_slot(theirs, Foreseen.of(theirs, markers)), ours, (), tiered_of(ours))
            self.target.write(arrival_put(PLACE, self.value))
        self.step = "foreseen"

    @precondition(lambda self: self.step == "foreseen")
    @rule()
    def settle(self) -> None:
        """The source has settled, and the state is looked at again."""
        ours, theirs = self.target.slot, self.source.slot
        assert ours is not None
        assert theirs is not None
        if not self.decides_before_its_source_settles:
            self.world.settle(self.source)
            is_whole = ours.end == theirs.end  # unless the seal is forgotten
            if self.value and is_whole and not self.trusts_what_it_foresaw:
                value = with_copied(encode_slot(theirs), ours, (), tiered_of(ours))
                if value != self.value:
                    self.target.write(arrival_put(PLACE, value))
        self.step = "settled"

    @precondition(lambda self: self.step in ("frozen", "foreseen", "settled"))
    @rule(is_meant=seldom)
    def thaw(self, is_meant: bool) -> None:
        """The freeze took too long: the slot takes appends again, and the copying goes on."""
        if is_meant:
            self.step = "copying"

    @precondition(lambda self: self.step in ("copying", "frozen", "foreseen", "settled"))
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
        assert slot.durable_end >= world.acknowledged
        assert slot.start >= world.trimmed
        if world.plain:
            assert slot.writers is not None
            newest: WriterBatch = slot.writers[WRITER].batches[-1]
            assert newest.last_sequence == max(world.plain)
        unstable = set() if slot.transactions is None else slot.transactions.unstable.keys()
        for first in world.begun:
            ended = any(one.outcomes.table(ENDED).get(b"%d" % first) is not None for one in world.containers)
            assert ended == (first not in unstable), "a slot and its coordinator do not agree about a transaction"


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


@pytest.mark.parametrize("mistake", ["forgets_the_seal", "forgets_writers", "decides_before_the_state"])
def test_a_planted_mistake_is_found(mistake: str) -> None:
    """Appends that go on at the source, writers left behind, a decision without the state: each is found."""
    planted = type("Planted", (Moves,), {mistake: True})
    with pytest.raises(AssertionError):
        explore(planted, 1_000)


def follow_a_schedule(machine: type[Moves], *, is_back: bool = False) -> None:
    """The end of a transaction, and a deletion of records, are on their way at the source when its slot is frozen; all
    is killed right behind the decision, which is a record of the target, or, on the way back, of the source."""
    moves = machine()
    moves.begin()
    if is_back:
        for step in (moves.arrive, moves.freeze, moves.foresee, moves.settle, moves.decide, moves.follow):
            step()
    for kind, is_acknowledged in (("plain", True), ("begin", True), ("end", False), ("trim", False)):
        moves.append(kind=kind, is_acknowledged=is_acknowledged)
    for step in (moves.arrive, moves.freeze, moves.foresee, moves.settle, moves.decide):
        step()
    moves.kill(is_meant=True)
    moves.one_owner_has_all()


@pytest.mark.parametrize("is_back", [False, True])
def test_what_is_on_its_way_at_the_source(is_back: bool) -> None:
    follow_a_schedule(Moves, is_back=is_back)


@pytest.mark.parametrize(
    ("mistake", "is_back"),
    [("decides_before_its_source_settles", False), ("trusts_what_it_foresaw", False), ("settles_by_its_own", True)],
)
def test_a_mistake_about_what_is_on_its_way_is_found(mistake: str, is_back: bool) -> None:
    """A decision before it is durable at the source, which takes half of a step; one by a state that has come
    otherwise; and a start that does not ask the registry."""
    planted = type("Planted", (Moves,), {mistake: True})
    with pytest.raises(AssertionError):
        follow_a_schedule(planted, is_back=is_back)


def test_what_was_foreseen_amiss_counts_for_nothing() -> None:
    """Whoever looks at the state again may have foreseen what he likes."""
    planted = type("Planted", (Moves,), {"foresees_no_markers": True})
    explore(planted, 100)


def test_moves_of_a_cluster_with_decisions_that_come_late() -> None:
    explore(MovesInACluster, 150)


@pytest.mark.parametrize("mistake", ["compares_no_claims", "gives_back_what_is_open"])
def test_a_mistake_that_is_planted_in_a_cluster_is_found(mistake: str) -> None:
    """A decision that asks for no claims, and a slot that is given back while its decision may still come."""
    planted = type("Planted", (MovesInACluster,), {mistake: True})
    with pytest.raises(AssertionError):
        explore(planted, 1_000)
