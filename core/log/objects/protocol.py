"""The log in an object store that knows put-if-absent alone: who owns it, where it ends, what is acknowledged.

No I/O: `Takeover` and `Window` name the next requests to the store, and take in its answers.

The log of a container is a chain of objects. Each has a place, (epoch, first LSN), which is its name. An owner puts its
groups into its own epoch. A taker walks the chain from the checkpoint to the first free place and puts a fence *there*,
in the old owner's epoch. The fence names the taker's epoch, in which the log goes on with the same LSN.

**Invariants**

- A place is taken once: by a group or by a fence. Fences are never removed; otherwise an owner that was paused before
  its fence would find the place free again, and acknowledge what nobody will ever read.
- Only the owner that an epoch's fence names puts groups into the epoch. So a new owner never meets late puts of an old
  one, whose places differ in the epoch.
- A group is acknowledged when it and all groups before it are stored. So what is acknowledged has no gap, and the walk,
  which ends at the first gap, passes all of it.
- Objects are removed only below a checkpoint that is stored. A taker that slept may take the place of a removed group
  for the chain's end; so it looks at the checkpoint again once its fence is there, and begins anew if that moved on.
- A planned hand-over: the owner itself puts the fence, when nothing of its is on its way, and the coordinator tells the
  heir of it (`Link`). So the heir walks up to there, and needs no fence of its own.
- With a coordinator, the taker's epoch is the one of its claim, above all before. A fence that names a later epoch, or
  a checkpoint of one, tells a taker that it was overtaken. What the coordinator knows of former fences (`Link`) is
  believed before what lies there: a store without conditions may have let a paused owner overwrite a fence.
- A put without an answer is settled by what lies at its place: the own token means stored, nothing means unknown (the
  same put is sent again), everything else means that the writer is deposed.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

FIRST_LSN: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an object in the log: its name."""

    epoch: int
    lsn: int


GENESIS: Final = Place(0, FIRST_LSN)
"""The beginning of every log. Epoch 0 has no owner: the first taker puts the first fence here."""


@dataclass(frozen=True, slots=True)
class Group:
    """Frames from the place's LSN to `last_lsn`. The token is that of the put."""

    place: Place
    last_lsn: int
    token: str


@dataclass(frozen=True, slots=True)
class Fence:
    """The end of the place's epoch. The log goes on with the same LSN in `next_epoch`."""

    place: Place
    next_epoch: int
    token: str


LogObject: TypeAlias = Group | Fence


@dataclass(frozen=True, slots=True)
class Link:
    """An epoch of a container's log ends before `lsn`; the log goes on with that LSN in `next_epoch`."""

    epoch: int
    lsn: int
    next_epoch: int


# Taking over


@dataclass(frozen=True, slots=True)
class FindCheckpoint:
    """Find the newest checkpoint; answer with `Takeover.found_checkpoint`."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read the object at a place; answer with `Takeover.has_read`."""

    place: Place


@dataclass(frozen=True, slots=True)
class PutFence:
    """Put a fence if its place is free; answer with `Takeover.has_put`."""

    fence: Fence


