"""The claims of containers in etcd: each change of one is one transaction that compares what it rests on.

A claim lies under the lease of its owner's life, and ends with that. `core.cluster.etcd_values` has the format.

**Invariants**: those of `core.cluster.coordination` about claims, epochs and wishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from core.cluster.coordination import Claim, Owner, Stage, Wish
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.lease import Lease
from core.cluster.etcd.mirror import Mirror
from core.cluster.etcd.session import LeaseGone, Outcome, Session
from core.cluster.etcd.wire import Compare, Delete, KeyValue, Put, Range, absent, same_life, unchanged
from core.cluster.etcd_keys import ASSIGN, CONTAINERS, EPOCH, LINKS, NODES, WARM, number_of
from core.cluster.etcd_seen import Seen
from core.cluster.etcd_values import life_of, links_of, links_value, owner_of, owner_value, wish_value
from core.errors import CoordinatorAway
from core.log.objects.protocol import Link

TRIES_MAX: Final = 50
"""How often a claim is tried while others raise the epoch at the same time."""

Own = Callable[[], tuple[str, Lease | None]]
"""The present life of a node, and its lease, if that is there."""


class EtcdClaims:
    """See the module, and `core.cluster.coordination` for its methods."""

    def __init__(self, client: EtcdClient, mirror: Mirror, session: Session, seen: Seen, node: int, own: Own) -> None:
        self._client = client
        self._mirror = mirror
        self._session = session
        self._seen = seen
        self._node = node
        self._own = own

    def __repr__(self) -> str:
        return f"<EtcdClaims of node {self._node}>"

    async def claim(self, container: int) -> Claim | None:
        key, counter_key = self._key(CONTAINERS, container), self._mirror.prefix + EPOCH
        counter = self._mirror.values.get(EPOCH)
        for _ in range(TRIES_MAX):
            life, lease = self._own()
            if lease is None or not lease.is_fresh():
                return None
            epoch = number_of(counter, 0) + 1
            outcome = await self._decide(
                (absent(key), unchanged(counter, counter_key)),
                (
                    Put(key, owner_value(self._owner(life, epoch, Stage.OPENING)), lease.id),
                    Put(counter_key, b"%d" % epoch),
                    Delete(self._key(ASSIGN, container)),
                ),
                (Range(key), Range(counter_key)),
            )
            if outcome is None:
                return None
            if outcome.succeeded:
                return await self._claimed(container, life, epoch)
            found, counters = outcome.found
            if found:
                owner = owner_of(found[0])
                if owner is None or owner.life != life:
                    return None
                await self._mirror.reached(found[0].revision)  # else readers of the mirror believe it lost
                return await self._claimed(container, life, owner.epoch)
            counter = counters[0] if counters else None
        raise CoordinatorAway(f"container {container} was not claimed: others raised the epoch {TRIES_MAX} times")

    async def _claimed(self, container: int, life: str, epoch: int) -> Claim:
        """The links are read after the claim: from then on only the claim's holder can write them."""
        found = (await self._client.read(Range(self._key(LINKS, container)))).keys
        return Claim(container=container, epoch=epoch, life=life, links=links_of(found[0]) if found else ())

    async def confirm(self, claim: Claim, links: Sequence[Link]) -> bool:
        serving = owner_value(self._owner(claim.life, claim.epoch, Stage.SERVING))
        stored = Put(self._key(LINKS, claim.container), links_value(links))
        return await self._change_claimed(claim, lambda row: (Put(row.key, serving, row.lease), stored))

    async def give_up(self, claim: Claim) -> None:
        await self._change_claimed(claim, lambda row: (Delete(row.key),))

    async def _change_claimed(self, claim: Claim, changes: Callable[[KeyValue], Sequence[Put | Delete]]) -> bool:
        """Change what belongs to a claim, if the container still has its epoch."""
        key = self._key(CONTAINERS, claim.container)
        row = self._mirror.values.get(key[len(self._mirror.prefix) :])
        for _ in range(TRIES_MAX):
            owner = None if row is None else owner_of(row)
            if row is None or owner is None or owner.epoch != claim.epoch:
                return False
            outcome = await self._decide((unchanged(row, key),), changes(row), (Range(key),))
            if outcome is None or outcome.succeeded:
                return outcome is not None
            row = next(iter(outcome.found[0]), None)
        raise CoordinatorAway(f"the claim of container {claim.container} was changed {TRIES_MAX} times meanwhile")

    async def ask(self, container: int, node: int) -> bool:
        owner, target = self._seen.owners.get(container), self._seen.lives.get(node)
        row = self._seen.container_row(container)
        if owner is None or target is None or row is None:
            return False
        wish = Wish(epoch=owner.epoch, node=node, life=target.life)
        if owner.stage is not Stage.SERVING or not wish.stands(owner, self._seen.lives):
            return False
        asked = Put(self._key(ASSIGN, container), wish_value(wish))
        outcome = await self._decide((unchanged(row, row.key),), (asked,), ())
        return outcome is not None and outcome.succeeded

    async def tell_warm(self, container: int, wish: Wish) -> None:
        life, lease = self._own()
        if lease is not None and life == wish.life:
            await self._decide((), (Put(self._key(WARM, container), wish_value(wish), lease.id),), ())

    async def reserve_epoch(self) -> int:
        key, counter = self._mirror.prefix + EPOCH, self._mirror.values.get(EPOCH)
        for _ in range(TRIES_MAX):
            epoch = number_of(counter, 0) + 1
            outcome = await self._session.change((unchanged(counter, key),), (Put(key, b"%d" % epoch),), (Range(key),))
            if outcome.succeeded:
                return epoch
            counter = next(iter(outcome.found[0]), None)
        raise CoordinatorAway(f"no epoch was reserved: others raised it {TRIES_MAX} times")

    async def rise(self, claim: Claim) -> int | None:
        key, counter_key = self._key(CONTAINERS, claim.container), self._mirror.prefix + EPOCH
        row, counter = self._mirror.values.get(key[len(self._mirror.prefix) :]), self._mirror.values.get(EPOCH)
        for _ in range(TRIES_MAX):
            owner, risen = None if row is None else owner_of(row), number_of(counter, 0) + 1
            if row is None or owner is None or owner.epoch != claim.epoch or owner.stage is not Stage.SERVING:
                return None
            outcome = await self._decide(
                (unchanged(row, key), unchanged(counter, counter_key)),
                (Put(key, owner_value(replace(owner, risen=risen)), row.lease), Put(counter_key, b"%d" % risen)),
                (Range(key), Range(counter_key)),
            )
            if outcome is None or outcome.succeeded:
                return None if outcome is None else risen
            row, counter = (next(iter(found), None) for found in outcome.found)
        raise CoordinatorAway(f"the epoch of container {claim.container} did not rise: others did {TRIES_MAX} times")

    async def hand_over(self, claim: Claim, wish: Wish, link: Link) -> bool:
        key, links_key = self._key(CONTAINERS, claim.container), self._key(LINKS, claim.container)
        below = len(self._mirror.prefix)
        row, target = self._mirror.values.get(key[below:]), self._mirror.values.get(b"%s%d" % (NODES, wish.node))
        owner = None if row is None else owner_of(row)
        life = None if target is None else life_of(wish.node, target)
        if row is None or owner is None or target is None or life is None:
            return False
        if owner.epoch == link.next_epoch:
            return True  # an earlier call went through
        if owner.epoch != claim.epoch or life.life != wish.life:
            return False
        before = self._mirror.values.get(links_key[below:])
        links = (*(() if before is None else links_of(before)), link)
        heir = Owner(node=wish.node, life=wish.life, epoch=link.next_epoch, stage=Stage.OPENING)
        outcome = await self._decide(
            (unchanged(row, key), same_life(target)),
            (
                Put(key, owner_value(heir), target.lease),
                Put(links_key, links_value(links)),
                Delete(self._key(ASSIGN, claim.container)),
                Delete(self._key(WARM, claim.container)),
            ),
            (Range(key),),
        )
        if outcome is None or outcome.succeeded:
            return outcome is not None
        now = next(map(owner_of, outcome.found[0]), None)
        return now is not None and now.epoch == link.next_epoch

    async def _decide(
        self, compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range]
    ) -> Outcome | None:
        """Make a change, and wait until the mirror shows it. None if our lease is gone: etcd puts nothing under it."""
        try:
            outcome = await self._session.change(compares, changes, otherwise)
        except LeaseGone:
            return None
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)
        return outcome

    def _owner(self, life: str, epoch: int, stage: Stage) -> Owner:
        return Owner(node=self._node, life=life, epoch=epoch, stage=stage)

    def _key(self, kind: bytes, number: int) -> bytes:
        return b"%s%s%d" % (self._mirror.prefix, kind, number)
