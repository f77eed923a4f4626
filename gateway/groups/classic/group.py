"""One classic consumer group: a state machine of Kafka's rules, free of I/O, tasks and clocks.

Keeps: one generation at a time; an assignment reaches only members of its own generation, and only
once it is durable; every waiter is answered, at the latest by a deadline; one member holds an
instance id. All changes of state go through `_transition`.

Each input returns the effects that the caller must carry out, in order. Behaviour follows Kafka
4.x (GroupMetadataManager, classic groups); where it is odd, a comment gives the KIP.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from functools import partial
from typing import Final

from kio.schema.errors import ErrorCode

from gateway.groups.classic import views
from gateway.groups.classic.admission import check_member, check_member_now, check_sync, supports
from gateway.groups.classic.initial_delay import InitialDelay
from gateway.groups.classic.membership import Membership
from gateway.groups.classic.messages import (
    NO_ASSIGNMENT,
    NO_LEADER,
    NO_MEMBER_ID,
    Alarm,
    Answer,
    Effect,
    GroupRecord,
    Instant,
    JoinRequest,
    LeavingMember,
    Read,
    Store,
    SyncRequest,
    SyncResult,
    Transitioned,
    Waiter,
)
from gateway.groups.classic.room import absent, check_room, has_room_for
from gateway.groups.classic.roster import Member
from gateway.groups.classic.rules import GroupRules
from gateway.groups.classic.states import CAN_REBALANCE, TRANSITIONS, GroupState
from gateway.groups.classic.subscription import subscribed_topics
from gateway.groups.classic.waiting import answer_joins, answer_syncs, begin_sync, dismiss, refuse_join
from gateway.groups.deadlines import Deadlines

#: A new member has no id yet and cannot send heartbeats; its first join waits no longer than this.
NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 300_000
#: A join phase that nobody joined is checked again no sooner than this, whatever the members' time-outs.
EMPTY_JOIN_RETRY_MS_MIN: Final = 1_000
GENERATION_MAX: Final = 2**31 - 1
#: A member's reason is cut here, to fit one line of a log.
REASON_CHARS_MAX: Final = 200


class Group(Membership):
    """One group, with the invariants of the module's docstring."""

    def __init__(self, group_id: str, rules: GroupRules, deadlines: Deadlines[Alarm[Group]], now: Instant) -> None:
        super().__init__(group_id, rules, deadlines, now)
        self._join_deadline = self._alarm(self._join_expired)
        self._sync_deadline = self._alarm(self._sync_expired)
        #: Members of this generation that have not asked for their assignment.
        self._pending_sync: set[str] = set()
        #: The last generation whose assignment was submitted for storage; each is submitted once.
        self._storing_generation: int | None = None
        self._rebalance_reason = ""
        self._initial_delay = InitialDelay()

    def __repr__(self) -> str:
        return (
            f"Group({self.group_id!r}, {self.state}, generation {self.generation}, "
            f"{len(self.roster)} members, {self.roster.joined_count} joined, "
            f"{len(self.roster.pending)} pending, {len(self._pending_sync)} to sync)"
        )

    # Load and unload

    def restore(self, record: GroupRecord, now: Instant) -> Generator[None, None, list[Effect]]:
        """Take over the stored state, in steps of a member. Members go on as if the server had never been away."""
        assert not self.roster, "only a new group is restored"
        self.generation = record.generation
        self.state_since_ms = record.state_since_ms
        self.protocol_type = record.protocol_type
        self.protocol_name = record.protocol_name
        # Not a transition: this is the stored state.
        self.state = GroupState.STABLE if record.members else GroupState.EMPTY
        for stored in record.members:
            yield
            member = self._new_member(stored.member_id, stored)
            self.roster.add(member)
            self.extend_session(member, now)
        if record.leader is not None and record.leader in self.roster:
            self.roster.make_leader(record.leader)
        if self.uses_consumer_protocol:
            self.subscribed_topics = yield from subscribed_topics(views.subscriptions(self))
        if len(self.roster) > self._rules.max_size:
            return self._prepare_rebalance(now, "larger than group.max.size when loaded")
        return []

    def ask_to_join(self, now: Instant, reason: str) -> list[Effect]:
        """The members must all join again: their group was of another kind until now."""
        return self._prepare_rebalance(now, reason) if self.state is GroupState.STABLE else []

    def die(self, error: ErrorCode, now: Instant) -> list[Effect]:
        """Be deleted, or unloaded: every waiter gets `error`, no deadline is left."""
        effects = self._dismiss_all(error)
        self._deadlines.cancel(self._join_deadline)
        self._deadlines.cancel(self._sync_deadline)
        return [*effects, self._transition(GroupState.DEAD, now)]

    # JoinGroup

    def join(self, request: JoinRequest, waiter: Waiter, now: Instant) -> list[Effect]:
        """A member joins or rejoins. The waiter is answered now or when all have joined."""
        if not has_room_for(self, request, self._rules.max_size):
            return self._refuse_for_size(request.member_id, waiter, now)
        if self.state is GroupState.DEAD:
            return refuse_join(waiter, ErrorCode.coordinator_not_available, request.member_id)
        if not supports(self, request):
            return refuse_join(waiter, ErrorCode.inconsistent_group_protocol, request.member_id)
        error = check_room(self, request)
        if error is not ErrorCode.none:
            return refuse_join(waiter, error, request.member_id)
        held = self.roster.get(request.member_id)
        if not self._rules.allowance.admits(request.protocols, held.protocols if held is not None else ()):
            return refuse_join(waiter, ErrorCode.group_max_size_reached, request.member_id)
        if request.member_id == NO_MEMBER_ID:
            return self._join_unknown(request, waiter, now)
        if request.member_id in self.roster.pending and request.instance_id is None:
            return self._add_member(request, request.member_id, waiter, now)
        return self._join_known(request, waiter, now)

    def _join_unknown(self, request: JoinRequest, waiter: Waiter, now: Instant) -> list[Effect]:
        new_id = self._new_id(request)
        if request.instance_id is not None:
            current_id = self.roster.static_id(request.instance_id)
            if current_id is None:
                return self._add_member(request, new_id, waiter, now)
            return self._replace_static(request, current_id, new_id, waiter, now)
        if request.requires_known_member_id:
            return self._hand_out(new_id, request, waiter, now)
        return self._add_member(request, new_id, waiter, now)

    def _join_known(self, request: JoinRequest, waiter: Waiter, now: Instant) -> list[Effect]:
        error = check_member(self.roster, request.member_id, request.instance_id)
        if error is not ErrorCode.none:
            return refuse_join(waiter, error, request.member_id)
        member = self.roster[request.member_id]
        is_leader = self.roster.leader_id == member.member_id
        if member.protocols == request.protocols and (
            self.state is GroupState.COMPLETING_REBALANCE or (self.state is GroupState.STABLE and not is_leader)
        ):
            # It missed the answer to its join, or is a follower with nothing new to say.
            return [Answer(waiter, views.joined(self, member))]
        # A leader's join always begins a rebalance: topics changed, which its metadata never shows.
        effects = self._update_member(member, request, waiter)
        reason = _why("rejoins", member.member_id, request)
        return effects + self._rebalance_or_complete(now, reason)

    def _add_member(self, request: JoinRequest, member_id: str, waiter: Waiter, now: Instant) -> list[Effect]:
        self._forget_pending(member_id)
        member = self._new_member(member_id, request)
        member.is_new = True
        member.join_waiter = waiter
        if not self.roster:
            self.protocol_type = request.protocol_type
        self.roster.add(member)
        self._initial_delay.note_newcomer()
        self._deadlines.set(member.session, now.after(NEW_MEMBER_JOIN_TIMEOUT_MS))
        return self._rebalance_or_complete(now, _why("joins", member_id, request))

    def _update_member(self, member: Member, request: JoinRequest, waiter: Waiter) -> list[Effect]:
        """Replace the member's own data; an earlier join that still waits is answered with a retriable error."""
        effects: list[Effect] = []
        if member.join_waiter is not None:
            effects = refuse_join(member.join_waiter, ErrorCode.rebalance_in_progress, member.member_id)
        self.roster.set_protocols(member, request.protocols)
        self.roster.set_join_waiter(member, waiter)
        member.rebalance_timeout_ms = request.rebalance_timeout_ms
        member.session_timeout_ms = request.session_timeout_ms
        return effects

    def _refuse_for_size(self, member_id: str, waiter: Waiter, now: Instant) -> list[Effect]:
        self._forget_pending(member_id)
        effects = refuse_join(waiter, ErrorCode.group_max_size_reached, NO_MEMBER_ID)
        member = self.roster.get(member_id)
        if member is not None:
            effects += self._remove_member(member)
        return effects + self._maybe_complete_join(now)

    # Static members that return (KIP-345, KIP-814)

    def _replace_static(
        self, request: JoinRequest, old_id: str, new_id: str, waiter: Waiter, now: Instant
    ) -> list[Effect]:
        """Give the instance a new id; a client that still uses the old one is fenced."""
        member = self.roster[old_id]
        leader_before = self.roster.leader_id or NO_LEADER
        effects = dismiss(self.roster, member, ErrorCode.fenced_instance_id, old_id)
        self.roster.rename_static(member, new_id)
        if old_id in self._pending_sync:
            self._pending_sync.remove(old_id)
            self._pending_sync.add(new_id)
        member.is_new = False
        effects += self._update_member(member, request, waiter)
        self.extend_session(member, now)
        reason = _why("returns", new_id, request)
        if self.state is GroupState.COMPLETING_REBALANCE:
            # The leader may already be assigning to the old id: that share would reach nobody.
            return effects + self._prepare_rebalance(now, reason)
        if self.state is GroupState.PREPARING_REBALANCE:
            return effects + self._maybe_complete_join(now)
        if self.roster.select_protocol() != self.protocol_name:
            return effects + self._prepare_rebalance(now, reason)
        if self.roster.leader_id == new_id and not request.supports_skip_assignment:
            leader_told = leader_before  # so that it acts as a follower and assigns nothing
        else:
            leader_told = self.roster.leader_id or NO_LEADER
        stored = partial(self._static_stored, member, new_id, self.generation, leader_told)
        return [*effects, Store(views.stored(self, None), stored)]

    def _static_stored(
        self,
        member: Member,
        new_id: str,
        generation: int,
        leader_told: str,
        error: ErrorCode,
        now: Instant,
    ) -> list[Effect]:
        """The new id is durable: the member goes on with the assignment that it had."""
        goes_on = self.state is GroupState.STABLE and self.generation == generation
        if not goes_on or member.member_id != new_id or member.join_waiter is None:
            return []  # a rebalance began meanwhile; its answer goes to the member
        waiter = member.join_waiter
        self.roster.set_join_waiter(member, None)
        self.extend_session(member, now)
        if error is not ErrorCode.none:
            return refuse_join(waiter, error, NO_MEMBER_ID)
        return [Answer(waiter, views.returned(self, member, leader_told))]

    # The join phase

    def _rebalance_or_complete(self, now: Instant, reason: str) -> list[Effect]:
        if self.state in CAN_REBALANCE:
            return self._prepare_rebalance(now, reason)
        return self._maybe_complete_join(now)

    def _prepare_rebalance(self, now: Instant, reason: str) -> list[Effect]:
        """Ask all members to join again; a group that was empty waits for more members."""
        effects: list[Effect] = []
        if self.state is GroupState.COMPLETING_REBALANCE:
            effects = self._reset_assignments(ErrorCode.rebalance_in_progress, now)
        self._stop_waiting_for_syncs()
        self._rebalance_reason = reason[:REASON_CHARS_MAX]
        is_initial = self.is_empty
        effects.append(self._transition(GroupState.PREPARING_REBALANCE, now))
        if is_initial:
            step_ms = self._rules.initial_rebalance_delay_ms
            delay_ms = self._initial_delay.begin(step_ms, self.roster.rebalance_timeout_ms)
            self._deadlines.set(self._join_deadline, now.after(delay_ms))
            return effects
        self._initial_delay.end()
        if self.roster.all_joined:
            return effects + self._complete_join(now)
        self._deadlines.set(self._join_deadline, now.after(self.roster.rebalance_timeout_ms))
        return effects

    def _maybe_complete_join(self, now: Instant) -> list[Effect]:
        if (
            self.state is GroupState.PREPARING_REBALANCE
            and not self._initial_delay.is_active
            and self.roster.all_joined
        ):
            return self._complete_join(now)
        return []

    def _join_expired(self, now: Instant) -> list[Effect]:
        """The rebalance time-out has passed, or the initial delay, which each newcomer extends."""
        delay_ms = self._initial_delay.extend()
        if delay_ms is not None:
            self._deadlines.set(self._join_deadline, now.after(delay_ms))
            return []
        return self._complete_join(now)

    def _complete_join(self, now: Instant) -> list[Effect]:
        """Go on with the members that joined; static members may be away until their session expires."""
        self._deadlines.cancel(self._join_deadline)
        away, are_all = absent(self.roster)
        effects = self._remove_members(away)
        if not are_all:  # the join phase goes on for as long
            self._deadlines.set(self._join_deadline, now.monotonic_s)
            return effects
        if self.roster and not self.roster.elect_joined_leader():
            retry_ms = max(self.roster.rebalance_timeout_ms, EMPTY_JOIN_RETRY_MS_MIN)
            self._deadlines.set(self._join_deadline, now.after(retry_ms))
            return effects
        self.generation = self.generation % GENERATION_MAX + 1
        if not self.roster:
            return effects + self._become_empty(now)
        self.protocol_name = self.roster.select_protocol()
        effects.append(self._transition(GroupState.COMPLETING_REBALANCE, now))
        self._pending_sync = {member.member_id for member in self.roster}
        self._deadlines.set(self._sync_deadline, now.after(self.roster.rebalance_timeout_ms))
        for member in self.roster:
            self.extend_session(member, now)
            member.is_new = False
        return effects + answer_joins(self) + self._read_subscriptions()

    def _read_subscriptions(self) -> list[Effect]:
        """Until they are read, the members count as subscribed to every topic."""
        self.subscribed_topics = None
        if not self.uses_consumer_protocol:
            return []
        return [Read(tuple(views.subscriptions(self)), partial(self._subscriptions_read, self.generation))]

    def _subscriptions_read(self, generation: int, topics: frozenset[str] | None) -> None:
        if self.generation == generation:
            self.subscribed_topics = topics

    def _become_empty(self, now: Instant) -> list[Effect]:
        self.protocol_name = None
        self.subscribed_topics = frozenset() if self.uses_consumer_protocol else None
        transition = self._transition(GroupState.EMPTY, now)
        # Nobody waits for this record. If it is lost, the members stored before expire again.
        return [transition, Store(views.stored(self, None), _nothing_follows)]

    # SyncGroup

    def sync(self, request: SyncRequest, waiter: Waiter, now: Instant) -> list[Effect]:
        """A member asks for its assignment; the leader sends the assignments of all."""
        error = check_sync(self, request)
        if error is not ErrorCode.none:
            return [Answer(waiter, SyncResult(error=error))]
        member = self.roster[request.member_id]
        self._pending_sync.discard(member.member_id)
        if not self._pending_sync:
            self._deadlines.cancel(self._sync_deadline)
        if self.state is GroupState.STABLE:
            return [Answer(waiter, views.synced(self, member))]
        effects = begin_sync(member, waiter)
        is_leader = self.roster.leader_id == member.member_id
        if is_leader and self._storing_generation != self.generation:
            assignments = dict(request.assignments)
            if not self._rules.allowance.admits_assignments(assignments, len(self.roster)):
                effects += self._reset_assignments(ErrorCode.unknown_server_error, now)  # as for a record too large
                return effects + self._prepare_rebalance(now, "its assignment is larger than members may hold")
            self._storing_generation = self.generation
            stored = partial(self._assignment_stored, self.generation, assignments)
            effects.append(Store(views.stored(self, assignments), stored))
        return effects

    def _assignment_stored(
        self, generation: int, assignments: Mapping[str, bytes], error: ErrorCode, now: Instant
    ) -> list[Effect]:
        """The leader's assignment is durable: hand it out, unless a rebalance began meanwhile."""
        if self.state is not GroupState.COMPLETING_REBALANCE or self.generation != generation:
            return []
        if error is not ErrorCode.none:
            effects = self._reset_assignments(error, now)
            return effects + self._prepare_rebalance(now, "its assignment could not be stored")
        for member in self.roster:
            self.roster.set_assignment(member, assignments.get(member.member_id, NO_ASSIGNMENT))
        effects = [self._transition(GroupState.STABLE, now)]
        return effects + self._answer_syncs(ErrorCode.none, now)

    def _reset_assignments(self, error: ErrorCode, now: Instant) -> list[Effect]:
        for member in self.roster:
            self.roster.set_assignment(member, NO_ASSIGNMENT)
        return self._answer_syncs(error, now)

    def _answer_syncs(self, error: ErrorCode, now: Instant) -> list[Effect]:
        return answer_syncs(self, error, lambda member: self.extend_session(member, now))

    def _sync_expired(self, now: Instant) -> list[Effect]:
        """Remove the members that did not ask for their assignment within the rebalance time-out."""
        effects = self._remove_members([self.roster[member_id] for member_id in sorted(self._pending_sync)])
        return effects + self._prepare_rebalance(now, "members did not sync in time")

    def _stop_waiting_for_syncs(self) -> None:
        self._pending_sync.clear()
        self._deadlines.cancel(self._sync_deadline)

    # Heartbeat and LeaveGroup

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int, now: Instant) -> ErrorCode:
        error = check_member_now(self, member_id, instance_id, generation)
        if error is not ErrorCode.none:
            return error
        self.extend_session(self.roster[member_id], now)
        if self.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.rebalance_in_progress
        return ErrorCode.none

    def leave(self, leaving: Iterable[LeavingMember], now: Instant) -> tuple[list[ErrorCode], list[Effect]]:
        """Members leave, each with its own result; the group changes its state once for all of them."""
        errors: list[ErrorCode] = []
        effects: list[Effect] = []
        gone: list[str] = []
        for member_id, instance_id, reason in leaving:
            error = ErrorCode.none
            current_id = member_id
            if member_id == NO_MEMBER_ID and instance_id is not None:
                # An administrator removes an instance without knowing its id.
                current_id = self.roster.static_id(instance_id) or NO_MEMBER_ID
            if not self._forget_pending(current_id):
                error = check_member(self.roster, current_id, instance_id)
                if error is ErrorCode.none:
                    effects += self._remove_member(self.roster[current_id])
                    gone.append(f"{current_id} leaves ({reason or 'no reason given'})")
            errors.append(error)
        if gone and self.state in CAN_REBALANCE:
            return errors, effects + self._prepare_rebalance(now, ", ".join(gone))
        return errors, effects + self._maybe_complete_join(now)

    # Members that come and go

    def _session_expired(self, member: Member, now: Instant) -> list[Effect]:
        if member.satisfies_heartbeat:
            return []  # it waits for our answer, which starts a new session
        effects = self._remove_member(member)
        reason = f"{member.member_id} failed: its session expired"
        if self.state in CAN_REBALANCE:
            return effects + self._prepare_rebalance(now, reason)
        return effects + self._complete_join_if_all_are_here(now)

    def _pending_expired(self, member_id: str, now: Instant) -> list[Effect]:
        del self.roster.pending[member_id]
        return self._complete_join_if_all_are_here(now)

    def _complete_join_if_all_are_here(self, now: Instant) -> list[Effect]:
        """As `_maybe_complete_join`, but it ends the delay of an initial rebalance too."""
        if self.state is GroupState.PREPARING_REBALANCE and self.roster.all_joined:
            return self._complete_join(now)
        return []

    def _transition(self, after: GroupState, now: Instant) -> Transitioned:
        before = self.state
        assert after in TRANSITIONS[before], f"{self!r} cannot become {after}"
        self.state = after
        self.state_since_ms = now.wall_ms
        return Transitioned(before, after, self.generation, len(self.roster), self._rebalance_reason)


def _why(verb: str, member_id: str, request: JoinRequest) -> str:
    return f"{member_id} {verb} ({request.reason or 'no reason given'})"


def _nothing_follows(error: ErrorCode, now: Instant) -> list[Effect]:
    return []
