"""The shell around classic groups: it makes them, and carries out their effects.

Keeps: groups decide (`classic/group.py`), the journal writes, the shell does as it is told; each input is one
synchronous step. Many that wait are answered some in each pass of the loop, long subscriptions are read in turns: a
group has gone on by then, and neither changes what it decides.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.trusted_clock import TrustedClock
from core.turns import Turn, at_once
from gateway.config.loading import Config
from gateway.groups.alarms import Alarms
from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.group import Group
from gateway.groups.classic.messages import (
    Alarm,
    Answer,
    Effect,
    GroupRecord,
    Instant,
    JoinRequest,
    JoinResult,
    LeavingMember,
    Read,
    Store,
    SyncRequest,
    SyncResult,
    Transitioned,
)
from gateway.groups.classic.rules import GroupRules, members_max
from gateway.groups.classic.states import GroupState
from gateway.groups.classic.subscription import subscribed_topics
from gateway.groups.journal import GroupJournal

#: Waiters that are answered in one pass of the loop. Each goes on in the next pass: it encodes and sends its answer.
ANSWERS_AT_ONCE: Final = 100
#: Bytes of subscriptions that are read at once, in some 2 ms; longer ones are read in turns.
BYTES_AT_ONCE: Final = 16 * 1024

_log: Final = logging.getLogger(__name__)


class ClassicGroups:
    """What the classic groups of one coordinator need beside their state machines."""

    def __init__(
        self, config: Config, clock: Clock, trusted: TrustedClock, allowance: Allowance, journal: GroupJournal
    ) -> None:
        self._clock = clock
        self._trusted = trusted
        self._journal = journal
        self._rules = GroupRules(
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            max_size=members_max(config.group_max_size),
            new_id=lambda: str(uuid.uuid4()),
            allowance=allowance,
        )
        self._alarms: Alarms[Alarm[Group]] = Alarms(clock, self.now, self._fire)
        self._unanswered: deque[Answer] = deque()
        self._readings: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ClassicGroups {self._alarms!r}, {len(self._unanswered)} to answer>"

    def start(self) -> None:
        self._alarms.start()

    async def stop(self) -> None:
        """Return when all have been answered that were to be."""
        self._alarms.stop()
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)
        while self._unanswered:  # noqa: ASYNC110 - the next pass answers the next ones
            await asyncio.sleep(0)

    # Groups that come and go

    def create(self, group_id: str) -> Group:
        return Group(group_id, self._rules, self._alarms.deadlines, self.now())

    def restore(self, group: Group, record: GroupRecord) -> Generator[None, None, None]:
        """Give a new group its stored state, in steps of a member."""
        self._carry_out(group, (yield from group.restore(record, self.now())))

    def ask_to_join(self, group: Group, reason: str) -> None:
        """All members of a group must join again."""
        self._carry_out(group, group.ask_to_join(self.now(), reason))

    def die(self, group: Group, error: ErrorCode) -> None:
        """A group is deleted, unloaded or of another kind now: whoever waits is told `error`."""
        self._carry_out(group, group.die(error, self.now()))

    # Requests

    def join(self, group: Group, request: JoinRequest) -> asyncio.Future[JoinResult]:
        """A member joins; the answer comes when all have joined, at the latest."""
        waiter: asyncio.Future[JoinResult] = asyncio.get_running_loop().create_future()
        self._carry_out(group, group.join(request, waiter, self.now()))
        return waiter

    def sync(self, group: Group, request: SyncRequest) -> asyncio.Future[SyncResult]:
        """A member asks for its assignment; the answer comes when the leader has told it."""
        waiter: asyncio.Future[SyncResult] = asyncio.get_running_loop().create_future()
        self._carry_out(group, group.sync(request, waiter, self.now()))
        return waiter

    def heartbeat(self, group: Group, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        error = group.heartbeat(member_id, instance_id, generation, self.now())
        self.set_timer()
        return error

    def leave(self, group: Group, leaving: Sequence[LeavingMember]) -> list[ErrorCode]:
        errors, effects = group.leave(leaving, self.now())
        self._carry_out(group, effects)
        return errors

    # Carrying out

    def _carry_out(self, group: Group, effects: Sequence[Effect]) -> None:
        answers: list[Answer] = []
        for effect in effects:
            match effect:
                case Answer():
                    answers.append(effect)
                case Store():
                    self._store(group, effect)
                case Read():
                    self._read(effect)
                case Transitioned():
                    _report(group, effect)
        if len(answers) <= ANSWERS_AT_ONCE:
            for answer in answers:
                _give(answer)
        else:
            self._answer_in_passes(answers)
        self.set_timer()

    def _answer_in_passes(self, answers: Sequence[Answer]) -> None:
        is_under_way = bool(self._unanswered)
        self._unanswered.extend(answers)
        if not is_under_way:
            self._answer_some()

    def _answer_some(self) -> None:
        for _ in range(min(len(self._unanswered), ANSWERS_AT_ONCE)):
            _give(self._unanswered.popleft())
        if self._unanswered:
            asyncio.get_running_loop().call_soon(self._answer_some)

    def _read(self, effect: Read) -> None:
        if sum(map(len, effect.subscriptions)) <= BYTES_AT_ONCE:
            effect.told(at_once(subscribed_topics(effect.subscriptions)))
            return

        async def read() -> None:
            effect.told(await Turn().through(subscribed_topics(effect.subscriptions)))

        reading = asyncio.create_task(read())
        self._readings.add(reading)
        reading.add_done_callback(self._readings.discard)

    def _store(self, group: Group, effect: Store) -> None:
        write = self._journal.write_group(group.group_id, effect.record)

        def stored(task: asyncio.Task[ErrorCode]) -> None:
            error = ErrorCode.not_coordinator if task.cancelled() else task.result()
            self._carry_out(group, effect.stored(error, self.now()))

        write.add_done_callback(stored)

    # Time

    def now(self) -> Instant:
        return Instant(self._clock.monotonic_s(), self._trusted.stamp_ms())

    def set_timer(self) -> None:
        """Deadlines may have changed."""
        self._alarms.set_timer()

    def expire_due(self) -> None:
        """Fire every deadline that has passed."""
        self._alarms.expire_due()

    def _fire(self, due: Iterator[Alarm[Group]], now: Instant) -> None:
        for group, fire in due:
            self._carry_out(group, fire(now))


def _give(answer: Answer) -> None:
    waiter, result = answer
    assert isinstance(waiter, asyncio.Future)
    if not waiter.done():  # the connection may be gone
        waiter.set_result(result)


def _report(group: Group, event: Transitioned) -> None:
    """Log one line per rebalance, and one when a group has lost its last member."""
    facts = {
        "group": group.group_id,
        "generation": event.generation,
        "members": event.member_count,
        "reason": event.reason,
    }
    match event.after:
        case GroupState.STABLE:
            _log.info("group rebalanced", extra=facts)
        case GroupState.EMPTY:
            _log.info("group is empty", extra=facts)
        case _:
            _log.debug("group is now %s", event.after, extra=facts)
