"""The values of a cluster's keys in etcd that say who lives and who has which container.

Format 1 of the values, JSON each, without spaces:

    ===================  =========================================================================================
    key                  value
    ===================  =========================================================================================
    ``nodes/<id>``       ``v`` (1), ``life``, ``draining``, ``told`` (what the node tells of itself: any object),
                         ``level`` (the highest that it knows); ``store`` (false) if it does not reach the object store
    ``containers/<id>``  ``v`` (1), ``node``, ``life``, ``epoch``, ``stage`` (`opening` or `serving`); from level 3 on
                         ``leader``, if its leader epoch has risen above that of the claim
    ``assign/<id>``      ``v`` (1), ``epoch``, ``node``, ``life``: a wish of that name, gone with the next claim
    ``warm/<id>``        the same: that node is ready to take the container over
    ``troubles/<id>``    ``v`` (1), ``troubles``: sentences for people, `TROUBLES_MAX` at most; no key if there are none
    ``members/<id>``     ``v`` (1), ``life``, ``served`` (``[[container, epoch], …]``), ``told``; ``ended`` (ms since
                         1970) once others have heard of its end; ``left`` (true) if it was stopped on purpose
    ``links/<id>``       ``v`` (1), ``links``: ``[[epoch, lsn, next epoch], …]``, oldest first; outlives its owner
    ===================  =========================================================================================

**Invariant**: a value that cannot be read is told, and counts as if it were not there; but what was fenced (``links``)
is never guessed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from core.cluster.coordination import LINKS_MAX, Life, Owner, Stage, Wish
from core.cluster.etcd.wire import KeyValue
from core.cluster.etcd_keys import FORMAT
from core.cluster.levels import FIRST, NEWEST
from core.cluster.loads import Load
from core.cluster.loads import decode as decode_loads
from core.cluster.members import Member
from core.errors import CorruptState
from core.log.objects.protocol import Link

logger = logging.getLogger(__name__)

TROUBLES_MAX: Final = 3
TROUBLE_CHARS_MAX: Final = 200


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps({"v": FORMAT, **value}, separators=(",", ":")).encode()


def node_value(
    life: str, is_draining: bool, told: Mapping[str, Any], level: int = NEWEST, *, reaches_store: bool = True
) -> bytes:
    value = {"life": life, "draining": is_draining, "level": level, "told": told}
    return encode(value if reaches_store else value | {"store": False})


def owner_value(owner: Owner) -> bytes:
    """The leader epoch is left out while it is the claim's: nodes below level 3 know no other."""
    value = {"node": owner.node, "life": owner.life, "epoch": owner.epoch, "stage": owner.stage.value}
    return encode(value if owner.risen <= owner.epoch else {**value, "leader": owner.risen})


def member_value(member: Member) -> bytes:
    served = [[container, epoch] for container, epoch in member.served.items()]
    value: dict[str, Any] = {"life": member.life, "served": served, "told": member.told}
    if member.ended_ms is not None:
        value["ended"] = member.ended_ms
    return encode(value | {"left": True} if member.has_left else value)


def links_value(links: Sequence[Link]) -> bytes:
    return encode({"links": [[one.epoch, one.lsn, one.next_epoch] for one in links[-LINKS_MAX:]]})


def wish_value(wish: Wish) -> bytes:
    return encode({"epoch": wish.epoch, "node": wish.node, "life": wish.life})


def troubles_value(troubles: Sequence[str]) -> bytes:
    return encode({"troubles": [one[:TROUBLE_CHARS_MAX] for one in troubles[:TROUBLES_MAX]]})


def decode(row: KeyValue) -> Mapping[str, Any]:
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
    return isinstance(value.get("life"), str) and isinstance(value.get("told"), dict)


def life_of(node: int, row: KeyValue) -> Life | None:
    value = decode(row)
    if not is_life(value):
        return None
    level = value.get("level")
    return Life(
        node=node,
        life=value["life"],
        is_draining=value.get("draining") is True,
        level=level if isinstance(level, int) else FIRST,
        reaches_store=reaches_store(value),
    )


def reaches_store(value: Mapping[str, Any]) -> bool:
    """Whether a node, by its row's fields, reaches the object store, as far as it has told."""
    return value.get("store") is not False


def owner_of(row: KeyValue) -> Owner | None:
    value = decode(row)
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
    value = decode(row)
    try:
        return Wish(epoch=int(value["epoch"]), node=int(value["node"]), life=str(value["life"]))
    except (KeyError, TypeError, ValueError):
        return None


def loads_of(row: KeyValue) -> tuple[int, Mapping[int, Load]] | None:
    try:
        return row.created, decode_loads(row.value)
    except ValueError as error:
        logger.error("loads in etcd cannot be read", extra={"reason": str(error)})
        return None


def troubles_of(row: KeyValue) -> Sequence[str] | None:
    told = decode(row).get("troubles")
    return [str(one)[:TROUBLE_CHARS_MAX] for one in told[:TROUBLES_MAX]] if isinstance(told, list) else None


def member_of(node: int, row: KeyValue) -> Member | None:
    value = decode(row)
    try:
        ended, told = value.get("ended"), value["told"]
        return Member(
            node=node,
            life=str(value["life"]),
            served={int(container): int(epoch) for container, epoch in value["served"]},
            told=told if isinstance(told, dict) else {},
            ended_ms=None if ended is None else int(ended),
            has_left=value.get("left") is True,
        )
    except (KeyError, TypeError, ValueError):
        return None


def links_of(row: KeyValue) -> Sequence[Link]:
    """Raises CorruptState: what was fenced must not be guessed."""
    try:
        return tuple(Link(int(epoch), int(lsn), int(after)) for epoch, lsn, after in decode(row)["links"])
    except (KeyError, TypeError, ValueError) as error:
        key = row.key.decode(errors="replace")[:100]
        raise CorruptState(f"key {key} in etcd has no links of epochs: restore etcd") from error


def id_of(key: bytes) -> int | None:
    return int(key) if key.isdigit() and len(key) <= 10 else None
