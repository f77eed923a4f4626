"""What a person should know of a cluster's state beside its tables, in sentences that say what to do.

No I/O. Keeps: each sentence follows from what etcd shows; nothing is guessed about a node that has told nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.cluster.coordination import Life, Owner, Stage
from core.cluster.members import Member, last_servers
from gateway.cli.output import time_of

NAMED_MAX: Final = 10
LATE: Final = 0.6
"""A lease whose last renewal is older than this part of it: a node renews each second, or each quarter of it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What etcd shows. `renewed_s`: by node, the age of its lease's last renewal and the lease's length, in seconds."""

    containers: Collection[int]
    owners: Mapping[int, Owner]
    lives: Mapping[int, Life]
    renewed_s: Mapping[int, tuple[int, int]]
    troubles: Mapping[int, Sequence[str]]
    members: Mapping[int, Member] = field(default_factory=dict)

    @property
    def gone(self) -> list[Member]:
        """Nodes that live no more, and were not stopped."""
        found = (one for node, one in sorted(self.members.items()) if node not in self.lives)
        return [one for one in found if not one.has_left]


def advice(seen: Seen) -> list[str]:
    """The sentences, the most urgent first; none if all is well."""
    return [*_of_containers(seen), *_of_nodes(seen), *_of_troubles(seen)]


def _of_containers(seen: Seen) -> list[str]:
    if not seen.lives:
        return ["no node lives, and nobody is served: start the nodes; all that was acknowledged is in the bucket"]
    servers = last_servers(seen.members)
    told: list[str] = []
    nobodys = sorted(set(seen.containers) - seen.owners.keys())
    if nobodys:
        told.append(
            f"{_named(nobodys)} nobody's, and not served{_last_at(servers.get(one) for one in nobodys)}: a node that "
            "lives takes each within seconds. If it stays so, the log of each node says why, at `a container cannot be "
            "opened`"
        )
    opening = sorted(one for one, owner in seen.owners.items() if owner.stage is Stage.OPENING)
    if opening:
        told.append(
            f"{_named(opening)} being opened, and not served yet: a node reads the log from the bucket. If it stays "
            "so, look whether that node reaches the bucket (its /readyz, and its log)"
        )
    return told


def _of_nodes(seen: Seen) -> list[str]:
    told = [_gone(seen, one) for one in seen.gone]
    for node, life in sorted(seen.lives.items()):
        age_s, ttl_s = seen.renewed_s.get(node, (0, 0))
        if ttl_s and age_s > LATE * ttl_s:
            told.append(
                f"node {node} has not renewed its lease for {age_s} s of {ttl_s} s: it sleeps, is cut off from etcd or "
                "has just died. Unless it comes back its containers go to others when the lease ends"
            )
        left = sum(owner.node == node for owner in seen.owners.values())
        if not life.reaches_store:
            told.append(
                f"node {node} does not reach the bucket: acknowledgements of its {left} containers wait, and it is "
                "given no others. Repair its way to the bucket, or kill it, so that others take them"
            )
        if life.is_draining:
            others = [one for one in seen.lives.values() if one.node != node and one.takes]
            told.append(f"node {node} {_draining(left, bool(others))}")
    return told


def _gone(seen: Seen, member: Member) -> str:
    since = f"since {time_of(member.ended_ms)}" if member.ended_ms is not None else "nobody has heard since when"
    had = f"it had {_listed(sorted(member.served))}" if member.served else "it had no container"
    left = sorted(one for one in member.served if one not in seen.owners)
    rest = f", of which {_named(left, of_all=True)} nobody's" if left and seen.lives else ""
    return (
        f"node {member.node} has gone, {since}, without being stopped: {had}{rest}. Start it again, or have it "
        f"forgotten with `penstock cluster forget {member.node}`"
    )


def _draining(left: int, has_heirs: bool) -> str:
    if not left:
        return "has no containers any more: stop it, or start it again to have it take some"
    if has_heirs:
        return f"gives its {left} containers away"
    return f"should give {left} containers away, and no other node is there to take them: start one"


def _of_troubles(seen: Seen) -> list[str]:
    return [f"node {node} says: {one}" for node, told in sorted(seen.troubles.items()) for one in told]


def _last_at(servers: Iterable[int | None]) -> str:
    nodes = sorted({one for one in servers if one is not None})[:NAMED_MAX]
    return f" (last at node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))})" if nodes else ""


def _named(containers: Sequence[int], *, of_all: bool = False) -> str:
    names = _numbers(containers) if of_all else _listed(containers)
    return f"{names} {'are' if len(containers) > 1 else 'is'}"


def _listed(containers: Sequence[int]) -> str:
    return f"container{'s' if len(containers) > 1 else ''} {_numbers(containers)}"


def _numbers(containers: Sequence[int]) -> str:
    more = f" and {len(containers) - NAMED_MAX} more" if len(containers) > NAMED_MAX else ""
    return ", ".join(map(str, containers[:NAMED_MAX])) + more
