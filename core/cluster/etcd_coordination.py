"""The coordination of a cluster's nodes in etcd: lives under leases, claims of containers under their owner's lease.
`core.cluster.etcd_values` has the format of the values.

A life begins when ``nodes/<id>`` can be created: two processes with one node id are never both in. It ends with its
lease, and then the next one begins by itself.

**Invariants**: those of `core.cluster.coordination`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, Self

from core.cluster.coordination import Claim, Coordination, Life, Owner, Stage, Wish
from core.cluster.etcd.client import CALL_S, EtcdClient
from core.cluster.etcd.lease import Lease
from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.session import LeaseGone, Outcome, Session
from core.cluster.etcd.wire import Compare, Delete, KeyValue, Put, Range, absent, same_life, unchanged
from core.cluster.etcd_epochs import Epochs
from core.cluster.etcd_keys import (
    ASSIGN,
    CONTAINERS,
    EPOCH,
    LINKS,
    LOADS,
    MEMBERS,
    META,
    NODES,
    TROUBLES,
    WARM,
    Meta,
    number_of,
    refuse_unknown,
)
from core.cluster.etcd_seen import KNOWN, Seen
from core.cluster.etcd_values import (
    decode,
    life_of,
    links_of,
    links_value,
    node_value,
    owner_of,
    owner_value,
    reaches_store,
    troubles_value,
    wish_value,
)
from core.cluster.loads import Load
from core.cluster.loads import encode as encode_loads
from core.cluster.members import Member
from core.errors import CoordinatorAway, CoordinatorRefuses, StoreError
from core.log.objects.protocol import Link

logger = logging.getLogger(__name__)

TRIES_MAX: Final = 50
"""How often a claim is tried while others raise the epoch at the same time."""
JOIN_S: Final = 30.0
"""How long a node waits for the end of its id's former life, and for etcd."""
RETRY_S: Final = 0.5


