"""The nodes that a cluster has had, of which each is known until it was stopped on purpose and forgotten.

A node that lives has a life, which ends with its lease and leaves nothing behind. So each node has a row as well that
outlives it: what it serves, kept by itself while it lives. The others note in it when the node has gone.

No I/O and no clock: `due` says which rows are to be changed; `core.cluster.etcd_members` has them.

**Invariants**

- A row is about the last life that its node told of. Its node alone writes it while it lives; once it does not, the
  others add the end, and nothing else.
- A node that has left on purpose is no reason to worry, and is forgotten when `LEFT_MAX` others have left after it. One
  that has gone otherwise stays known until it is back, or somebody has it forgotten.
- Nobody decides anything by these rows: they are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from core.cluster.coordination import Life, Owner, Stage

LEFT_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that lives, or did. `served`: the containers that it serves, or served at last, with the epochs of its
    claims; `told`: what it tells of itself; `ended_ms`: when others heard that it had gone, ms since 1970 by the clock
    of one of them, None if nobody has yet; `has_left`: it was stopped on purpose."""

    node: int
    life: str
    served: Mapping[int, int]
    told: Mapping[str, Any]
    ended_ms: int | None = None
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """This is to be a node's row."""

    member: Member

    @property
    def node(self) -> int:
        return self.member.node


@dataclass(frozen=True, slots=True)
class Forget:
    """A node's row is to go."""

    node: int


Change: TypeAlias = Note | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the coordinator's mirror shows. `told`: what nodes that live tell of themselves."""

    node: int
    life: str
    members: Mapping[int, Member]
    lives: Mapping[int, Life]
    owners: Mapping[int, Owner]
    told: Mapping[int, Mapping[str, Any]]


def due(view: View, now_ms: int) -> list[Change]:
    """The rows that this node has to change: its own, and those of nodes that have gone. Other nodes may do the same
    for these, so each change compares what was seen. None while this node itself does not live."""
    own = view.lives.get(view.node)
    if own is None or own.life != view.life:
        return []
    changes: list[Change] = []
    member = of_life(view)
    if view.members.get(view.node) != member:
        changes.append(Note(member))
    gone = [one for node, one in view.members.items() if node not in view.lives]
    changes += [Note(replace(one, ended_ms=now_ms)) for one in gone if one.ended_ms is None and not one.has_left]
    left = sorted((one for one in gone if one.has_left), key=lambda one: (one.ended_ms or 0, one.node))
    return changes + [Forget(one.node) for one in left[:-LEFT_MAX]]


def of_life(view: View) -> Member:
    """The row of this node, while it lives."""
    served = {
        container: owner.epoch
        for container, owner in sorted(view.owners.items())
        if owner.life == view.life and owner.stage is Stage.SERVING
    }
    return Member(node=view.node, life=view.life, served=served, told=view.told.get(view.node, {}))


def last_servers(members: Mapping[int, Member]) -> dict[int, int]:
    """The node that served each container last, as far as any row tells."""
    found: dict[int, tuple[int, int]] = {}
    for node, member in members.items():
        for container, epoch in member.served.items():
            found[container] = max(found.get(container, (epoch, node)), (epoch, node))
    return {container: node for container, (_, node) in found.items()}
