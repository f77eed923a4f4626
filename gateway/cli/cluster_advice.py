"""What a person should know of a cluster's state beside its tables, in sentences that say what to do.

No I/O. Keeps: each sentence follows from what etcd shows; nothing is guessed about a node that has told nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.cluster.coordination import Life, Owner, Stage

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


def advice(seen: Seen) -> list[str]:
    """The sentences, the most urgent first; none if all is well."""
    return [*_of_containers(seen), *_of_nodes(seen), *_of_troubles(seen)]


def _of_containers(seen: Seen) -> list[str]:
    if not seen.lives:
        return ["no node lives, and nobody is served: start the nodes; all that was acknowledged is in the bucket"]
    told: list[str] = []
    nobodys = sorted(set(seen.containers) - seen.owners.keys())
    if nobodys:
        told.append(
            f"{_named(nobodys)} nobody's, and not served: a node that lives takes each within seconds. If it stays so, "
            "the log of each node says why, at `a container cannot be opened`"
        )
    opening = sorted(one for one, owner in seen.owners.items() if owner.stage is Stage.OPENING)
    if opening:
        told.append(
            f"{_named(opening)} being opened, and not served yet: a node reads the log from the bucket. If it stays "
            "so, look whether that node reaches the bucket (its /readyz, and its log)"
        )
    return told


def _of_nodes(seen: Seen) -> list[str]:
    told: list[str] = []
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


def _draining(left: int, has_heirs: bool) -> str:
    if not left:
        return "has no containers any more: stop it, or start it again to have it take some"
    if has_heirs:
        return f"gives its {left} containers away"
    return f"should give {left} containers away, and no other node is there to take them: start one"


def _of_troubles(seen: Seen) -> list[str]:
    return [f"node {node} says: {one}" for node, told in sorted(seen.troubles.items()) for one in told]


def _named(containers: Sequence[int]) -> str:
    names = ", ".join(map(str, containers[:NAMED_MAX]))
    more = f" and {len(containers) - NAMED_MAX} more" if len(containers) > NAMED_MAX else ""
    return f"container{'s' if len(containers) > 1 else ''} {names}{more} {'are' if len(containers) > 1 else 'is'}"
