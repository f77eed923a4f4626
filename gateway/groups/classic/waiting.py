"""Members that wait for an answer to their JoinGroup or SyncGroup, and the answers that end their wait.

Keeps: a wait ends with one answer.
"""

from __future__ import annotations

from collections.abc import Callable

from kio.schema.errors import ErrorCode

from gateway.groups.classic import views
from gateway.groups.classic.facts import GroupFacts
from gateway.groups.classic.messages import Answer, Effect, JoinResult, SyncResult, Waiter
from gateway.groups.classic.roster import Member, Roster


def refuse_join(waiter: Waiter, error: ErrorCode, member_id: str) -> list[Effect]:
    return [Answer(waiter, JoinResult(error=error, member_id=member_id))]


def answer_joins(group: GroupFacts) -> list[Effect]:
    """All that wait for the others to join go on."""
    effects: list[Effect] = []
    for member in group.roster:
        if member.join_waiter is not None:
            effects.append(Answer(member.join_waiter, views.joined(group, member)))
            group.roster.set_join_waiter(member, None)
    return effects


def begin_sync(member: Member, waiter: Waiter) -> list[Effect]:
    """A member waits for its assignment; if it did so already, that wait ends with an error after which it may ask
    again."""
    effects = end_sync(member, SyncResult(error=ErrorCode.rebalance_in_progress))
    member.sync_waiter = waiter
    return effects


def end_sync(member: Member, result: SyncResult) -> list[Effect]:
    if member.sync_waiter is None:
        return []
    answer = Answer(member.sync_waiter, result)
    member.sync_waiter = None
    return [answer]


def answer_syncs(group: GroupFacts, error: ErrorCode, answered: Callable[[Member], None]) -> list[Effect]:
    """All that wait for their assignment get it, or the error; `answered` hears of each."""
    effects: list[Effect] = []
    refusal = SyncResult(error=error)
    for member in group.roster:
        if member.sync_waiter is not None:
            effects.append(Answer(member.sync_waiter, refusal if error else views.synced(group, member)))
            member.sync_waiter = None
            answered(member)
    return effects


def dismiss(roster: Roster, member: Member, error: ErrorCode, told_id: str) -> list[Effect]:
    """A member goes; whatever it waits for ends with an error."""
    effects: list[Effect] = []
    if member.join_waiter is not None:
        effects += refuse_join(member.join_waiter, error, told_id)
        roster.set_join_waiter(member, None)
    return effects + end_sync(member, SyncResult(error=error))
