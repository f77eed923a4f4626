"""The values of a cluster's keys in etcd that come and go with its nodes, and the links that outlive them.

Format 1 of the values, JSON each, without spaces:

    ===================  =========================================================================================
    key                  value
    ===================  =========================================================================================
    ``nodes/<id>``       ``v`` (1), ``life``, ``draining``, ``told`` (what the node tells of itself: any object),
                         ``level`` (the highest that it knows)
    ``containers/<id>``  ``v`` (1), ``node``, ``life``, ``epoch``, ``stage`` (`opening` or `serving`); from level 3 on
                         ``leader``, if its leader epoch has risen above that of the claim
    ``assign/<id>``      ``v`` (1), ``epoch``, ``node``, ``life``: a wish of that name, gone with the next claim
    ``warm/<id>``        the same: that node is ready to take the container over
    ``troubles/<id>``    ``v`` (1), ``troubles``: sentences for people, `TROUBLES_MAX` at most; no key if there are none
    ``links/<id>``       ``v`` (1), ``links``: ``[[epoch, lsn, next epoch], …]``, oldest first; outlives its owner
    ===================  =========================================================================================

**Invariant**: a field's meaning never changes under the same format number. A field that is not known is passed over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from core.cluster.coordination import LINKS_MAX, Life, Owner, Stage, Wish
from core.cluster.etcd.wire import KeyValue
from core.cluster.etcd_keys import FORMAT
from core.cluster.levels import FIRST, NEWEST
from core.cluster.loads import Load
from core.cluster.loads import decode as decode_loads
from core.errors import CorruptState
from core.log.objects.protocol import Link

logger = logging.getLogger(__name__)


def encode_value(value: Mapping[str, Any]) -> bytes:
    """A value of this format."""
    return json.dumps({"v": FORMAT, **value}, separators=(",", ":")).encode()


def node_value(life: str, is_draining: bool, told: Mapping[str, Any], level: int = NEWEST) -> bytes:
    """A node that lives."""
    return encode_value({"life": life, "draining": is_draining, "level": level, "told": told})


def owner_value(owner: Owner) -> bytes:
    """The leader epoch is left out while it is the claim's: nodes below level 3 know no other."""
    value = {"node": owner.node, "life": owner.life, "epoch": owner.epoch, "stage": owner.stage.value}
    return encode_value(value if owner.risen <= owner.epoch else {**value, "leader": owner.risen})


def links_value(links: Sequence[Link]) -> bytes:
    """The newest of these links."""
    return encode_value({"links": [[one.epoch, one.lsn, one.next_epoch] for one in links[-LINKS_MAX:]]})


def wish_value(wish: Wish) -> bytes:
    """A wish, or that it may be fulfilled."""
    return encode_value({"epoch": wish.epoch, "node": wish.node, "life": wish.life})


def decode_value(row: KeyValue) -> Mapping[str, Any]:
    """A value's fields; none if it is not of this format."""
    try:
        value = json.loads(row.value)
    except ValueError:
        value = None
    if isinstance(value, dict) and value.get("v") == FORMAT:
        return value
    logger.error("a key in etcd cannot be read", extra={"key": row.key.decode(errors="replace")[:100]})
    return {}


def is_life(value: Mapping[str, Any]) -> bool:
    """Whether these are the fields of a node that lives."""
    return isinstance(value.get("life"), str) and isinstance(value.get("told"), dict)


def life_of(node: int, row: KeyValue) -> Life | None:
    """None for a value that cannot be read."""
    value = decode_value(row)
    if not is_life(value):
        return None
    level = value.get("level")
    return Life(
        node=node,
        life=value["life"],
        is_draining=value.get("draining") is True,
        level=level if isinstance(level, int) else FIRST,
    )


def owner_of(row: KeyValue) -> Owner | None:
    """None for a value that cannot be read."""
    value = decode_value(row)
    try:
        return Owner(
            node=int(value["node"]),
            life=str(value["life"]),
            epoch=int(value["epoch"]),
            stage=Stage(value["stage"]),
            risen=int(value.get("leader", 0)),
        )
    except (KeyError, TypeError, ValueError):
        return None


def wish_of(row: KeyValue) -> Wish | None:
    """None for a value that cannot be read."""
    value = decode_value(row)
    try:
        return Wish(epoch=int(value["epoch"]), node=int(value["node"]), life=str(value["life"]))
    except (KeyError, TypeError, ValueError):
        return None


def told_loads(row: KeyValue) -> tuple[int, Mapping[int, Load]] | None:
    """The loads of a node, with the revision that made the row; None for a value that cannot be read."""
    try:
        return row.created, decode_loads(row.value)
    except ValueError as error:
        logger.error("loads in etcd cannot be read", extra={"reason": str(error)})
        return None


def links_of(row: KeyValue) -> Sequence[Link]:
    """Raises CorruptState: what was fenced must not be guessed."""
    try:
        return tuple(Link(int(epoch), int(lsn), int(after)) for epoch, lsn, after in decode_value(row)["links"])
    except (KeyError, TypeError, ValueError) as error:
        key = row.key.decode(errors="replace")[:100]
        raise CorruptState(f"key {key} in etcd has no links of epochs: restore etcd") from error


def id_of(key: bytes) -> int | None:
    """The number at the end of a key; None if there is none."""
    return int(key) if key.isdigit() and len(key) <= 10 else None
