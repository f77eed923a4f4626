"""The keys of a cluster in etcd, and the first of them: what the cluster is.

All lie below ``penstock/<name of the cluster>/``. Numbers in keys and values are decimal, ids of streams in keys eight
hex digits, so that they are in order. Format 1:

    ==========================  =====================================================================================
    key                         value
    ==========================  =====================================================================================
    ``meta``                    JSON: ``v`` (the format, 1), ``cluster`` (its id), ``containers`` (how many),
                                ``level`` (`core.cluster.levels`; 1 if it is left out)
    ``rebuild``                 there is no ``meta`` yet: these keys are being made anew (`core.rebuilding`)
    ``authority``               by which nodes know one another, a secret; the gateway's (`gateway.cluster.authority`)
    ``epoch``                   the last epoch that was given to an owner, or for anything else
    ``ids/stream``              the next id of a stream
    ``ids/writer``              the next id of a writer
    ``streams/n/<name>``        the id of the stream that has this name
    ``streams/a/<name>``        the name of the stream whose name is this one, with ``_`` in place of each ``.``
    ``streams/i/<id>``          the stream, as in table ``streams`` (`core.streams.state`)
    ``settings/<kind>/<key>``   a dynamic setting; the key is any bytes
    ``decided/<kind>``          empty; written by each change of settings of this kind, deletions, too
    ``nodes/<id>``              a node that lives; under its lease (`core.cluster.etcd_values`)
    ``containers/<id>``         the owner of a container; under its lease (there as well)
    ``assign/<id>``             the node that a container is to go to (there as well)
    ``warm/<id>``               that this node is ready for it; under its lease (there as well)
    ``moves/<id>/<slot>``       a slot that is to go to another node's container (`core.cluster.etcd_moves`)
    ``loads/<id>``              how busy a node's containers are; under its lease (`core.cluster.loads`)
    ``members/<id>``            a node that lives, or did: it is known until it is forgotten (there as well)
    ``troubles/<id>``           what a node says is wrong with it; under its lease (`core.cluster.etcd_values`)
    ``links/<id>``              where the epochs of a container's log end (there as well)
    ``calls/<uuid>``            the number of a session's last change; under its lease (`core.cluster.etcd.session`)
    ==========================  =====================================================================================

**Invariant**: a key's meaning and a value's format never change under the same format number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.cluster.etcd.session import Session
from core.cluster.etcd.wire import Compare, KeyValue, Put, Range, absent
from core.cluster.levels import FIRST, NEWEST
from core.cluster.registry import common_form
from core.errors import CoordinatorRefuses, CorruptState

FORMAT: Final = 1

META: Final = b"meta"
AUTHORITY: Final = b"authority"
EPOCH: Final = b"epoch"
NEXT_STREAM: Final = b"ids/stream"
NEXT_WRITER: Final = b"ids/writer"
NAMES: Final = b"streams/n/"
ALIKE: Final = b"streams/a/"
STREAMS: Final = b"streams/i/"
SETTINGS: Final = b"settings/"
DECIDED: Final = b"decided/"
NODES: Final = b"nodes/"
CONTAINERS: Final = b"containers/"
LINKS: Final = b"links/"
ASSIGN: Final = b"assign/"
LOADS: Final = b"loads/"
MOVES: Final = b"moves/"
REBUILD: Final = b"rebuild"
WARM: Final = b"warm/"
TROUBLES: Final = b"troubles/"
MEMBERS: Final = b"members/"

NAME_BYTES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Meta:
    """What a cluster is, from its beginning on."""

    cluster: str
    containers: int
    level: int = NEWEST

    def encode(self) -> bytes:
        value = {"v": FORMAT, "cluster": self.cluster, "containers": self.containers}
        if self.level > FIRST:
            value["level"] = self.level
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Meta:
        """Raises CorruptState, CoordinatorRefuses."""
        try:
            found = json.loads(value)
            level = int(found.get("level", FIRST))
            version, meta = found["v"], cls(str(found["cluster"]), int(found["containers"]), level)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptState("key meta in etcd is not a cluster's: restore etcd, or name another cluster") from error
        if version != FORMAT:
            raise CoordinatorRefuses(f"the cluster in etcd has format {version}, this release reads {FORMAT}")
        return meta


def prefix_of(name: str) -> bytes:
    """What the keys of a cluster begin with. Raises CoordinatorRefuses if that is no name."""
    encoded = name.encode()
    if not encoded or len(encoded) > NAME_BYTES_MAX or b"/" in encoded:
        raise CoordinatorRefuses(f"{name[:99]!r} is no cluster's name: 1 to {NAME_BYTES_MAX} bytes, no slash")
    return b"penstock/" + encoded + b"/"


def stream_key(stream_id: int) -> bytes:
    return STREAMS + b"%08x" % stream_id


def alike_key(name: str) -> bytes:
    return ALIKE + common_form(name).encode()


def number_of(counter: KeyValue | None, first: int) -> int:
    """A counter's value; `first` if it has none yet. Raises CorruptState."""
    if counter is None:
        return first
    try:
        return int(counter.value)
    except ValueError as error:
        raise CorruptState(f"key {counter.key.decode(errors='replace')} in etcd is no number: restore etcd") from error


async def join(session: Session, prefix: bytes, wanted: Meta) -> Meta:
    """What the cluster is; the first node decides.

    Raises CoordinatorAway, CorruptState, CoordinatorRefuses: also if the cluster has a level that is unknown here.
    """
    meta = Meta.decode(await agreed(session, prefix + META, wanted.encode(), (absent(prefix + REBUILD),)))
    refuse_unknown(meta)
    return meta


def refuse_unknown(meta: Meta) -> None:
    """Raise CoordinatorRefuses if this release does not know the cluster's level."""
    if meta.level > NEWEST:
        raise CoordinatorRefuses(
            f"cluster {meta.cluster} is at level {meta.level} since its upgrade was finished, and this release knows "
            f"levels up to {NEWEST}: start a release that knows level {meta.level}, as its other nodes do"
        )


async def agreed(session: Session, key: bytes, wanted: bytes, compares: Sequence[Compare] = ()) -> bytes:
    """The value of a key, which the first process to ask decides for ever, where a cluster may begin.

    Raises CoordinatorAway, CoordinatorRefuses.
    """
    outcome = await session.change((absent(key), *compares), (Put(key, wanted),), (Range(key),))
    if outcome.succeeded:
        return wanted
    if not outcome.found[0]:
        raise CoordinatorRefuses(
            "a rebuild of this cluster's keys in etcd has begun and not ended: run `penstock cluster rebuild` again"
        )
    return outcome.found[0][0].value
