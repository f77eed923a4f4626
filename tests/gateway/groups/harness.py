"""Drives one group without I/O: time stands still until a test moves it, writes wait until told.

Every waiter is a name; `answers` holds what it was told, in order.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from core.turns import at_once
from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.committing import admit_commit
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import (
    Alarm,
    Answer,
    Effect,
    Instant,
    JoinRequest,
    JoinResult,
    LeavingMember,
    Protocol,
    Read,
    Store,
    SyncRequest,
    SyncResult,
)
from gateway.groups.classic.rules import GroupRules
from gateway.groups.classic.states import GroupState
from gateway.groups.classic.subscription import subscribed_topics
from gateway.groups.deadlines import Deadlines

SESSION_MS: Final = 10_000
REBALANCE_MS: Final = 60_000
WALL_MS: Final = 1_700_000_000_000


def subscription(*topics: str, version: int = 1) -> bytes:
    """A consumer's subscription as the Java client writes it."""
    names = b"".join(struct.pack(">h", len(t.encode())) + t.encode() for t in topics)
    return struct.pack(">hi", version, len(topics)) + names + struct.pack(">ii", -1, 0)


RANGE: Final = (Protocol("range", subscription("t")),)


class GroupDriver:
    """One group, its clock, its deadlines, and everything it said."""

    def __init__(
        self,
        *,
        initial_delay_ms: int = 0,
        max_size: int = 1_000,
        member_bytes: int = 1_000_000,
        store_at_once: bool = True,
    ) -> None:
        ids = itertools.count(1)
        self.rules = GroupRules(
            initial_rebalance_delay_ms=initial_delay_ms,
            max_size=max_size,
            new_id=lambda: f"id{next(ids)}",
            allowance=Allowance(member_bytes, 3 * member_bytes),
        )
        self.now_s = 0.0
        self.deadlines: Deadlines[Alarm[Group]] = Deadlines()
        self.group = Group("g", self.rules, self.deadlines, self.now)
        self.answers: dict[str, list[JoinResult | SyncResult]] = {}
        self.waiting: set[str] = set()
        self.stores: list[Store] = []
        self.stored: list[Store] = []
        self.store_at_once = store_at_once

    @property
    def now(self) -> Instant:
        return Instant(self.now_s, WALL_MS + int(self.now_s * 1_000))

    @property
    def state(self) -> GroupState:
        return self.group.state

    # Requests

    def join(
        self,
        waiter: str,
        member_id: str = "",
        *,
        instance: str | None = None,
        protocols: Sequence[Protocol] = RANGE,
        protocol_type: str = "consumer",
        needs_id: bool = False,
        skips: bool = True,
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
    ) -> JoinResult | None:
        """Send a JoinGroup; the answer if it came at once."""
        request = JoinRequest(
            member_id=member_id,
            instance_id=instance,
            client_id="client",
            client_host="/127.0.0.1",
            protocol_type=protocol_type,
            protocols=tuple(protocols),
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=rebalance_ms,
            reason=None,
            requires_known_member_id=needs_id,
            supports_skip_assignment=skips,
        )
        self._wait(waiter)
        self._carry_out(self.group.join(request, waiter, self.now))
        return self.joined(waiter) if waiter not in self.waiting else None

    def sync(
        self,
        waiter: str,
        member_id: str,
        generation: int,
        assignments: dict[str, bytes] | None = None,
        *,
        instance: str | None = None,
        protocol_type: str | None = None,
        protocol_name: str | None = None,
    ) -> SyncResult | None:
        """Send a SyncGroup; the answer if it came at once."""
        request = SyncRequest(
            member_id=member_id,
            instance_id=instance,
            generation=generation,
            protocol_type=protocol_type,
            protocol_name=protocol_name,
            assignments=tuple((assignments or {}).items()),
        )
        self._wait(waiter)
        self._carry_out(self.group.sync(request, waiter, self.now))
        return self.synced(waiter) if waiter not in self.waiting else None

    def heartbeat(self, member_id: str, generation: int | None = None, instance: str | None = None) -> ErrorCode:
        generation = self.group.generation if generation is None else generation
        return self.group.heartbeat(member_id, instance, generation, self.now)

    def leave(self, *member_ids: str) -> list[ErrorCode]:
        return self.leave_as(*(LeavingMember(member_id, None, None) for member_id in member_ids))

    def leave_as(self, *leaving: LeavingMember) -> list[ErrorCode]:
        errors, effects = self.group.leave(leaving, self.now)
        self._carry_out(effects)
        return errors

    def commit(self, member_id: str = "", generation: int = -1, instance: str | None = None) -> ErrorCode:
        return admit_commit(self.group, member_id, instance, generation, self.now)

    # What happens around it

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with every deadline at its own moment."""
        end_s = self.now_s + seconds
        while (next_s := self.deadlines.next_s()) is not None and next_s <= end_s:
            self.now_s = max(self.now_s, next_s)
            while (deadline := self.deadlines.pop_due(self.now_s)) is not None:
                self._carry_out(deadline.owner.fire(self.now))
        self.now_s = end_s

    def finish_stores(self, error: ErrorCode = ErrorCode.none) -> None:
        """Let everything that waits for durability go on, or fail."""
        stores, self.stores = self.stores, []
        for store in stores:
            self.stored.append(store)
            self._carry_out(store.stored(error, self.now))

    def joined(self, waiter: str) -> JoinResult:
        """The last answer to a JoinGroup."""
        result = self.answers[waiter][-1]
        assert isinstance(result, JoinResult)
        return result

    def synced(self, waiter: str) -> SyncResult:
        """The last answer to a SyncGroup."""
        result = self.answers[waiter][-1]
        assert isinstance(result, SyncResult)
        return result

    def stable(self, *names: str, **options: object) -> list[str]:
        """Let these members form a stable group; their ids. The first one leads."""
        for name in names:
            self.join(name, **options)  # type: ignore[arg-type]
        self.pass_time(self.rules.initial_rebalance_delay_ms / 1_000)
        return self.sync_all(*names)

    def sync_all(self, *names: str) -> list[str]:
        """Everybody who has joined syncs; the leader assigns each member its own id."""
        ids = [self.joined(name).member_id for name in names]
        shares = {member_id: member_id.encode() for member_id in ids}
        for name, member_id in zip(names, ids, strict=True):
            leads = self.joined(name).leader == member_id
            self.sync(name, member_id, self.joined(name).generation, shares if leads else None)
        return ids

    def _wait(self, waiter: str) -> None:
        assert waiter not in self.waiting, "a name waits for one answer at a time"
        self.waiting.add(waiter)

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer):
                assert isinstance(effect.waiter, str)
                self.waiting.remove(effect.waiter)  # exactly one answer for each who waits
                self.answers.setdefault(effect.waiter, []).append(effect.result)
            elif isinstance(effect, Store):
                self.stores.append(effect)
            elif isinstance(effect, Read):
                effect.told(at_once(subscribed_topics(effect.subscriptions)))
        if self.store_at_once and self.stores:
            self.finish_stores()
