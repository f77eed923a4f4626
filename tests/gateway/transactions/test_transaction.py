"""The state machine of a transactional id: each state with each input, and all that can happen (SEMANTICS 33-36)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal
from gateway.transactions.transaction import (
    EPOCH_MAX,
    NO_TIME,
    NOBODY,
    Identity,
    Place,
    Transaction,
    TransactionState,
)
from tests.gateway.transactions.model import AWAY, CLIENTS, HOME, World

pytestmark = pytest.mark.slow

EMPTY, ONGOING, PREPARE_COMMIT, PREPARE_ABORT, COMPLETE_COMMIT, COMPLETE_ABORT = TransactionState

ME, BEFORE, STALE, AHEAD, STRANGER = Identity(7, 3), Identity(7, 2), Identity(7, 1), Identity(7, 4), Identity(8, 3)
PLACE = Place(1, 0)
NOW, LATER = 1_000, 2_000

FENCED = ErrorCode.producer_fenced
MAPPING = ErrorCode.invalid_producer_id_mapping
CONCURRENT = ErrorCode.concurrent_transactions
INVALID = ErrorCode.invalid_txn_state


def transaction(state: TransactionState, **changes: object) -> Transaction:
    """A transaction of producer `ME`, who was `BEFORE`."""
    known = Transaction(
        transactional_id="t", producer_id=7, epoch=3, last=BEFORE, timeout_ms=60_000, state=state, changed_ms=NOW
    )
    if state in (ONGOING, PREPARE_COMMIT, PREPARE_ABORT):
        known = replace(known, partitions=frozenset({PLACE}), groups=frozenset({"g"}), started_ms=NOW)
    if state in (PREPARE_COMMIT, PREPARE_ABORT):
        known = replace(known, next=AHEAD, remembers=True)
    return replace(known, **changes)  # type: ignore[arg-type]


def outcome(call: Callable[[], object]) -> object:
    """The result of a call, or the error that refuses it."""
    try:
        return call()
    except Refusal as refused:
        return refused.code


# Who may begin

INITS = {
    #               None        ME          BEFORE      STALE       AHEAD     STRANGER
    EMPTY: (None, None, None, FENCED, FENCED, FENCED),
    ONGOING: (None, None, FENCED, FENCED, FENCED, FENCED),
    PREPARE_COMMIT: (CONCURRENT,) * 6,
    PREPARE_ABORT: (CONCURRENT,) * 6,
    COMPLETE_COMMIT: (None, None, None, FENCED, FENCED, FENCED),
    COMPLETE_ABORT: (None, None, None, FENCED, FENCED, FENCED),
}


@pytest.mark.parametrize("state", TransactionState)
def test_who_may_begin(state: TransactionState) -> None:
    """Anybody who does not say who it was, the producer itself, and itself once more; nobody while one is prepared."""
    known = transaction(state)
    asked = (None, ME, BEFORE, STALE, AHEAD, STRANGER)

    assert tuple(outcome(lambda who=who: known.admit_init(who)) for who in asked) == INITS[state]


@pytest.mark.parametrize("state", [EMPTY, COMPLETE_COMMIT, COMPLETE_ABORT])
def test_next_producer(state: TransactionState) -> None:
    """The epoch rises by one; only a producer that named its id may ask again, and gets the same answer."""
    known = transaction(state)
    anybody = known.initialised(5, None, 99, LATER)
    itself = known.initialised(5, ME, 99, LATER)

    assert (anybody.identity, anybody.last, anybody.state, anybody.timeout_ms) == (AHEAD, NOBODY, EMPTY, 5)
    assert (itself.identity, itself.last) == (AHEAD, ME)
    again = itself.initialised(6, ME, 99, LATER)
    assert (again.identity, again.last, again.timeout_ms) == (AHEAD, ME, 6)
    assert outcome(lambda: anybody.admit_init(ME)) is FENCED


@pytest.mark.parametrize("epoch", [EPOCH_MAX - 1, EPOCH_MAX])
@pytest.mark.parametrize("expected", [None, "itself", "before"])
def test_epochs_used_up(epoch: int, expected: str | None) -> None:
    """A producer due for the last epoch gets another producer id, however it asks; the last epoch is never given."""
    before = Identity(7, epoch - 1)
    known = transaction(COMPLETE_ABORT, epoch=epoch, last=before)
    asked = {None: None, "itself": known.identity, "before": before}[expected]
    following = known.initialised(5, asked, 99, LATER)

    if expected == "before" and epoch < EPOCH_MAX:
        assert following.identity == known.identity  # it was given already
    else:
        assert (following.identity, following.last) == (Identity(99, 0), asked or NOBODY)
        if asked is not None:
            following.admit_init(asked)
            assert following.initialised(5, asked, 100, LATER).identity == Identity(99, 0)


def test_fence_with_the_last_epoch() -> None:
    """A producer whose epochs are used up is fenced with the last one, and can then start over."""
    known = transaction(ONGOING, epoch=EPOCH_MAX - 1)
    prepared = known.ending(committed=False, following=known.fenced(), remembers=True, now_ms=LATER)
    fenced = prepared.completed(LATER)

    assert prepared.marker_epoch == fenced.epoch == EPOCH_MAX
    fenced.admit_init(known.identity)
    assert fenced.initialised(5, known.identity, 99, LATER).identity == Identity(99, 0)


# Who may take part

ADDS = {
    #               ME    BEFORE  AHEAD   STRANGER
    EMPTY: (None, FENCED, FENCED, MAPPING),
    ONGOING: (None, FENCED, FENCED, MAPPING),
    PREPARE_COMMIT: (CONCURRENT, FENCED, CONCURRENT, MAPPING),
    PREPARE_ABORT: (CONCURRENT, FENCED, CONCURRENT, MAPPING),
    COMPLETE_COMMIT: (None, FENCED, FENCED, MAPPING),
    COMPLETE_ABORT: (None, FENCED, FENCED, MAPPING),
}


@pytest.mark.parametrize("state", TransactionState)
def test_who_may_take_part(state: TransactionState) -> None:
    """The newest producer only, and not while its last transaction is being ended, when it may know its next name."""
    known = transaction(state)
    asked = (ME, BEFORE, AHEAD, STRANGER)

    assert tuple(outcome(lambda who=who: known.admit(who)) for who in asked) == ADDS[state]


@pytest.mark.parametrize("state", [EMPTY, COMPLETE_COMMIT, COMPLETE_ABORT])
def test_beginning(state: TransactionState) -> None:
    """The first partition or group begins a transaction; more of them do not begin another."""
    known = transaction(state)
    begun = known.adding([PLACE], ["g"], NOW)
    more = begun.adding([Place(1, 1)], ["h"], LATER)

    assert not known.holds([], [])
    assert (begun.state, begun.started_ms) == (ONGOING, NOW)
    assert (more.partitions, more.groups) == ({PLACE, Place(1, 1)}, {"g", "h"})
    assert (more.started_ms, more.changed_ms) == (NOW, LATER)
    assert more.holds([PLACE], ["h"])
    assert not more.holds([Place(2, 0)], [])
    assert not more.holds([], ["i"])


# How it ends

ENDS = {
    #          version 1:  ME commits, ME aborts   version 2: ME commits, ME aborts, BEFORE commits, BEFORE aborts
    EMPTY: (INVALID, INVALID, INVALID, True, FENCED, FENCED),
    ONGOING: (True, True, True, True, FENCED, FENCED),
    PREPARE_COMMIT: (CONCURRENT, INVALID, CONCURRENT, INVALID, FENCED, FENCED),
    PREPARE_ABORT: (INVALID, CONCURRENT, INVALID, CONCURRENT, FENCED, FENCED),
    COMPLETE_COMMIT: (False, INVALID, INVALID, True, False, INVALID),
    COMPLETE_ABORT: (INVALID, False, INVALID, True, INVALID, False),
}


@pytest.mark.parametrize("state", TransactionState)
def test_who_may_end(state: TransactionState) -> None:
    """Kafka's table: True when there is something to end, False when that has been done and is asked for again."""
    known = transaction(state)
    asked = [(ME, False), (ME, True), (BEFORE, True)]

    assert ENDS[state] == tuple(
        outcome(lambda who=who, bumps=bumps, c=committed: known.admit_end(who, committed=c, bumps=bumps))
        for who, bumps in asked
        for committed in (True, False)
    )