class EtcdCoordination(Coordination):
    """See the module. Make it with `join`; end it with `leave`."""

    def __init__(
        self, client: EtcdClient, mirror: Mirror, session: Session, *, node: int, containers: int, ttl_s: int
    ) -> None:
        self._client = client
        self._mirror = mirror
        self._session = session
        self._node = node
        self._containers = range(containers)
        self._ttl_s = ttl_s
        self._life = ""
        self._lease: Lease | None = None
        self._said: dict[str, Any] = {}
        self._is_draining = False
        self._reaches_store = True
        self._told: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen = Seen(mirror)
        self._epochs = Epochs(client, mirror.prefix, self._seen.row_of_claim)
        mirror.on_changed(self._changed)

    def __repr__(self) -> str:
        return f"<EtcdCoordination node {self._node} life {self._life} {self._lease}>"

    @classmethod
    async def join(
        cls,
        client: EtcdClient,
        mirror: Mirror,
        session: Session,
        *,
        node: int,
        containers: int,
        ttl_s: int,
        told: Mapping[str, Any] | None = None,
    ) -> Self:
        """Begin this node's first life. The session is its own. Raises CoordinatorAway, CoordinatorRefuses."""
        joined = cls(client, mirror, session, node=node, containers=containers, ttl_s=ttl_s)
        joined._said = dict(told or {})
        try:
            async with asyncio.timeout(JOIN_S):
                while not await joined._begin_life():
                    joined._news.clear()
                    await joined._news.wait()
        except TimeoutError:
            raise CoordinatorRefuses(
                f"node id {node} is in use by another process, which lives: give each node an id of its own"
            ) from None
        joined._task = asyncio.create_task(joined._live(), name="life")
        return joined

    async def leave(self) -> None:
        """End this life, with all its claims. Raises CoordinatorAway; then its lease ends by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._lease is not None:
            await self._lease.revoke()

    # The mirror

    @property
    def level(self) -> int:
        return self._seen.level

    @property
    def node(self) -> int:
        return self._node

    @property
    def life(self) -> str:
        return self._life

    @property
    def containers(self) -> Sequence[int]:
        return self._containers

    def owners(self) -> Mapping[int, Owner]:
        return self._seen.owners

    def lives(self) -> Mapping[int, Life]:
        return self._seen.lives

    def wishes(self) -> Mapping[int, Wish]:
        return self._seen.wishes()

    def loads(self) -> Mapping[int, Mapping[int, Load]]:
        return self._seen.loads()

    def warmed(self) -> Mapping[int, Wish]:
        return self._seen.warmed

    def nodes(self) -> Mapping[int, Mapping[str, Any]]:
        """What each node that lives told of itself."""
        return self._seen.told()

    def troubles(self) -> Mapping[int, Sequence[str]]:
        """What nodes say is wrong with them."""
        return self._seen.troubles()

    def members(self) -> Mapping[int, Member]:
        """The nodes that live or did, until they are forgotten."""
        return self._seen.members

    def on_changed(self, told: Callable[[], None]) -> None:
        self._told.append(told)

    def is_fresh(self) -> bool:
        return self._lease is not None and self._lease.is_fresh()

    def _changed(self, changes: Sequence[Change]) -> None:
        rows = {change.key: change.now for change in changes if change.key.startswith(KNOWN)}
        self._seen.know(rows)
        own = b"%s%d" % (NODES, self._node)
        if own in rows:
            self._hear_of_us(rows[own])
        if any(not key.startswith((LOADS, MEMBERS)) for key in rows):
            self._tell()

    def _hear_of_us(self, row: KeyValue | None) -> None:
        life = self._seen.lives.get(self._node)
        if life is not None and life.life == self._life and life.is_draining:
            self._is_draining = True  # an operator has asked for it
        if self._lease is not None and (row is None or row.lease != self._lease.id):
            self._lease.lost.set()  # somebody has ended it; the next renewal would find the same

    def _tell(self) -> None:
        self._news.set()
        for told in self._told:
            told()

    # Lives

    async def _live(self) -> None:
        """Begin another life whenever one is lost."""
        while True:
            if self._lease is not None:
                await self._lease.lost.wait()
                self._tell()
            try:
                await self._end_life()
                while not await self._begin_life():
                    self._news.clear()
                    await self._news.wait()
            except StoreError as error:
                logger.warning("this node cannot join its cluster, and will try again", extra={"reason": str(error)})
                await asyncio.sleep(RETRY_S)
            except Exception:  # or this node is out for ever, and nobody knows why
                logger.exception("a defect: this node cannot join its cluster, and will try again. Please report it")
                await asyncio.sleep(CALL_S)

    async def _end_life(self) -> None:
        """What is left of a lost life goes before it ends by itself, so that others need not wait."""
        if self._lease is not None:
            await self._lease.revoke()
            self._lease = None

    async def _begin_life(self) -> bool:
        """Begin a life, unless this node's id has one: that is another process', or it ends soon.

        One transaction with the level of the cluster, which is raised while no node lives that does not know it.
        Raises CoordinatorAway, CoordinatorRefuses.
        """
        meta_key = self._mirror.prefix + META
        meta_row = next(iter((await self._client.read(Range(meta_key))).keys), None)
        if meta_row is not None:
            refuse_unknown(Meta.decode(meta_row.value))
        life, key = uuid.uuid4().hex, self._key(NODES, self._node)
        if self._mirror.values.get(key[len(self._mirror.prefix) :]) is not None:
            return False
        lease = await Lease.grant(self._client, self._ttl_s)
        value = node_value(life, False, self._said, reaches_store=self._reaches_store)
        try:
            compares = absent(key), unchanged(meta_row, meta_key)
            outcome = await self._session.change(compares, (Put(key, value, lease.id),), (Range(key),))
            await self._shown(outcome)
        except LeaseGone as error:
            raise CoordinatorAway(str(error)) from error
        finally:
            row = self._mirror.values.get(key[len(self._mirror.prefix) :])
            if row is None or row.lease != lease.id:
                await lease.close()
        if row is None or row.lease != lease.id:
            is_level_another = not outcome.succeeded and not outcome.found[0]
            return is_level_another and await self._begin_life()
        self._life, self._lease, self._is_draining = life, lease, False
        self._tell()
        if value != node_value(life, False, self._said, reaches_store=self._reaches_store):  # told meanwhile
            await self._write_row()
        return True

    async def tell(self, told: Mapping[str, Any]) -> None:
        """What others should know of this node, in this life and in those to come."""
        self._said = dict(told)
        await self._write_row()

    async def tell_reach(self, reaches_store: bool) -> None:
        self._reaches_store = reaches_store
        await self._write_row()

    async def drain(self) -> None:
        self._is_draining = True
        await self._write_row()

    async def _write_row(self) -> None:
        """Have the row say what is so now. An operator may have changed it meanwhile, and that is heard of first."""
        for _ in range(TRIES_MAX):
            lease, row = self._lease, self._seen.node_row(self._node)
            if lease is None or row is None or row.lease != lease.id:
                return  # the next life tells it
            own = self._seen.lives.get(self._node)
            self._is_draining |= own is not None and own.life == self._life and own.is_draining
            value = node_value(self._life, self._is_draining, self._said, reaches_store=self._reaches_store)
            try:
                outcome = await self._session.change(
                    (unchanged(row, row.key),), (Put(row.key, value, lease.id),), (Range(row.key),)
                )
            except LeaseGone:
                return
            await self._shown(outcome)
            if outcome.succeeded or not outcome.found[0]:
                return
            await self._mirror.reached(outcome.found[0][0].revision)
        raise CoordinatorAway(f"the row of node {self._node} was changed {TRIES_MAX} times meanwhile")

    async def tell_loads(self, loads: Mapping[int, Load]) -> None:
        lease, key, value = self._lease, self._key(LOADS, self._node), encode_loads(loads)
        row = self._mirror.values.get(b"%s%d" % (LOADS, self._node))
        if lease is None or (row is not None and row.lease == lease.id and row.value == value):
            return
        with contextlib.suppress(LeaseGone):  # the next life tells it
            await self._session.change((), (Put(key, value, lease.id),))

    async def tell_troubles(self, troubles: Sequence[str]) -> None:
        """Tell all what is wrong with this node, in this life. Raises CoordinatorAway, CoordinatorRefuses."""
        lease, key = self._lease, self._key(TROUBLES, self._node)
        value = troubles_value(troubles)
        row = self._mirror.values.get(b"%s%d" % (TROUBLES, self._node))
        is_told = (row is None) if not troubles else (row is not None and row.value == value)
        if lease is None or is_told:
            return
        with contextlib.suppress(LeaseGone):  # the next life tells them
            await self._session.change((), (Put(key, value, lease.id) if troubles else Delete(key),))

    async def ask_to_drain(self, life: Life) -> None:
        """Have a node give its containers away in this life of it. Raises CoordinatorAway, CoordinatorRefuses."""
        for _ in range(TRIES_MAX):
            row = self._seen.node_row(life.node)
            value = {} if row is None else decode(row)
            if row is None or value.get("life") != life.life or value.get("draining") is True:
                return
            reach = reaches_store(value)
            drained = node_value(life.life, True, value.get("told", {}), life.level, reaches_store=reach)
            outcome = await self._decide((unchanged(row, row.key),), (Put(row.key, drained, row.lease),), ())
            if outcome is None or outcome.succeeded:
                return
            await asyncio.sleep(RETRY_S)
        raise CoordinatorAway(f"node {life.node} was not told to drain: it changed its key {TRIES_MAX} times")

    async def bury(self, life: Life) -> None:
        row = self._seen.node_row(life.node)
        if row is None or not row.lease or self._seen.lives.get(life.node, life).life != life.life:
            return
        await self._client.revoke(row.lease)
        try:
            async with asyncio.timeout(CALL_S):
                while (now := self._seen.lives.get(life.node)) is not None and now.life == life.life:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise CoordinatorAway(f"etcd has not shown within {CALL_S:g} s that node {life.node} is gone") from None

    # Claims

    async def claim(self, container: int) -> Claim | None:
        key, counter_key = self._key(CONTAINERS, container), self._mirror.prefix + EPOCH
        counter = self._mirror.values.get(EPOCH)
        for _ in range(TRIES_MAX):
            life, lease = self._life, self._lease
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
                await self._mirror.reached(found[0].revision)  # else whoever looks at the mirror believes it lost
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
        if self._lease is not None and self._life == wish.life:
            await self._decide((), (Put(self._key(WARM, container), wish_value(wish), self._lease.id),), ())

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

    async def read_epochs(self, expected: Mapping[int, int] = MappingProxyType({})) -> Mapping[int, int]:
        return await self._epochs.read(expected)

    async def _decide(
        self, compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range]
    ) -> Outcome | None:
        """Make a change, and wait until the mirror shows it. None if our lease is gone: etcd puts nothing under it."""
        try:
            outcome = await self._session.change(compares, changes, otherwise)
        except LeaseGone:
            return None
        await self._shown(outcome)
        return outcome

    async def _shown(self, outcome: Outcome) -> None:
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)

    def _owner(self, life: str, epoch: int, stage: Stage) -> Owner:
        return Owner(node=self._node, life=life, epoch=epoch, stage=stage)

    def _key(self, kind: bytes, number: int) -> bytes:
        return b"%s%s%d" % (self._mirror.prefix, kind, number)
