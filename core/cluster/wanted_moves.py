"""Slots that are to go to containers of other nodes, and what one node does about them.

A slot moves between containers of one node (`core.moving`). So the container that is to have it comes to the slot's
node by a hand-over, takes the slot, and goes home by another one:

    wanted --Bring--> both at one node --Carry--> moved --Bring, to its home--> at home --Forget-->

What is wanted is a row that all nodes see; each computes from it, from who owns what, and from where the slots are,
whose turn it is. So whoever dies leaves nothing behind but the row, and the next owners go on with it.

No I/O and no clock: the owner of `Moving` carries out what it asks for, and tells what came of that.

**Invariants**

- One container travels at a time: that of the oldest row. All slots that are to go into it go on that trip.
- Nothing is asked of a container for which a wish stands, and nothing at all of one that is nobody's, or being opened.
- A row ends: its slot is in the target or gone, or was refused by name, after `TRIES_MAX` tries or `GIVE_UP_S`. A
  target is sent home before its rows are forgotten, if its home lives and takes containers, `TRIES_MAX` times at most:
  a home that lets go of it again cannot open it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from core.cluster.coordination import Life, Owner, Stage, Wish

TRIES_MAX: Final = 10
PAUSE_S: Final = 0.5
PAUSE_S_MAX: Final = 30.0
"""Before a move is tried again that did not come to its end; twice as long each time."""
ASK_APART_S: Final = 2.0
"""Between two questions for the same container: the first may be on its way to the mirror, or void."""
GIVE_UP_S: Final = 3_600.0
WANTED_MAX: Final = 1_000

Place: TypeAlias = tuple[int, int]
"""The id of a stream, the number of a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMove:
    """One row. `home`: the node that had the target when it was wanted; `why_not`: the move was refused, and stays."""

    place: Place
    target: int
    home: int
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Bring:
    """Ask that a container goes to a node; answer with `asked`."""

    container: int
    node: int


@dataclass(frozen=True, slots=True)
class Carry:
    """Move the slot, between containers of this node; answer with `carried` or `failed`."""

    move: WantedMove


@dataclass(frozen=True, slots=True)
class Refuse:
    """Note why a slot stays; answer with `told`."""

    move: WantedMove
    why: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove rows that are done with; answer with `told`."""

    moves: tuple[WantedMove, ...]


Action: TypeAlias = Bring | Carry | Refuse | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one node sees. `moves`: oldest first; `where`: the container that a slot is in, None if it is gone;
    `is_open`: whether a container can take a slot here, which its owner's row says a moment early; `stays`: why a slot
    of this node cannot leave its container."""

    node: int
    owners: Mapping[int, Owner]
    lives: Mapping[int, Life]
    wishes: Mapping[int, Wish]
    moves: Sequence[WantedMove]
    where: Callable[[Place], int | None]
    is_open: Callable[[int], bool] = lambda container: True
    stays: Callable[[Place], str | None] = lambda place: None

    def server_of(self, container: int | None) -> int | None:
        """The node that serves a container, and is not about to give it away."""
        owner = None if container is None else self.owners.get(container)
        is_served = owner is not None and owner.stage is Stage.SERVING and container not in self.wishes
        return owner.node if owner is not None and is_served else None

    def takes(self, node: int) -> bool:
        """Whether a node takes containers."""
        life = self.lives.get(node)
        return life is not None and life.takes


@dataclass(slots=True)
class _Tries:
    since_s: float
    count: int = 0
    not_before_s: float = 0.0


class Travels:
    """See the module. One action is under way at a time. Times are seconds that never go back."""

    def __init__(self) -> None:
        self._tries: dict[WantedMove, _Tries] = {}
        self._asked_s: dict[int, float] = {}  # when we asked for a container
        self._sent_home: dict[int, int] = {}  # how often we have sent a container home on its trip
        self._is_busy = False

    def __repr__(self) -> str:
        return f"<Travels: {len(self._tries)} moves wanted{', one action under way' if self._is_busy else ''}>"

    def look(self, view: View, now_s: float) -> Action | None:
        """What this node is to do now; nothing more until it has told what came of that."""
        known = self._tries
        self._tries = {one: known.get(one) or _Tries(now_s) for one in view.moves}
        targets = {one.target for one in view.moves}
        self._sent_home = {one: times for one, times in self._sent_home.items() if one in targets}
        if self._is_busy or not view.moves:
            return None
        due = self._due(view, now_s)
        self._is_busy = due is not None
        return due

    def asked(self, container: int, now_s: float) -> None:
        """The coordinator has heard of it, or it could not be: the next look decides."""
        self._is_busy, self._asked_s[container] = False, now_s

    def carried(self) -> None:
        """The slot has moved."""
        self._is_busy = False

    def failed(self, move: WantedMove, now_s: float) -> None:
        """The slot has not moved, and may be moved later."""
        self._is_busy = False
        tries = self._tries.get(move)
        if tries is not None:
            tries.not_before_s = now_s + min(PAUSE_S_MAX, PAUSE_S * 2**tries.count)
            tries.count += 1

    def told(self) -> None:
        """All see it, or will be told again."""
        self._is_busy = False

    def _due(self, view: View, now_s: float) -> Action | None:
        target = view.moves[0].target
        trip = [one for one in view.moves if one.target == target]
        pending = [one for one in trip if not one.why_not and view.where(one.place) not in (None, target)]
        served_by = view.server_of(target)
        if not pending:
            return self._homewards(view, target, trip, served_by, now_s)
        for one in pending:
            tries = self._tries[one]
            if now_s >= tries.since_s + GIVE_UP_S and view.node == min(view.lives, default=view.node):
                return Refuse(one, f"it did not come to its end within {GIVE_UP_S:g} s")
        here = [one for one in pending if view.server_of(view.where(one.place)) == served_by is not None]
        move = next(iter(here or pending))
        if view.server_of(view.where(move.place)) != view.node or served_by is None:
            return None
        if (why := view.stays(move.place)) is not None:  # before a container travels for nothing
            return Refuse(move, why)
        if served_by != view.node:
            return self._bring(target, view.node, now_s)
        tries = self._tries[move]
        if not view.is_open(target):
            return None
        if tries.count >= TRIES_MAX:
            return Refuse(move, f"it was tried {TRIES_MAX} times, see the log of node {view.node}")
        return Carry(move) if now_s >= tries.not_before_s else None

    def _homewards(
        self, view: View, target: int, trip: Sequence[WantedMove], served_by: int | None, now_s: float
    ) -> Action | None:
        """Everything is there that could come."""
        home, times = trip[0].home, self._sent_home.get(target, 0)
        if served_by != view.node:
            return None
        if home == view.node or not view.takes(home) or times >= TRIES_MAX:
            return Forget(tuple(trip))
        due = self._bring(target, home, now_s)
        if due is not None:
            self._sent_home[target] = times + 1
        return due

    def _bring(self, container: int, node: int, now_s: float) -> Action | None:
        asked_s = self._asked_s.get(container)
        return Bring(container, node) if asked_s is None or now_s >= asked_s + ASK_APART_S else None
