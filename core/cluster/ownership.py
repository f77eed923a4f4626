"""What one node does about the containers of a cluster: which it takes, opens, serves, gives away, and has lost.

No I/O and no clock: its owner carries out what `Ownership` asks for (`Action`) and tells it what came of that.

    elsewhere --TakeClaim--> claiming --Open--> opening --Confirm--> confirming --Serve--> serving
        ^                                                                                     |
        +-----------------GiveUp-------------------- leaving <----------StepDown--------------+
                                                        ^                                     |
                                                        |            a wish: Prepare, then Close, HandOver
                                                        +-------------------------------------+

A container is handed over because somebody wishes so (`Wish`): an operator, or its own node, which asks for that when
it drains or has more than its share. Its heir sees the wish as well, and fetches what it can (`Warm`). The owner
prepares meanwhile, goes on until the heir is warm or `WARM_S` are over, and only then stops taking appends (`Close`):
the log is settled, and ends with a fence that names the epoch of the heir's claim. One transaction then makes the claim
the heir's (`HandOver`). If the heir has died by then, or the owner dies at any step, the container is nobody's, and
taken as always: the fence is one that a taker died behind.

**Invariants**

- A container is opened only under a claim, and served only once the claim was confirmed after the log was fenced.
- It is served no longer than the claim stands: when the coordinator shows another epoch, when this life has ended, or
  when the log finds somebody else's object, the next action is a StepDown that waits for nothing (`is_lost`).
- There is one action at a time for a container: the next comes when the outcome of the last one is told. (`Warm` is
  none of those: it only fetches.)
- A claim is handed over only when nothing of its epoch is on its way, and its log was fenced for the heir; whatever
  comes of that, this node serves the container no more under that claim.
- A claim that this life holds without having asked for it was handed over to it, and is opened as any other.
- Nobody is asked who takes a container that is nobody's: all nodes that live compute it from what they see, and the
  coordinator lets one of them win. If that one does not take it, any other does, `PATIENCE_S` later. Whoever does not
  reach the object store takes none, and is given none.
- A container is given away because its node drains, or because of a wish (`core.cluster.balancing` makes some), and
  then to the node that the wish names.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from crc32c import crc32c

from core.cluster.coordination import Claim, Life, Owner, Stage, Wish
from core.cluster.loads import IDLE
from core.log.objects.protocol import Link

PATIENCE_S: Final = 1.0
"""How long a container may be nobody's before any node takes it: nodes that see other loads compute other takers."""
RETRY_S: Final = 5.0
"""How long a node leaves a container alone that it could not open: another one may be able to."""
WARM_S: Final = 10.0
"""How long an owner that is prepared waits for its heir: a cold one can take over as well, in more time."""
HANDOVERS_MAX: Final = 4
"""Containers that a node which drains hands over at a time."""


class Phase(enum.Enum):
    """How far this node is with a container."""

    ELSEWHERE = enum.auto()
    CLAIMING = enum.auto()
    OPENING = enum.auto()
    CONFIRMING = enum.auto()
    STARTING = enum.auto()
    SERVING = enum.auto()
    ASKING = enum.auto()  # it is served in this one and the next as well
    PREPARING = enum.auto()
    CLOSING = enum.auto()
    HANDING_OVER = enum.auto()
    LEAVING = enum.auto()
    GIVING_UP = enum.auto()


SERVED: Final = frozenset((Phase.SERVING, Phase.ASKING, Phase.PREPARING))


# What the owner of this machine carries out


@dataclass(frozen=True, slots=True)
class TakeClaim:
    """Claim a container, however long the coordinator is away; answer with `claimed`."""

    container: int


@dataclass(frozen=True, slots=True)
class Open:
    """Read and fence the log, and recover; answer with `opened`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Confirm:
    """Confirm the claim, however long the coordinator is away; answer with `confirmed`."""

    claim: Claim
    links: Sequence[Link]


@dataclass(frozen=True, slots=True)
class Serve:
    """Take appends, load the coordinators; answer with `serves`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Warm:
    """Fetch what can be fetched of a container that is to come here, and tell its owner; nothing is to be answered."""

    container: int
    wish: Wish


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the coordinator that this container goes to this node; answer with `asked`."""

    claim: Claim
    node: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """While it is served: store a last checkpoint, and reserve the heir's epoch; answer with `prepared`."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Close:
    """Take nothing more, settle the log, and fence it for the epoch that was reserved; answer with `closed`."""

    claim: Claim
    next_epoch: int


