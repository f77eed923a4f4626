"""The members of one classic group as they come and go: their sessions, and the ids that were handed out.

Keeps: a member has a session, and an id that waits to be used has an expiry, for as long as the group knows it. A
member that waits is answered before it goes. `Group` extends this, and decides what follows for the group.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from kio.schema.errors import ErrorCode

from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import NO_MEMBER_ID, Alarm, Effect, Instant, JoinRequest, MemberRecord, Waiter
from gateway.groups.classic.roster import Expiry, Member
from gateway.groups.classic.rules import GroupRules
from gateway.groups.classic.waiting import dismiss, refuse_join
from gateway.groups.deadlines import Deadline, Deadlines

#: A member id begins with the client id, which may be longer than a member id may be.
ID_PREFIX_CHARS_MAX: Final = 200


class Membership(GroupFacts, abc.ABC):
    """See the module."""

    def __init__(self, group_id: str, rules: GroupRules, deadlines: Deadlines[Alarm[Any]], now: Instant) -> None:
        super().__init__(group_id, rules.allowance, now.wall_ms)
        self._rules = rules
        self._deadlines = deadlines

    @abc.abstractmethod
    def _session_expired(self, member: Member, now: Instant) -> list[Effect]:
        """A member was silent for too long."""

    @abc.abstractmethod
    def _pending_expired(self, member_id: str, now: Instant) -> list[Effect]:
        """An id was handed out, and not used in time."""

    # Members

    def extend_session(self, member: Member, now: Instant) -> None:
        self._deadlines.set(member.session, now.after(member.session_timeout_ms))

    def _new_member(self, member_id: str, joined: JoinRequest | MemberRecord) -> Member:
        member = Member(member_id, joined)
        member.session = self._alarm(partial(self._session_expired, member))
        return member

    def _remove_member(self, member: Member) -> list[Effect]:
        """Remove a member; its unanswered requests fail with `unknown_member_id`, so that it joins as a new one.

        In a group that is stable or syncing, the caller must then begin a rebalance.
        """
        effects = dismiss(self.roster, member, ErrorCode.unknown_member_id, NO_MEMBER_ID)
        self._deadlines.cancel(member.session)
        self.roster.remove(member)
        return effects

    def _remove_members(self, members: Iterable[Member]) -> list[Effect]:
        return [effect for member in members for effect in self._remove_member(member)]

    def _dismiss_all(self, error: ErrorCode) -> list[Effect]:
        """The group goes: every waiter gets `error`, no deadline of a member or an id is left."""
        effects: list[Effect] = []
        for member in self.roster:
            effects += dismiss(self.roster, member, error, member.member_id)
            self._deadlines.cancel(member.session)
        for expiry in self.roster.pending.values():
            self._deadlines.cancel(expiry)
        self.roster.pending.clear()
        self.roster.disband()
        return effects

    # Ids that were handed out (KIP-394)

    def _new_id(self, request: JoinRequest) -> str:
        prefix = request.client_id if request.instance_id is None else request.instance_id
        return f"{prefix[:ID_PREFIX_CHARS_MAX]}-{self._rules.new_id()}"

    def _hand_out(self, member_id: str, request: JoinRequest, waiter: Waiter, now: Instant) -> list[Effect]:
        """Tell a newcomer the id with which it must join."""
        expiry = self._alarm(partial(self._pending_expired, member_id))
        self._deadlines.set(expiry, now.after(request.session_timeout_ms))
        if (displaced := self.roster.expect(member_id, expiry)) is not None:
            self._forget_pending(displaced)
        return refuse_join(waiter, ErrorCode.member_id_required, member_id)

    def _forget_pending(self, member_id: str) -> bool:
        expiry = self.roster.pending.pop(member_id, None)
        if expiry is not None:
            self._deadlines.cancel(expiry)
        return expiry is not None

    def _alarm(self, fire: Callable[[Instant], list[Effect]]) -> Expiry:
        return Deadline(Alarm(self, fire))
