"""The coordination of a cluster's nodes in etcd: lives under leases, and what nodes tell of themselves. Claims are
`core.cluster.etcd_claims`'s. `core.cluster.etcd_values` has the format of the values.

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
from types import MappingProxyType
from typing import Any, Final, Self

from core.cluster.coordination import Claim, Coordination, Life, Owner, Wish
from core.cluster.etcd.client import CALL_S, EtcdClient
from core.cluster.etcd.lease import Lease
from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.session import LeaseGone, Outcome, Session
from core.cluster.etcd.wire import Delete, KeyValue, Put, Range, absent, unchanged
from core.cluster.etcd_claims import EtcdClaims
from core.cluster.etcd_epochs import Epochs
from core.cluster.etcd_keys import LOADS, MEMBERS, META, NODES, TROUBLES, Meta, refuse_unknown
from core.cluster.etcd_seen import KNOWN, Seen
from core.cluster.etcd_values import decode, node_value, reaches_store, troubles_value
from core.cluster.loads import Load
from core.cluster.loads import encode as encode_loads
from core.cluster.members import Member
from core.errors import CoordinatorAway, CoordinatorRefuses, StoreError
from core.log.objects.protocol import Link

logger = logging.getLogger(__name__)

TRIES_MAX: Final = 50
"""How often a node's row is written while others change it at the same time."""
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
        self._claims = EtcdClaims(client, mirror, session, self._seen, node, lambda: (self._life, self._lease))
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
            try:
                outcome = await self._session.change((unchanged(row, row.key),), (Put(row.key, drained, row.lease),))
            except LeaseGone:
                return
            await self._shown(outcome)
            if outcome.succeeded:
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

    # Claims, see `core.cluster.etcd_claims`

    async def claim(self, container: int) -> Claim | None:
        return await self._claims.claim(container)

    async def confirm(self, claim: Claim, links: Sequence[Link]) -> bool:
        return await self._claims.confirm(claim, links)

    async def give_up(self, claim: Claim) -> None:
        await self._claims.give_up(claim)

    async def ask(self, container: int, node: int) -> bool:
        return await self._claims.ask(container, node)

    async def tell_warm(self, container: int, wish: Wish) -> None:
        await self._claims.tell_warm(container, wish)

    async def reserve_epoch(self) -> int:
        return await self._claims.reserve_epoch()

    async def rise(self, claim: Claim) -> int | None:
        return await self._claims.rise(claim)

    async def hand_over(self, claim: Claim, wish: Wish, link: Link) -> bool:
        return await self._claims.hand_over(claim, wish, link)

    async def read_epochs(self, expected: Mapping[int, int] = MappingProxyType({})) -> Mapping[int, int]:
        return await self._epochs.read(expected)

    async def _shown(self, outcome: Outcome) -> None:
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)

    def _key(self, kind: bytes, number: int) -> bytes:
        return b"%s%s%d" % (self._mirror.prefix, kind, number)