@pytest.mark.parametrize("state", TransactionState)
@pytest.mark.parametrize("committed", [True, False])
def test_who_may_never_end(state: TransactionState, committed: bool) -> None:
    """Without a new epoch the former producer neither; a stranger, who is stale or ahead never. Who is ahead by what
    the end under way will give has to wait."""
    known = transaction(state)
    ahead = CONCURRENT if state in (PREPARE_COMMIT, PREPARE_ABORT) else FENCED

    for bumps in (False, True):
        assert outcome(lambda b=bumps: known.admit_end(STRANGER, committed=committed, bumps=b)) is MAPPING
        assert outcome(lambda b=bumps: known.admit_end(STALE, committed=committed, bumps=b)) is FENCED
        assert outcome(lambda b=bumps: known.admit_end(AHEAD, committed=committed, bumps=b)) is ahead
    assert outcome(lambda: known.admit_end(BEFORE, committed=committed, bumps=False)) is FENCED


@pytest.mark.parametrize("committed", [True, False])
def test_an_end_of_version_1(committed: bool) -> None:
    """The producer stays who it is; nothing is left of the transaction."""
    known = transaction(ONGOING)
    prepared = known.ending(committed=committed, following=known.identity, remembers=False, now_ms=LATER)
    done = prepared.completed(LATER)

    assert prepared.state is (PREPARE_COMMIT if committed else PREPARE_ABORT)
    assert (prepared.is_committed, prepared.marker_epoch) == (committed, ME.epoch)
    assert prepared.partitions == {PLACE}
    assert done.state is (COMPLETE_COMMIT if committed else COMPLETE_ABORT)
    assert (done.identity, done.last, done.next, done.is_committed) == (ME, BEFORE, NOBODY, committed)
    assert (done.partitions, done.groups, done.started_ms) == (frozenset(), frozenset(), NO_TIME)


