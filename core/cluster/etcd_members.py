"""Rows of the nodes that a cluster has had, in etcd (`core.cluster.members`), and what a node does about them.

Key ``members/<id>``; `core.cluster.etcd_values` has the value. It lies under no lease.

**Invariants**

- Each change compares the row that its writer knew, and that the node lives, or does not.
- What goes wrong here keeps nobody from anything else, and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from core.background import Background
from core.cluster.coordination import Life, Owner
from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd.wire import Compare, Delete, KeyValue, Put, absent, same_life, unchanged
from core.cluster.etcd_keys import CONTAINERS, MEMBERS, NODES
from core.cluster.etcd_values import member_value
from core.cluster.members import Forget, Member, View, due, of_life

LOOK_S: Final = 30.0
GATHER_S: Final = 1.0
"""From a change until it is written: containers come and go several at a time, and nobody waits for these rows."""
RETRY_S: Final = 5.0


class Seen(Protocol):
    """What is needed of the coordination, see `core.cluster.coordination`."""

    @property
    def node(self) -> int: ...

    @property
    def life(self) -> str: ...

    def members(self) -> Mapping[int, Member]: ...

    def lives(self) -> Mapping[int, Life]: ...

    def owners(self) -> Mapping[int, Owner]: ...

    def nodes(self) -> Mapping[int, Mapping[str, Any]]: ...

    def is_fresh(self) -> bool: ...


class EtcdMembers:
    """See the module. `start` is for a node; an observer only has nodes forgotten."""

    def __init__(self, mirror: Mirror, session: Session, seen: Seen, wall_ms: Callable[[], int]) -> None:
        self._mirror = mirror
        self._session = session
        self._seen = seen
        self._wall_ms = wall_ms
        self._changed = asyncio.Event()
        self._background = Background("rows of nodes", None, self._step, retry_s=RETRY_S, wait=self._until_changed)

    def __repr__(self) -> str:
        return f"<EtcdMembers of node {self._seen.node}>"

    def start(self) -> None:
        """Keep this node's row, and note which others have gone."""
        self._mirror.on_changed(self._heard)
        self._changed.set()
        self._background.start()

    async def leave(self) -> None:
        """This node is stopped on purpose: note that, before its life ends. Raises CoordinatorAway."""
        await self._background.stop()
        view = self._view()
        own = view.lives.get(view.node)
        if own is not None and own.life == view.life and self._seen.is_fresh():
            left = replace(of_life(view), has_left=True, ended_ms=self._wall_ms())
            await self._write(left, self._row(MEMBERS, view.node))

    async def forget(self, node: int) -> bool:
        """Forget a node that does not live. False if there is no row of it, or it lives, or has changed meanwhile.

        Raises CoordinatorAway, CoordinatorRefuses.
        """
        return await self._remove(node, self._row(MEMBERS, node))

    async def _remove(self, node: int, row: KeyValue | None) -> bool:
        if row is None or node in self._seen.lives():
            return False
        return await self._change((unchanged(row, row.key), absent(self._key(NODES, node))), Delete(row.key))

    def _heard(self, changes: Sequence[Change]) -> None:
        if any(change.key.startswith((NODES, CONTAINERS, MEMBERS)) for change in changes):
            self._changed.set()

    async def _until_changed(self, pause_s: float) -> None:
        if self._background.last_error is not None:
            await asyncio.sleep(pause_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        await asyncio.sleep(GATHER_S)

    async def _step(self) -> float:
        self._changed.clear()
        changes = due(self._view(), self._wall_ms())
        rows = [self._row(MEMBERS, change.node) for change in changes]  # as they are due: they may change meanwhile
        for change, row in zip(changes, rows, strict=True):
            if isinstance(change, Forget):
                await self._remove(change.node, row)
            else:
                await self._write(change.member, row)
        return LOOK_S

    def _view(self) -> View:
        seen = self._seen
        return View(
            node=seen.node,
            life=seen.life,
            members=seen.members(),
            lives=seen.lives(),
            owners=seen.owners(),
            told=seen.nodes(),
        )

    async def _write(self, member: Member, row: KeyValue | None) -> None:
        """Have this, in place of that row, as the one of this node while it lives, or of another one that does not."""
        node, is_own = member.node, member.node == self._seen.node
        key, life = self._key(MEMBERS, node), self._row(NODES, node)
        if life is not None or not is_own:
            is_so = same_life(life) if is_own and life is not None else absent(self._key(NODES, node))
            await self._change((unchanged(row, key), is_so), Put(key, member_value(member)))

    async def _change(self, compares: Sequence[Compare], change: Put | Delete) -> bool:
        outcome = await self._session.change(compares, (change,))
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)
        return outcome.succeeded

    def _row(self, kind: bytes, node: int) -> KeyValue | None:
        return self._mirror.values.get(b"%s%d" % (kind, node))

    def _key(self, kind: bytes, node: int) -> bytes:
        return b"%s%s%d" % (self._mirror.prefix, kind, node)