@dataclass(frozen=True, slots=True)
class HandOver:
    """Serve nothing more, and make the claim the heir's; answer with `handed_over`, whatever came of it."""

    claim: Claim
    wish: Wish
    link: Link


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop serving, close, drop the local files; answer with `stepped_down`.

    If the claim is lost, nothing that waits may be acknowledged any more, and nothing is waited for.
    """

    claim: Claim
    is_lost: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Let go of the claim, however long the coordinator is away, unless this life ends; answer with `gave_up`.

    A claim that was served is never opened again: its late puts would be in its own way.
    """

    claim: Claim


Action: TypeAlias = TakeClaim | Open | Confirm | Serve | Warm | Ask | Prepare | Close | HandOver | StepDown | GiveUp


@dataclass(frozen=True, slots=True)
class View:
    """What the coordinator's mirror shows. `is_fresh`: our lease is certainly there. `wishes`: those that stand;
    `warmed`: those whose nodes are warm. `weights`: of containers that were measured. `has_wishes`: the cluster's level
    lets nodes wish, so all of them know what a claim is that was handed over."""

    node: int
    life: str
    owners: Mapping[int, Owner]
    lives: Mapping[int, Life]
    is_fresh: bool
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    warmed: Mapping[int, Wish] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)
    has_wishes: bool = True


@dataclass(slots=True)
class _Container:
    """One container, as this node is with it."""

    id: int
    phase: Phase = Phase.ELSEWHERE
    claim: Claim | None = None
    is_lost: bool = False  # the claim is not ours any more
    is_open: bool = False  # something of it is open here, and must be closed
    not_before_s: float = 0.0  # no claim earlier than this
    nobodys_since_s: float | None = None
    left_epoch: int = 0  # of our last claim: a late view may still show it
    warm_for: Wish | None = None  # the wish that what we fetched, or fetch, is for
    wish: Wish | None = None  # the one that is prepared, or being prepared
    next_epoch: int = 0  # reserved for it
    prepared_at_s: float = 0.0

    def leave(self) -> Action:
        """Get rid of it, from any phase in which nothing is on its way."""
        assert self.claim is not None
        if self.is_open:
            self.phase = Phase.LEAVING
            return StepDown(self.claim, self.is_lost)
        self.phase = Phase.GIVING_UP
        return GiveUp(self.claim)