def test_an_end_of_version_2() -> None:
    """The producer gets the next epoch, its markers carry it, and it may ask again as who it was."""
    known = transaction(ONGOING)
    prepared = known.ending(committed=True, following=known.bumped(99), remembers=True, now_ms=LATER)
    done = prepared.completed(LATER)

    assert prepared.marker_epoch == AHEAD.epoch
    assert (done.identity, done.last) == (AHEAD, ME)
    assert done.admit_end(ME, committed=True, bumps=True) is False
    assert outcome(lambda: done.admit_end(ME, committed=False, bumps=True)) is INVALID


def test_an_end_with_the_last_epoch() -> None:
    """The producer gets another id; its markers carry the last epoch; it may ask again all the same."""
    known = transaction(ONGOING, epoch=EPOCH_MAX - 1)
    prepared = known.ending(committed=True, following=known.bumped(99), remembers=True, now_ms=LATER)
    done = prepared.completed(LATER)

    assert prepared.marker_epoch == EPOCH_MAX
    assert (done.identity, done.last) == (Identity(99, 0), known.identity)
    assert done.admit_end(known.identity, committed=True, bumps=True) is False


def test_fenced() -> None:
    """The producer of the transaction is stale after a fence, and cannot ask again."""
    known = transaction(ONGOING)
    done = known.ending(committed=False, following=known.fenced(), remembers=False, now_ms=LATER).completed(LATER)

    assert (done.state, done.identity, done.last) == (COMPLETE_ABORT, AHEAD, NOBODY)
    for bumps in (False, True):
        assert outcome(lambda b=bumps: done.admit_end(ME, committed=False, bumps=b)) is FENCED
    assert outcome(lambda: done.admit(ME)) is FENCED
    assert outcome(lambda: done.admit_init(ME)) is FENCED


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (EMPTY, "Empty"),
        (ONGOING, "Ongoing"),
        (PREPARE_COMMIT, "PrepareCommit"),
        (PREPARE_ABORT, "PrepareAbort"),
        (COMPLETE_COMMIT, "CompleteCommit"),
        (COMPLETE_ABORT, "CompleteAbort"),
    ],
)
def test_names(state: TransactionState, name: str) -> None:
    """Kafka's, which its tools filter by."""
    assert state.kafka_name == name


