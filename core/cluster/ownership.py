"""What one node does about the containers of a cluster: which it takes, opens, serves, gives away, and has lost.

No I/O and no clock: its owner carries out what `Ownership` asks for (`Action`) and tells it what came of that.

    elsewhere --TakeClaim--> claiming --Open--> opening --Confirm--> confirming --Serve--> serving
        ^                                                                                     |
        +-----------------GiveUp-------------------- leaving <----------StepDown--------------+

**Invariants**

- A container is opened only under a claim, and served only once the claim was confirmed after the log was fenced.
- It is served no longer than the claim stands: when the coordinator shows another epoch, when this life has ended, or
  when the log finds somebody else's object, the next action is a StepDown that waits for nothing (`is_lost`).
- There is one action at a time for a container: the next comes when the outcome of the last one is told.
- Nobody is asked who takes a container that is nobody's: all nodes that live compute it from what they see, and the
  coordinator lets one of them win. If that one does not take it, any other does, `PATIENCE_S` later.
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

from core.cluster.coordination import Claim, Life, Owner, Wish
from core.cluster.loads import IDLE
from core.log.objects.protocol import Link

PATIENCE_S: Final = 3.0
"""How long a container may be nobody's before any node takes it."""
RETRY_S: Final = 5.0
"""How long a node leaves a container alone that it could not open: another one may be able to."""


class Phase(enum.Enum):
    """How far this node is with a container."""

    ELSEWHERE = enum.auto()
    CLAIMING = enum.auto()
    OPENING = enum.auto()
    CONFIRMING = enum.auto()
    STARTING = enum.auto()
    SERVING = enum.auto()
    LEAVING = enum.auto()
    GIVING_UP = enum.auto()


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


Action: TypeAlias = TakeClaim | Open | Confirm | Serve | StepDown | GiveUp


@dataclass(frozen=True, slots=True)
class View:
    """What the coordinator's mirror shows. `is_fresh`: our lease is certainly there. `wishes`: those that stand;
    `weights`: of containers that were measured."""

    node: int
    life: str
    owners: Mapping[int, Owner]
    lives: Mapping[int, Life]
    is_fresh: bool
    wishes: Mapping[int, Wish] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)


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
        self._is_draining = False

    def __repr__(self) -> str:
        return f"<Ownership of {sorted(self.serving)} in {len(self._containers)} containers>"

    @property
    def serving(self) -> set[int]:
        """The containers that this node serves."""
        return {one.id for one in self._containers.values() if one.phase is Phase.SERVING}

    @property
    def is_rid(self) -> bool:
        """Whether this node has nothing to do with any container."""
        return all(one.phase is Phase.ELSEWHERE for one in self._containers.values())

    def phase(self, container: int) -> Phase:
        """How far this node is with a container."""
        return self._containers[container].phase

    def drain(self) -> None:
        """Give all containers away from now on, and take no others."""
        self._is_draining = True

    def look(self, view: View, now_s: float) -> list[Action]:
        """What is due, by what the coordinator shows now. Call it after each change, and each second."""
        due: list[Action] = []
        for one in self._containers.values():
            if one.claim is not None and not _stands(one.claim, view):
                one.is_lost = True
            if one.phase is Phase.SERVING and (one.is_lost or self._is_draining or one.id in view.wishes):
                due.append(one.leave())
        return due + self._takes(view, now_s)

    def lost(self, claim: Claim, now_s: float) -> list[Action]:
        """The container's log is somebody else's, or its storage failed: it serves no more under this claim."""
        one = self._containers[claim.container]
        if one.claim != claim:
            return []
        one.is_lost = True
        if one.phase is not Phase.SERVING:
            return []
        one.not_before_s = now_s + RETRY_S
        return [one.leave()]

    # What came of actions

    def claimed(self, container: int, claim: Claim | None) -> list[Action]:
        """The claim was granted, or not, and the next look decides."""
        one = self._containers[container]
        assert one.phase is Phase.CLAIMING, f"container {container} was not to be claimed"
        if claim is None:
            one.phase = Phase.ELSEWHERE
            return []
        one.claim, one.is_lost = claim, False
        if self._is_draining:
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
        return [] if well and not one.is_lost and not self._is_draining else [one.leave()]

    def stepped_down(self, claim: Claim) -> list[Action]:
        """Nothing of the container is open here any more."""
        one = self._its(claim, Phase.LEAVING)
        one.is_open = False
        return [one.leave()]

    def gave_up(self, claim: Claim) -> None:
        """The coordinator has heard that we let go, or this life has ended."""
        one = self._its(claim, Phase.GIVING_UP)
        one.phase, one.claim, one.nobodys_since_s = Phase.ELSEWHERE, None, None

    def _its(self, claim: Claim, phase: Phase) -> _Container:
        one = self._containers[claim.container]
        assert one.claim == claim, f"{claim} is not the claim of {one}"
        assert one.phase is phase, f"{one} is not {phase}"
        return one

    # Who takes what

    def _takes(self, view: View, now_s: float) -> list[Action]:
        if not view.is_fresh or self._is_draining or view.node not in view.lives:
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
    loads = {life.node: 0.0 for life in lives.values() if not life.is_draining}
    for container, owner in sorted(owners.items()):
        if owner.node in loads:
            loads[owner.node] += weights.get(container, IDLE.weight)
    takers: dict[int, int] = {}
    for container in sorted(nobodys, key=lambda one: (-weights.get(one, IDLE.weight), one)) if loads else ():
        taker = min(loads, key=lambda node: (round(loads[node], 6), crc32c(f"{container}/{node}".encode()), node))
        loads[taker] += weights.get(container, IDLE.weight)
        takers[container] = taker
    return takers
