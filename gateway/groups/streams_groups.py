"""The shell around streams groups (KIP-1071): their heartbeats, and the topics that they learn of.

Keeps: an answer leaves when all that it tells is stored and synced.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.trusted_clock import TrustedClock
from core.turns import Turn
from gateway.config.loading import Config
from gateway.groups.classic.allowance import Allowance
from gateway.groups.journal import GroupJournal
from gateway.groups.landing import Form
from gateway.groups.modern.topics import TopicView
from gateway.groups.row_groups import RowGroups
from gateway.groups.streams.format import STREAMS_TABLE, decode_key, encode_key
from gateway.groups.streams.group import StreamsGroup
from gateway.groups.streams.messages import Heartbeat, HeartbeatAnswer, RowKey, StreamsSettings
from gateway.groups.streams.rows import all_keys, decoded, restored, row, unfinished_head
from gateway.groups.streams.rules import StreamsRules
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

FORM: Final = Form(
    STREAMS_TABLE, StreamsGroup.head_key, encode_key, decode_key, decoded, row, unfinished_head, all_keys
)


class StreamsGroups(RowGroups[StreamsGroup, RowKey]):
    """What the streams groups of one coordinator need beside their state machines. `groups` are all there are now."""

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
        super().__init__(clock, trusted, journal, FORM, find, seen_to)
        self._groups = groups
        self._rules = StreamsRules(
            max_size=config.group_streams_max_size, allowance=allowance, topics=topics, settings=settings
        )

    def create(self, group_id: str) -> StreamsGroup:
        return StreamsGroup(group_id, self._rules, self._alarms.deadlines, self._now())

    async def load(self) -> AsyncIterator[StreamsGroup]:
        """The stored groups, in turns. Raises UnreadableRecord."""
        turn = Turn()
        found = await self._rows_by_group(self._journal.streams_rows())
        for group_id in list(found):
            rows = found.pop(group_id)  # to free all of them at once takes long
            if StreamsGroup.head_key not in rows:  # the first rows needed several records, and the end came in between
                await self._delete_rows(group_id, rows)
                continue
            group = self.create(group_id)
            await self._restored(group, restored(group, await self._decoded(rows, turn), self._now()), turn)
            yield group

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

    def topic_changed(self, stream: Stream) -> None:
        """A topic came, went or grew: its groups look at it with their next heartbeat."""
        for group in self._groups():
            if group.needs(stream.name):
                group.topics_changed()