# All that can happen

BEGUN = ("init A", "sync 0")
WRITTEN = (*BEGUN, "write A 0", "sync 0", "sync 1", "write A 1", "sync 0", "arrive 0", "sync 1")
TIMED_OUT = (*BEGUN, "write A 0", "sync 0", "timeout a", "sync 0", "write A 1", "sync 0", "arrive 0", "sync 1")
ENDING = (*WRITTEN, "commit A")
ADDED = (*BEGUN, "write A 0", "sync 0", "sync 0", "write A 1", "sync 0", "sync 0", "arrive 0", "sync 1")


def world_of(
    version: int,
    events: tuple[str, ...] = (),
    kind: type[World] = World,
    first_epoch: int = 0,
    containers: tuple[int, int] = (HOME, AWAY),
) -> World:
    """Two producers of one transactional id, after some events."""
    clients = [replace(client, bumps=version == 2) for client in CLIENTS[:2]]
    world = kind(clients, first_epoch, containers)
    for event in events:
        if event.split()[0] != "arrive" or tuple(event.split()) in world.events():  # only where slot 1 lies elsewhere
            world.happen(tuple(event.split()))
    return world


def explore(world: World, depth: int) -> int:
    """Let every event happen, in every order, up to `depth` events; return the number of states met."""
    layer, known = [world], {world.key()}
    for _ in range(depth):
        following = []
        for before in layer:
            for event in before.events():
                after = before.copy()
                after.happen(event)
                if (key := after.key()) not in known:
                    known.add(key)
                    after.check_settled()
                    following.append(after)
        layer = following
    return len(known)


@pytest.mark.parametrize(
    ("version", "events", "depth", "first_epoch"),
    [
        (2, BEGUN, 5, 0),
        (1, BEGUN, 6, 0),
        (2, WRITTEN, 5, 0),
        (2, WRITTEN, 5, EPOCH_MAX - 2),
        (1, ADDED, 6, 0),
        (1, ADDED, 5, EPOCH_MAX - 1),
        (2, ENDING, 5, 0),
        (2, TIMED_OUT, 5, 0),
    ],
)
@pytest.mark.parametrize("containers", [(HOME, AWAY), (HOME, HOME)])
def test_everything_that_can_happen(
    version: int, events: tuple[str, ...], depth: int, first_epoch: int, containers: tuple[int, int]
) -> None:
    """Two producers and two coordinators, crashes that lose anything that was not synced: in every state readers see
    all or nothing of each transaction, nothing that is acknowledged is lost, and none hangs when time-outs have run."""
    world = world_of(version, events, first_epoch=first_epoch, containers=containers)
    assert explore(world, depth) > 50


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("first_epoch", [0, EPOCH_MAX - 2])
def test_more_that_can_happen(version: int, first_epoch: int) -> None:
    """The same, deeper."""
    ending = ENDING if version == 2 else (*ADDED, "commit A")
    assert explore(world_of(version, BEGUN, first_epoch=first_epoch), 9) > 2_000
    assert explore(world_of(version, ending, first_epoch=first_epoch), 8) > 500


@pytest.mark.parametrize(
    ("fault", "events", "depth", "containers"),
    [
        ("the coordinator's log is not waited for", BEGUN, 3, (HOME, AWAY)),
        ("the guard is forgotten", BEGUN, 6, (HOME, AWAY)),
        ("the outcome is not logged", ENDING, 4, (HOME, AWAY)),
        ("a marker is forgotten", WRITTEN, 4, (HOME, AWAY)),
        ("the fence is forgotten", TIMED_OUT, 4, (HOME, HOME)),
        ("markers are a step of their own", WRITTEN, 3, (HOME, HOME)),
    ],
)
def test_mistakes_are_found(fault: str, events: tuple[str, ...], depth: int, containers: tuple[int, int]) -> None:
    """The search finds what goes wrong when the coordinator leaves out one of its precautions."""

    class Careless(World):
        faults = frozenset({fault})

    with pytest.raises(AssertionError):
        explore(world_of(2, events, Careless, containers=containers), depth)
