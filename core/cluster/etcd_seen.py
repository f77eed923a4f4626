"""What etcd shows of a cluster, decoded as it changes: who lives or did, who has which container, who is to have it.

**Invariant**: at each call it is what the mirror's values say, nothing more. Its owner passes each
change on (`know`) before it tells anybody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from core.cluster.coordination import Life, Owner, Wish
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.wire import KeyValue
from core.cluster.etcd_keys import ASSIGN, CONTAINERS, LOADS, MEMBERS, META, NODES, TROUBLES, WARM, Meta
from core.cluster.etcd_values import (
    decode,
    id_of,
    is_life,
    life_of,
    loads_of,
    member_of,
    owner_of,
    troubles_of,
    wish_of,
)
from core.cluster.levels import FIRST
from core.cluster.loads import Load
from core.cluster.members import Member

KNOWN: Final = (META, NODES, CONTAINERS, ASSIGN, WARM, LOADS, MEMBERS)
"""The beginnings of the keys that `Seen.know` takes in."""
_T = TypeVar("_T")


class Seen:
    """See the module."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._meta: Meta | None = None
        self._wishes: dict[int, Wish] = {}
        self._loads: dict[int, tuple[int, Mapping[int, Load]]] = {}  # with the revision that made the row
        self._claims: dict[int, KeyValue] = {}  # the row that each of the owners was read from
        self.owners: dict[int, Owner] = {}
        self.lives: dict[int, Life] = {}
        self.warmed: dict[int, Wish] = {}
        self.members: dict[int, Member] = {}
        self.know(mirror.values)

    def __repr__(self) -> str:
        return f"<Seen {len(self.lives)} lives, {len(self.owners)} containers>"

    def know(self, rows: Mapping[bytes, KeyValue | None]) -> None:
        """Take in what became of these keys, told without the prefix."""
        for key, row in rows.items():
            if key == META:
                self._meta = None if row is None else Meta.decode(row.value)
            elif (container := _number(key, CONTAINERS)) is not None:
                owner = None if row is None else owner_of(row)
                _put(self.owners, container, owner)
                _put(self._claims, container, None if owner is None else row)
            elif (container := _number(key, ASSIGN)) is not None:
                _put(self._wishes, container, None if row is None else wish_of(row))
            elif (container := _number(key, WARM)) is not None:
                _put(self.warmed, container, None if row is None else wish_of(row))
            elif (node := _number(key, LOADS)) is not None:
                _put(self._loads, node, None if row is None else loads_of(row))
            elif (node := _number(key, MEMBERS)) is not None:
                _put(self.members, node, None if row is None else member_of(node, row))
            elif (node := _number(key, NODES)) is not None:
                _put(self.lives, node, None if row is None else life_of(node, row))

    @property
    def level(self) -> int:
        """The cluster's."""
        return FIRST if self._meta is None else self._meta.level

    def wishes(self) -> Mapping[int, Wish]:
        """Those that stand, by their containers."""
        return {one: wish for one, wish in self._wishes.items() if wish.stands(self.owners.get(one), self.lives)}

    def loads(self) -> Mapping[int, Mapping[int, Load]]:
        """By node, the one that has told so for longest first."""
        return {node: loads for node, (_, loads) in sorted(self._loads.items(), key=lambda row: row[1][0])}

    def told(self) -> Mapping[int, Mapping[str, Any]]:
        """What each node that lives told of itself."""
        rows = ((id_of(key), decode(row)) for key, row in self._mirror.below(NODES))
        return {node: value["told"] for node, value in rows if node is not None and is_life(value)}

    def troubles(self) -> Mapping[int, Sequence[str]]:
        """What nodes say is wrong with them."""
        rows = ((id_of(key), troubles_of(row)) for key, row in self._mirror.below(TROUBLES))
        return {node: told for node, told in rows if node is not None and told is not None}

    # Rows as they are, for changes that compare them

    def node_row(self, node: int) -> KeyValue | None:
        return self._mirror.values.get(b"%s%d" % (NODES, node))

    def container_row(self, container: int) -> KeyValue | None:
        return self._mirror.values.get(b"%s%d" % (CONTAINERS, container))

    def row_of_claim(self, container: int, epoch: int) -> KeyValue | None:
        """The container's row, if it is that of the claim with this epoch: the very row that says so, as the mirror may
        have a later one by the time, of a change that was not taken in."""
        owner = self.owners.get(container)
        return None if owner is None or owner.epoch != epoch else self._claims[container]


def _number(key: bytes, kind: bytes) -> int | None:
    """The number of a key of this kind."""
    return id_of(key[len(kind) :]) if key.startswith(kind) else None


def _put(mapping: dict[int, _T], key: int, value: _T | None) -> None:
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value
