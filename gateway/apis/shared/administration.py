"""Shared by administrative APIs: the cluster's authorized operations, resources by name, repeated items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kio.schema.errors import ErrorCode

from core.streams.live import Slot, Stream
from gateway.refusals import Refusal
from gateway.security.acls import Operation, ResourceType

if TYPE_CHECKING:
    from core.store import Store
    from gateway.dispatch.context import RequestContext

_T = TypeVar("_T", bound=Hashable)

NOT_ASKED: Final = -(2**31)
"""Authorized operations, if the client did not ask for them."""

ALL_GROUP_OPERATIONS: Final = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11
"""Bits of READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS: all that groups have, as there are no ACLs."""


MESSAGE_CHARS_MAX: Final = 1_000
"""Characters of an error message: it quotes a client's names and values, which may be as long as a string can be."""


def cluster_operations(ctx: RequestContext) -> int:
    """The cluster's authorized operations, as a client that may describe it sees them; else 0, as in Kafka."""
    return ctx.operations(ResourceType.CLUSTER) if ctx.may(Operation.DESCRIBE, ResourceType.CLUSTER) else 0


def tell_created(ctx: RequestContext, stream: Stream) -> None:
    """The audit log hears of a new topic."""
    ctx.tell("topic created", name=stream.name, partitions=stream.slot_count)


def repeated(items: Iterable[_T]) -> set[_T]:
    """Items that occur more than once."""
    return {item for item, times in Counter(items).items() if times > 1}


async def repeated_among(ctx: RequestContext, items: Iterable[_T]) -> set[_T]:
    """The same, of a list that a client sent."""
    seen: set[_T] = set()
    again: set[_T] = set()
    async for item in ctx.paced(items):
        (again if item in seen else seen).add(item)
    return again


def slot_of(stream: Stream | None, partition: int) -> Slot | None:
    """A partition's slot, if there is such a partition."""
    if stream is None or not 0 <= partition < stream.slot_count:
        return None
    return stream.slot(partition)


def check_cluster(cluster_id: str, meant: str | None) -> None:
    """Raises Refusal when a request names another cluster than ours; it need not name one."""
    if meant is not None and meant != cluster_id:
        why = f'The given id "{meant}" doesn\'t match the cluster id "{cluster_id}"'
        raise Refusal(ErrorCode.inconsistent_cluster_id, why)


def epoch_error(store: Store, slot: Slot, current_leader_epoch: int) -> ErrorCode:
    """The error for a client that knows another leader epoch (KIP-320); -1 means that it knows none. Another leader's
    partition is that leader's to answer for."""
    if not store.serves(slot.container_id):
        return ErrorCode.not_leader_or_follower
    if current_leader_epoch in (-1, slot.leader_epoch):
        return ErrorCode.none
    if current_leader_epoch < slot.leader_epoch:
        return ErrorCode.fenced_leader_epoch
    return ErrorCode.unknown_leader_epoch


def told(refusal: Refusal | None) -> dict[str, Any]:
    """The fields of a response that say whether something went well."""
    if refusal is None:
        return {"error_code": ErrorCode.none, "error_message": None}
    message = refusal.message
    return {"error_code": refusal.code, "error_message": message and message[:MESSAGE_CHARS_MAX]}
