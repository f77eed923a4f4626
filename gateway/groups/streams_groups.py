"""The shell around streams groups (KIP-1071): their rows, their deadlines, their long computations.

Keeps: an answer leaves when all that it tells is stored and synced. Targets of large groups are computed in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.trusted_clock import TrustedClock
from gateway.config.loading import Config
from gateway.groups.alarms import Alarms
from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.messages import Instant
from gateway.groups.journal import GroupJournal
from gateway.groups.landing import Landing
from gateway.groups.streams.assignor import assign
from gateway.groups.streams.format import STREAMS_TABLE, decode_key, encode_key
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.messages import (
    Heartbeat,
    HeartbeatAnswer,
    RowKey,
    RowKind,
    StreamsAlarm,
    StreamsSettings,
    TopicView,
)
from gateway.groups.streams.rows import all_keys, restored, row, unfinished_head
from gateway.groups.streams.rules import StreamsRules
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

HEAD: Final = RowKey(RowKind.HEAD)

_log: Final = logging.getLogger(__name__)


class StreamsGroups:
    """What the streams groups of one coordinator need beside their state machines.

    `groups` are all streams groups there are now, `find` looks one up; `seen_to` is called when a group has changed by
    itself.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        trusted: TrustedClock,
        topics: TopicView,
        settings: Callable[[str], StreamsSettings],
        allowance: Allowance,
        journal: GroupJournal,
        groups: Callable[[], Iterable[StreamsGroup]],
        find: Callable[[str], StreamsGroup | None],
        seen_to: Callable[[StreamsGroup], None],
    ) -> None:
        self._clock = clock
        self._trusted = trusted
        self._journal = journal
        self._groups = groups
        self._find = find
        self._seen_to = seen_to
        self._rules = StreamsRules(
            max_size=config.group_streams_max_size, allowance=allowance, topics=topics, settings=settings
        )
        self._alarms: Alarms[StreamsAlarm] = Alarms(clock, self._now, self._expired)
        self._landing: Landing[StreamsGroup, RowKey] = Landing(journal, HEAD, _change, _unfinished)
        self._computing: dict[StreamsGroup, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"StreamsGroups({len(self._landing)} writing, {len(self._alarms.deadlines)} deadlines)"

    def create(self, group_id: str) -> StreamsGroup:
        return StreamsGroup(group_id, self._rules, self._alarms.deadlines, self._now())

    # Life

    def load(self) -> Iterator[StreamsGroup]:
        """The stored groups. Raises UnreadableRecord."""
        rows: dict[str, dict[RowKey, bytes]] = {}
        for key, value in self._journal.streams_rows():
            group_id, row_key = decode_key(key)
            rows.setdefault(group_id, {})[row_key] = value
        for group_id, of_group in rows.items():
            if HEAD not in of_group:  # its first rows needed several records, and the end came in between
                self._journal.write_rows([Delete(STREAMS_TABLE, encode_key(group_id, key)) for key in of_group])
                continue
            group = self.create(group_id)
            restored(group, of_group, self._now())
            yield group

    def start(self) -> None:
        self._alarms.start()

    async def stop(self) -> None:
        """Return when all that changed is stored."""
        self._alarms.stop()
        tasks = list(self._computing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._landing.settle()

    # Requests

    async def heartbeat(self, group: StreamsGroup, request: Heartbeat) -> HeartbeatAnswer:
        """One heartbeat; its answer when all that it tells is durable. Raises Refusal."""
        before = group.target_epoch
        answer = group.heartbeat(request, self._now())
        self.see_to(group)
        if group.target_epoch != before:
            self._report(group)
        error = await self.stored(group)
        if error is not ErrorCode.none:
            raise Refusal(error)
        return answer

    def see_to(self, group: StreamsGroup) -> None:
        """Carry out what a group wants after an input: rows, a target."""
        if group.changed:
            self._landing.write(group)
        if group.wanted is not None and group not in self._computing:
            self._compute(group)
        self._alarms.set_timer()

    def drop(self, group: StreamsGroup) -> None:
        """A group is no longer: submit the deletion of its rows."""
        rows = self.rows_of(group)
        group.die()
        self._journal.write_rows(rows)

    def rows_of(self, group: StreamsGroup) -> list[Delete]:
        """What deletes a group's rows."""
        return [Delete(STREAMS_TABLE, encode_key(group.group_id, key)) for key in all_keys(group)]

    def also(self, group: StreamsGroup, change: Put | Delete) -> None:
        """Store a change together with the group's next rows, in the record of its head."""
        self._landing.also(group, change)

    async def stored(self, group: StreamsGroup) -> ErrorCode:
        """Wait until everything that changed so far is durable."""
        return await self._landing.stored(group)

    def is_storing(self, group: StreamsGroup) -> bool:
        return self._landing.is_storing(group)

    def topic_changed(self, stream: Stream) -> None:
        """A topic came, went or grew: its groups look at it with their next heartbeat."""
        for group in self._groups():
            if group.needs(stream.name):
                group.topics_changed()

    # Targets

    def _compute(self, group: StreamsGroup) -> None:
        wanted, group.wanted = group.wanted, None
        assert wanted is not None

        async def compute() -> None:
            targets = await asyncio.to_thread(assign, wanted.spec)
            group.assigned(wanted.epoch, targets, self._now())
            self._report(group)

        task = self._computing[group] = asyncio.create_task(compute())
        task.add_done_callback(lambda _: self._computed(group, task))

    def _computed(self, group: StreamsGroup, task: asyncio.Task[None]) -> None:
        del self._computing[group]
        if task.cancelled():
            return
        if failure := task.exception():
            _log.error("a streams group's assignment failed", extra={"group": group.group_id}, exc_info=failure)
        self._see_to_itself(group)

    # Time

    def _now(self) -> Instant:
        return Instant(self._clock.monotonic_s(), self._trusted.stamp_ms())

    def _expired(self, group_id: str) -> None:
        group = self._find(group_id)
        if group is not None:
            self._see_to_itself(group)

    def _see_to_itself(self, group: StreamsGroup) -> None:
        self.see_to(group)
        self._seen_to(group)

    def _report(self, group: StreamsGroup) -> None:
        facts = {"group": group.group_id, "epoch": group.epoch, "members": group.member_count}
        _log.info("streams group has a new target", extra=facts)


def _change(group: StreamsGroup, key: RowKey) -> Put | Delete:
    value = row(group, key)
    encoded = encode_key(group.group_id, key)
    return Delete(STREAMS_TABLE, encoded) if value is None else Put(STREAMS_TABLE, encoded, value)


def _unfinished(group: StreamsGroup) -> Put:
    return Put(STREAMS_TABLE, encode_key(group.group_id, HEAD), unfinished_head(group))