class Ownership:
    """See the module. Times are seconds that never go back."""

    def __init__(self, containers: Iterable[int]) -> None:
        self._containers = {container: _Container(container) for container in containers}
        self._is_stopping = False
        self.is_draining = False  # it stops, or is told to in this life

    def __repr__(self) -> str:
        return f"<Ownership of {sorted(self.serving)} in {len(self._containers)} containers>"

    @property
    def serving(self) -> set[int]:
        """The containers that this node serves."""
        return {one.id for one in self._containers.values() if one.phase in SERVED}

    @property
    def is_rid(self) -> bool:
        """Whether this node has nothing to do with any container."""
        return all(one.phase is Phase.ELSEWHERE for one in self._containers.values())

    def phase(self, container: int) -> Phase:
        """How far this node is with a container."""
        return self._containers[container].phase

    def stays(self, container: int) -> bool:
        """Whether this node serves it, and is not about to give it away."""
        one = self._containers[container]
        return one.phase is Phase.SERVING and one.wish is None and not one.is_lost

    def is_lost(self, container: int) -> bool:
        """Whether the claim that this node has, or had last, is known to be no more its own."""
        return self._containers[container].is_lost

    def drain(self) -> None:
        """Give all containers away from now on, and take no others: this node stops."""
        self._is_stopping = self.is_draining = True

    def look(self, view: View, now_s: float) -> list[Action]:
        """What is due, by what the coordinator shows now. Call it after each change, and each second."""
        due: list[Action] = []
        own = view.lives.get(view.node)
        self.is_draining = self._is_stopping or (own is not None and own.life == view.life and own.is_draining)
        for one in self._containers.values():
            if one.claim is not None and not _stands(one.claim, view):
                one.is_lost = True
            if one.phase is Phase.SERVING and one.is_lost:
                due.append(one.leave())
        due += self._gives(view, now_s)
        return due + self._takes(view, now_s) + self._warms(view)

    def lost(self, claim: Claim, now_s: float) -> list[Action]:
        """The container's log is somebody else's, or its storage failed: it serves no more under this claim."""
        one = self._containers[claim.container]
        if one.claim != claim:
            return []
        one.is_lost, one.not_before_s = True, now_s + RETRY_S
        return [one.leave()] if one.phase is Phase.SERVING else []

    # What came of actions

    def claimed(self, container: int, claim: Claim | None) -> list[Action]:
        """The claim was granted, or not, and the next look decides."""
        one = self._containers[container]
        assert one.phase is Phase.CLAIMING, f"container {container} was not to be claimed"
        if claim is None:
            one.phase = Phase.ELSEWHERE
            return []
        one.claim, one.is_lost, one.wish = claim, False, None
        if self.is_draining:
            return [one.leave()]
        one.phase = Phase.OPENING
        return [Open(claim)]

    def opened(self, claim: Claim, links: Sequence[Link] | None, now_s: float) -> list[Action]:
        """The log is read and fenced; None: it could not be, and nothing is open."""
        one = self._its(claim, Phase.OPENING)
        one.is_open = links is not None
        if links is None:
            one.not_before_s = now_s + RETRY_S
        if links is None or one.is_lost:
            return [one.leave()]
        one.phase = Phase.CONFIRMING
        return [Confirm(claim, links)]

    def confirmed(self, claim: Claim, *, stands: bool) -> list[Action]:
        """The coordinator's word."""
        one = self._its(claim, Phase.CONFIRMING)
        one.is_lost = one.is_lost or not stands
        if one.is_lost:
            return [one.leave()]
        one.phase = Phase.STARTING
        return [Serve(claim)]

    def serves(self, claim: Claim, *, well: bool, now_s: float) -> list[Action]:
        """It is served now; or that went wrong, and it is to be closed."""
        one = self._its(claim, Phase.STARTING)
        one.phase = Phase.SERVING
        if not well:
            one.not_before_s = now_s + RETRY_S
        return [] if well and not one.is_lost else [one.leave()]

    def asked(self, claim: Claim) -> list[Action]:
        """The coordinator has heard the wish, or it was void already, or the claim was not certainly ours any more; the
        next look decides."""
        one = self._its(claim, Phase.ASKING)
        one.phase = Phase.SERVING
        return [one.leave()] if one.is_lost else []

    def prepared(self, claim: Claim, next_epoch: int | None, now_s: float) -> list[Action]:
        """A last checkpoint is stored, or could not be, and this epoch is reserved; None: it could not be, as the
        claim was not certainly ours any more."""
        one = self._its(claim, Phase.PREPARING)
        one.phase, one.next_epoch, one.prepared_at_s = Phase.SERVING, next_epoch or 0, now_s
        if next_epoch is None:
            one.wish = None  # if the claim stands after all, the owner prepares again
        return [one.leave()] if one.is_lost else []

    def closed(self, claim: Claim, link: Link | None) -> list[Action]:
        """The log ends with this link, and nothing of it is on its way; None: it is somebody else's, or failed."""
        one = self._its(claim, Phase.CLOSING)
        if link is None:
            one.is_lost = True
        if link is None or one.is_lost:
            return [one.leave()]
        assert one.wish is not None
        one.phase = Phase.HANDING_OVER
        return [HandOver(claim, one.wish, link)]

    def handed_over(self, claim: Claim) -> list[Action]:
        """The claim is the heir's; or it is still ours, of a log that goes on without us, and is given up."""
        one = self._its(claim, Phase.HANDING_OVER)
        one.is_lost = True
        return [one.leave()]

    def stepped_down(self, claim: Claim) -> list[Action]:
        """Nothing of the container is open here any more."""
        one = self._its(claim, Phase.LEAVING)
        one.is_open = False
        return [one.leave()]

    def gave_up(self, claim: Claim) -> None:
        """The coordinator has heard that we let go, or this life has ended."""
        one = self._its(claim, Phase.GIVING_UP)
        one.left_epoch, one.wish = claim.epoch, None
        one.phase, one.claim, one.nobodys_since_s = Phase.ELSEWHERE, None, None

    def _its(self, claim: Claim, phase: Phase) -> _Container:
        one = self._containers[claim.container]
        assert one.claim == claim, f"{claim} is not the claim of {one}"
        assert one.phase is phase, f"{one} is not {phase}"
        return one

    # What is given away

    def _gives(self, view: View, now_s: float) -> list[Action]:
        """The next step of each hand-over; and the beginning of some, if this node drains."""
        due: list[Action] = []
        alone: list[_Container] = []  # without a wish
        for one in self._containers.values():
            if one.phase is not Phase.SERVING:
                continue
            assert one.claim is not None
            wish = view.wishes.get(one.id)
            if wish is None:
                one.wish = None
                alone.append(one)
            elif wish != one.wish:
                one.wish, one.phase = wish, Phase.PREPARING
                due.append(Prepare(one.claim))
            elif view.warmed.get(one.id) == wish or now_s >= one.prepared_at_s + WARM_S:
                one.phase = Phase.CLOSING
                due.append(Close(one.claim, one.next_epoch))
        return due + (self._empties(view, alone) if self.is_draining else [])

    def _empties(self, view: View, alone: Sequence[_Container]) -> list[Action]:
        """Ask for heirs of some containers. Without another node that can be one they are let go of."""
        under_way = sum(one.wish is not None or one.phase is Phase.ASKING for one in self._containers.values())
        others = {node: life for node, life in view.lives.items() if node != view.node and view.has_wishes}
        expected = {
            one: Owner(node=wish.node, life=wish.life, epoch=wish.epoch, stage=Stage.SERVING)
            for one, wish in view.wishes.items()
        }
        heirs = assigned([one.id for one in alone], {**view.owners, **expected}, others, view.weights)
        due: list[Action] = []
        for number, one in enumerate(alone, under_way):
            assert one.claim is not None
            if one.id not in heirs:
                due.append(one.leave())
            elif number < HANDOVERS_MAX:
                one.phase = Phase.ASKING
                due.append(Ask(one.claim, heirs[one.id]))
        return due

    def _warms(self, view: View) -> list[Action]:
        """Fetch what is to come here."""
        due: list[Action] = []
        for container, wish in view.wishes.items():
            one = self._containers.get(container)
            is_ours = wish.life == view.life and view.is_fresh and not self.is_draining
            if one is not None and one.phase is Phase.ELSEWHERE and is_ours and one.warm_for != wish:
                one.warm_for = wish
                due.append(Warm(container, wish))
        return due

    # Who takes what

    def _takes(self, view: View, now_s: float) -> list[Action]:
        handed = [
            one
            for one in self._containers.values()
            if one.phase is Phase.ELSEWHERE
            and (owner := view.owners.get(one.id)) is not None
            and owner.life == view.life
            and owner.epoch > one.left_epoch
        ]
        for one in handed:
            one.phase = Phase.CLAIMING
        return [TakeClaim(one.id) for one in handed] + self._takes_nobodys(view, now_s)

    def _takes_nobodys(self, view: View, now_s: float) -> list[Action]:
        own = view.lives.get(view.node)
        if not view.is_fresh or self.is_draining or own is None or not own.takes:
            return []
        nobodys = [one for one in self._containers.values() if one.id not in view.owners]
        for one in self._containers.values():
            if one.id in view.owners:
                one.nobodys_since_s = None
        takers = assigned([one.id for one in nobodys], view.owners, view.lives, view.weights)
        takers |= {one.id: view.wishes[one.id].node for one in nobodys if one.id in view.wishes}
        due: list[Action] = []
        for one in nobodys:
            if one.nobodys_since_s is None:
                one.nobodys_since_s = now_s
            late = now_s >= one.nobodys_since_s + PATIENCE_S
            is_due = takers.get(one.id) == view.node or late
            if one.phase is Phase.ELSEWHERE and is_due and now_s >= one.not_before_s:
                one.phase = Phase.CLAIMING
                due.append(TakeClaim(one.id))
        return due


def _stands(claim: Claim, view: View) -> bool:
    owner = view.owners.get(claim.container)
    return view.is_fresh and claim.life == view.life and owner is not None and owner.epoch == claim.epoch


def assigned(
    nobodys: Sequence[int],
    owners: Mapping[int, Owner],
    lives: Mapping[int, Life],
    weights: Mapping[int, float] = MappingProxyType({}),
) -> dict[int, int]:
    """The node that takes each of these containers, the heaviest first: the one with the least load. Among several, a
    hash decides, so that the containers of a dead node go to all that are left."""
    loads = {life.node: 0.0 for life in lives.values() if life.takes}
    for container, owner in sorted(owners.items()):
        if owner.node in loads:
            loads[owner.node] += weights.get(container, IDLE.weight)
    takers: dict[int, int] = {}
    for container in sorted(nobodys, key=lambda one: (-weights.get(one, IDLE.weight), one)) if loads else ():
        taker = min(loads, key=lambda node: (round(loads[node], 6), crc32c(f"{container}/{node}".encode()), node))
        loads[taker] += weights.get(container, IDLE.weight)
        takers[container] = taker
    return takers
