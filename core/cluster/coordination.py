"""What the owners of containers need of a coordinator that outlives them: claims with epochs, and who lives.

A *life* is one run of one node. It has a lease, which it renews; when the lease ends, everything under it is gone: the
node is not among the lives, and its claims are nobody's. An implementation renews by itself, and when the lease was
lost it begins another life by itself. `core.cluster.ownership` decides what a node does with all this.

**Invariants** of every implementation

- A container has one claim at most, whatever crashes, and each claim has an epoch that no other has, above all that
  were ever given for its container. So of two owners the one with the higher epoch is right.
- `confirm`, and each answer of `read_epochs`, is linearizable: it sees each claim that was answered before its call.
- The mirror (`owners`, `lives`) may be late, never wrong in its order. What a call of ours has changed is in the mirror
  when the call returns.
- `is_fresh` becomes False before anybody else can hear that the lease has ended: it goes by a clock that also runs
  while the machine sleeps (CLOCK_BOOTTIME), from the moment at which the last answered renewal was *sent*, with a
  margin.

Calls raise CoordinatorAway when the coordinator does not answer within a bound of the implementation's. Then it is
unknown whether the call had its effect: claims and confirmations may be sent again.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from core.cluster.levels import FIRST
from core.cluster.loads import Load
from core.log.objects.protocol import Link

LINKS_MAX: Final = 1_000
"""The most links that are kept for a container: the newest. There is one for each owner since its last checkpoint."""


class Stage(enum.StrEnum):
    """How far an owner is. The values are those that are stored."""

    OPENING = "opening"  # it reads the log; nobody serves
    SERVING = "serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A container that this node's life `life` has taken. It is good as long as the coordinator has the same epoch."""

    container: int
    epoch: int
    life: str
    links: Sequence[Link] = ()  # as the last owner that was confirmed has told them


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who has a container."""

    node: int
    life: str
    epoch: int
    stage: Stage
    risen: int = 0  # its leader epoch, where that has risen above the claim's

    @property
    def leader_epoch(self) -> int:
        """The epoch of new entries, and of answers to clients."""
        return max(self.epoch, self.risen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A node that lives."""

    node: int
    life: str
    is_draining: bool = False  # it gives its containers away, and wants no others
    level: int = field(default=FIRST, compare=False)  # the highest that it knows (`core.cluster.levels`)
    reaches_store: bool = field(default=True, compare=False)  # else it keeps what it has, and could open nothing more

    @property
    def takes(self) -> bool:
        """Whether containers may go there."""
        return self.reaches_store and not self.is_draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A container is to go to a node. It is for one owner, named by its epoch, and for one life of the other node: the
    next claim fulfils it, whoever makes that, and the end of that life voids it."""

    epoch: int
    node: int
    life: str

    def stands(self, owner: Owner | None, lives: Mapping[int, Life]) -> bool:
        """Whether it is still to be fulfilled. `owner`: of the container, if it has one."""
        target = lives.get(self.node)
        is_there = target is not None and target.life == self.life and target.takes
        return is_there and (owner is None or (owner.epoch == self.epoch and owner.life != self.life))


class Coordination(Protocol):
    """The coordinator, as one node sees it. All methods are for the event loop."""

    # The mirror

    @property
    def level(self) -> int:
        """The level of the cluster, see `core.cluster.levels`."""

    @property
    def node(self) -> int:
        """The id of this node."""

    @property
    def life(self) -> str:
        """This life of the node, which nobody else ever had; another one after its lease was lost."""

    @property
    def containers(self) -> Sequence[int]:
        """All containers of the cluster. They are decided when the cluster is made."""

    def owners(self) -> Mapping[int, Owner]:
        """Who has which container. One that is missing is nobody's."""

    def lives(self) -> Mapping[int, Life]:
        """All nodes that live, by their ids; this one, too, as long as its lease is there."""

    def wishes(self) -> Mapping[int, Wish]:
        """The containers that are to go to other nodes, as far as that still stands."""

    def loads(self) -> Mapping[int, Mapping[int, Load]]:
        """What nodes tell of how busy their containers are, the node first that has told so for longest: it decides."""

    def warmed(self) -> Mapping[int, Wish]:
        """The wishes whose nodes say that they have fetched what they can, and wait."""

    def on_changed(self, told: Callable[[], None]) -> None:
        """Call `told` after each change of the mirror, and after this life was lost or another one began."""

    def is_fresh(self) -> bool:
        """Whether the lease is certainly there, so that what is ours is nobody else's. Cheap: it is asked for each
        read of a partition."""

    # Changes

    async def claim(self, container: int) -> Claim | None:
        """Take a container that is nobody's, for this life, in stage `opening`, with the next epoch of the cluster.

        One transaction: container absent, own lease alive, counter raised, a wish for the container gone. None if
        somebody else has it, or the lease is gone. If this life has it already, by an earlier call that went through
        unseen or because its owner has handed it over, that claim is returned.
        """

    async def confirm(self, claim: Claim, links: Sequence[Link]) -> bool:
        """The claimed container is read and fenced: serve it. One transaction that *compares the claim's epoch*; it
        makes the stage `serving` and stores the links in place of those before.

        False if the claim is not the container's any more. Then nothing was changed, and nothing may be served: the
        walk may have ended at a place whose objects were removed meanwhile. A second call answers as the first.
        """

    async def read_epochs(self, expected: Mapping[int, int] = MappingProxyType({})) -> Mapping[int, int]:
        """The epoch of each container's claim now, read linearizably from the coordinator and not from the mirror.

        `expected`: epochs by container. While all of them are so, the answer may be these alone.
        """

    async def give_up(self, claim: Claim) -> None:
        """Release a container that this claim still holds. A later owner keeps it."""

    async def ask(self, container: int, node: int) -> bool:
        """Ask that a container goes from its owner to this node. False if that is not as the mirror shows it:
        the container is nobody's, or that node's, or was given away meanwhile, or the node takes none."""

    async def tell_warm(self, container: int, wish: Wish) -> None:
        """Tell the owner that this node has fetched what it can of a container that is to come here."""

    async def reserve_epoch(self) -> int:
        """The next epoch of the cluster, for a claim that this node will hand over."""

    async def rise(self, claim: Claim) -> int | None:
        """The next epoch of the cluster, as the leader epoch of a container that is served under this claim, which
        keeps its own epoch. One transaction that compares the claim; all others see it before anything that its owner
        decides afterwards. None if the claim is not the container's any more.

        A slot that comes from another container needs it, since leader epochs never fall. What is reserved for a
        hand-over must be reserved afterwards.
        """

    async def hand_over(self, claim: Claim, wish: Wish, link: Link) -> bool:
        """Give a container whose log ends with this link to the life that is wished for: its claim, in stage `opening`,
        has the epoch that the link names, which was reserved after this node's claim. One transaction that compares
        our claim, and that life.

        False if either is gone. Then nothing was changed; a second call answers as the first.
        """

    async def tell_loads(self, loads: Mapping[int, Load]) -> None:
        """Tell all how busy the containers of this node are, in this life."""

    async def tell_troubles(self, troubles: Sequence[str]) -> None:
        """Tell people what is wrong with this node, in this life."""

    async def tell_reach(self, reaches_store: bool) -> None:
        """Tell all whether this node reaches the object store, in this life and in those to come."""

    async def drain(self) -> None:
        """Tell all that this node gives its containers away. It stays so until its life ends."""

    async def bury(self, life: Life) -> None:
        """End the lease of a life of another node that has certainly ended: its process is gone. Nothing happens if
        that lease has ended."""