@dataclass(frozen=True, slots=True)
class Owned:
    """The log is ours: its next group belongs at this place, and these groups are all of it since the checkpoint.

    `links` are the ends of epochs between them, up to our own fence.
    """

    place: Place
    groups: tuple[Group, ...]
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Another taker, with a later epoch than ours, has the log."""

    epoch: int


Wanted: TypeAlias = FindCheckpoint | Read | PutFence | Owned | Overtaken


class Takeover:
    """One taker's way from the checkpoint to ownership. Do what `wanted` says, and tell the outcome.

    `epoch` is that of the taker's claim, with the links that came with it. Without a coordinator it is None: then the
    taker's epoch is the one behind the last that it meets.
    """

    def __init__(self, token: str, epoch: int | None = None, links: Sequence[Link] = ()) -> None:
        self._token = token
        self._epoch = epoch
        self._told = {Place(link.epoch, link.lsn): link for link in links if link.next_epoch > link.epoch}
        self._at = GENESIS
        self._groups: list[Group] = []
        self._links: list[Link] = []
        self._wanted: Wanted = FindCheckpoint()
        self._fenced: Place | None = None  # where our fence lies

    def __repr__(self) -> str:
        return f"<Takeover at {self._at}, wants {self._wanted}>"

    @property
    def wanted(self) -> Wanted:
        """What to do next."""
        return self._wanted

    @property
    def met(self) -> Owned:
        """The log as far as the walk has come, for a reader that takes nothing over."""
        return Owned(self._at, tuple(self._groups), tuple(self._links))

    def found_checkpoint(self, start: Place) -> None:
        """The newest checkpoint lets the log begin here; GENESIS if there is none."""
        if self._fenced is None or start.lsn > self._fenced.lsn:
            self._fenced = None
            self._groups.clear()
            self._links.clear()
            self._walk_to(start)
        else:
            self._wanted = self.met

    def has_read(self, found: LogObject | None) -> None:
        """This lies at the place that was to be read; None if nothing does."""
        match found:
            case None:
                epoch = self._at.epoch + 1 if self._epoch is None else self._epoch
                self._wanted = PutFence(Fence(self._at, epoch, self._token))
            case Group():
                self._groups.append(found)
                self._walk_to(Place(self._at.epoch, found.last_lsn + 1))
            case Fence():
                if found.token == self._token or found.next_epoch == self._epoch:  # of an earlier try of ours
                    self._fenced = found.place
                self._follow(Link(found.place.epoch, found.place.lsn, found.next_epoch))

    def has_put(self) -> None:
        """The put of the fence was answered: with success, or with "taken", or not at all. What lies there decides."""
        self._wanted = Read(self._at)

    def _follow(self, link: Link) -> None:
        self._links.append(link)
        self._walk_to(Place(link.next_epoch, link.lsn))

    def _walk_to(self, place: Place) -> None:
        while self._fenced is None and (link := self._told.get(place)) is not None:
            self._links.append(link)
            if link.next_epoch == self._epoch:  # the former owner has put the fence for us
                self._fenced = place
            place = Place(link.next_epoch, link.lsn)
        self._at = place
        if self._fenced is not None:
            self._wanted = FindCheckpoint()
        elif self._epoch is not None and place.epoch >= self._epoch:
            self._wanted = Overtaken(place.epoch)
        else:
            self._wanted = Read(place)


# Owning


class Outcome(enum.Enum):
    """What a put has come to."""

    STORED = enum.auto()
    UNKNOWN = enum.auto()  # nothing lies there (any more, or yet): send the same put again
    DEPOSED = enum.auto()  # the place is somebody else's: nothing may be acknowledged from here on


def outcome(found: LogObject | None, token: str) -> Outcome:
    """The outcome of a put with this token, by what lies at its place."""
    if found is None:
        return Outcome.UNKNOWN
    return Outcome.STORED if isinstance(found, Group) and found.token == token else Outcome.DEPOSED


@dataclass(slots=True)
class _Put:
    last_lsn: int
    is_stored: bool = False


class Window:
    """The owner's puts on their way. Several at a time; acknowledged in the order of their LSNs."""

    def __init__(self, place: Place, puts_max: int) -> None:
        self._next = place
        self._puts_max = puts_max
        self._puts: deque[_Put] = deque()
        self.stored_lsn = place.lsn - 1
        self.is_deposed = False

    def __repr__(self) -> str:
        return f"<Window stored {self.stored_lsn}, {len(self._puts)} puts, next {self._next}>"

    @property
    def is_open(self) -> bool:
        """Whether another put may begin."""
        return not self.is_deposed and len(self._puts) < self._puts_max

    @property
    def is_idle(self) -> bool:
        """Whether no put is on its way."""
        return not self._puts

    def begin(self, last_lsn: int, token: str) -> Group:
        """The next group, up to this LSN: put it at its place. Only while the window is open."""
        group = Group(self._next, last_lsn, token)
        self._puts.append(_Put(last_lsn))
        self._next = Place(group.place.epoch, last_lsn + 1)
        return group

    def ended(self, group: Group, outcome: Outcome) -> int | None:
        """A put has this outcome. Returns the LSN that is acknowledged from now on, if that changed."""
        if outcome is Outcome.DEPOSED:
            self.is_deposed = True
        if self.is_deposed or outcome is not Outcome.STORED:
            return None
        for put in self._puts:
            if put.last_lsn == group.last_lsn:
                put.is_stored = True
        before = self.stored_lsn
        while self._puts and self._puts[0].is_stored:
            self.stored_lsn = self._puts.popleft().last_lsn
        return self.stored_lsn if self.stored_lsn != before else None


# Linger

FAST_S: Final = 0.010
FAST_LINGER_S: Final = 0.001
LINGER_MAX_S: Final = 0.050
_SHARE_OF_NEWEST: Final = 0.1


class Linger:
    """The least time between the beginnings of two puts, seconds: it bounds the puts, and so their price.

    A store that answers within `FAST_S` gets a put each millisecond at most. For a slower one, the puts that may be on
    their way are spread over the time of an answer: more of them would only wait in the window.
    """

    def __init__(self, puts_max: int, fixed_s: float | None = None) -> None:
        self._puts_max = puts_max
        self._fixed_s = fixed_s
        self._answer_s = 0.0

    def answered(self, seconds: float) -> None:
        """A put took this long."""
        share = _SHARE_OF_NEWEST if self._answer_s else 1.0
        self._answer_s += share * (seconds - self._answer_s)

    @property
    def seconds(self) -> float:
        if self._fixed_s is not None:
            return self._fixed_s
        if self._answer_s < FAST_S:
            return FAST_LINGER_S
        return min(LINGER_MAX_S, self._answer_s / self._puts_max)
