"""The shell around consumer groups (KIP-848): their heartbeats, and the topics that they learn of.

Keeps: an answer leaves when all that it tells is stored and synced. Long lists of topics are gone through in turns,
regular expressions over many are held against them in a thread, one pass after the other: what a pass finds is known to
its group before the next one looks, so that no topic comes or goes unseen between the two.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Final

from kio.schema.errors import ErrorCode

from core.clock import Clock
from core.trusted_clock import TrustedClock
from core.turns import Turn, in_turns
from gateway.config.loading import Config
from gateway.groups import regexes
from gateway.groups.classic.allowance import Allowance
from gateway.groups.consumer.format import CONSUMER_TABLE, decode_head, decode_key, encode_key
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import Heartbeat, HeartbeatAnswer, Partitions, RowKey
from gateway.groups.consumer.rows import all_keys, decoded, restored, row, unfinished_head
from gateway.groups.consumer.rules import ConsumerRules, GroupSettings
from gateway.groups.journal import GroupJournal
from gateway.groups.landing import Form
from gateway.groups.modern.rows import STORING_TARGETS
from gateway.groups.row_groups import RowGroups
from gateway.groups.visible import TopicsNow, VisibleTopics
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

FORM: Final = Form(
    CONSUMER_TABLE, ConsumerGroup.head_key, encode_key, decode_key, decoded, row, unfinished_head, all_keys
)
TOPICS_SETTLE_S: Final = 0.1
"""Changes of topics within this time make one new target: topics often come in numbers."""

_log: Final = logging.getLogger(__name__)


class ConsumerGroups(RowGroups[ConsumerGroup, RowKey]):
    """What the consumer groups of one coordinator need beside their state machines. `groups` are all there are now."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        trusted: TrustedClock,
        topics: VisibleTopics,
        settings: Callable[[str], GroupSettings],
        allowance: Allowance,
        journal: GroupJournal,
        groups: Callable[[], Iterable[ConsumerGroup]],
        find: Callable[[str], ConsumerGroup | None],
        seen_to: Callable[[ConsumerGroup], None],
    ) -> None:
        super().__init__(clock, trusted, journal, FORM, find, seen_to)
        self._topics = topics
        self._asks_rights = bool(config.authorizer_class_name)
        self._groups = groups
        self._rules = ConsumerRules(
            max_size=config.group_consumer_max_size,
            assignors=config.group_consumer_assignors,
            allowance=allowance,
            topics=TopicsNow(topics),
            settings=settings,
            resolve=self._resolve,
            new_id=lambda: str(uuid.uuid4()),
        )
        self._resolving: dict[ConsumerGroup, asyncio.Task[None]] = {}
        self._matching = asyncio.Lock()  # of one pass of regular expressions over topics
        self._looking: dict[ConsumerGroup, asyncio.Task[None]] = {}
        self._changed_topics: set[str] = set()
        self._topics_task: asyncio.Task[None] | None = None
        self._is_active = False

    def create(self, group_id: str) -> ConsumerGroup:
        return ConsumerGroup(group_id, self._rules, self._alarms.deadlines, self._now())

    # Life

    async def load(self, classic_ids: Callable[[str], bool]) -> AsyncIterator[ConsumerGroup]:
        """The stored groups, in turns. Rows of a conversion that did not end are deleted. Raises UnreadableRecord."""
        turn = Turn()
        found = await self._rows_by_group(self._journal.rows())
        for group_id in list(found):
            rows = found.pop(group_id)  # to free all of them at once takes long
            head = rows.get(ConsumerGroup.head_key)
            if head is None or (decode_head(head).target_epoch == STORING_TARGETS and classic_ids(group_id)):
                await self._delete_rows(group_id, rows)
                continue
            group = self.create(group_id)
            await self._restored(group, restored(group, await self._decoded(rows, turn), self._now()), turn)
            yield group

    def start(self) -> None:
        """Begin to serve: deadlines run; groups learn of the topics that came or went while nobody looked."""
        self._is_active = True
        self._topics_task = asyncio.create_task(self._look_at_all())
        super().start()

    async def stop(self) -> None:
        self._is_active = False
        await super().stop()

    def _works(self) -> list[asyncio.Task[None]]:
        works = [*super()._works(), *self._resolving.values(), *self._looking.values()]
        return works if self._topics_task is None else [*works, self._topics_task]

    # Requests

    async def heartbeat(self, group: ConsumerGroup, request: Heartbeat) -> HeartbeatAnswer:
        """One heartbeat; its answer when all that it tells is durable. Raises Refusal."""
        before = group.epoch, group.target_epoch
        answer = group.heartbeat(request, self._now())
        self.see_to(group)
        if (group.epoch, group.target_epoch) != before:
            self._report(group)
        answer = await self._whole(group, answer, request.owned)
        error = await self.stored(group)
        if error is not ErrorCode.none:
            raise Refusal(error)
        return answer

    async def _whole(self, group: ConsumerGroup, answer: HeartbeatAnswer, owned: Partitions | None) -> HeartbeatAnswer:
        """The answer when its member has got all that it can get now, a part of it in each turn. Raises Refusal."""
        while answer.is_partial or not answer.epoch:
            if answer.is_partial:
                await asyncio.sleep(0)
            elif work := self._looking.get(group) or self._computing.get(group):  # the group's first target
                await asyncio.wait([work])
            else:
                raise Refusal(ErrorCode.coordinator_not_available)  # a client asks again
            answer = group.answer_again(answer.member_id, owned, self._now())
            self.see_to(group)
        return answer

    def see_to(self, group: ConsumerGroup) -> None:
        """Carry out what a group wants after an input: rows, a target, topics to look up."""
        super().see_to(group)
        if not self._is_known(group):
            return
        if not group.subscriptions.is_resolved and group not in self._resolving:
            self._start(self._resolving, group, self._resolve_all(group))
        if not group.subscriptions.is_seen and group not in self._looking:
            self._start(self._looking, group, self._look_up(group))

    def _facts(self, group: ConsumerGroup) -> dict[str, str]:
        return {"assignor": group.assignor}

    # Topics

    async def _look_up(self, group: ConsumerGroup) -> None:
        """Look up the topics that are to be looked up, in turns."""
        turn = Turn()
        while not group.subscriptions.is_seen:
            await turn.give_way()
            group.look(self._now())
        group.assign_if_due(self._now())

    def _resolve(self, pattern: str) -> frozenset[str] | None:
        """The topics of a regular expression, if there are few enough topics to look at once. Raises Refusal."""
        regexes.check(pattern)
        if len(self._topics) > regexes.NAMES_AT_ONCE:
            return None
        return regexes.matching(pattern, self._names())

    async def _resolve_all(self, group: ConsumerGroup) -> None:
        async with self._matching:
            found = await regexes.matching_each(list(group.subscriptions.regexes), self._names)
            seen = {regex: await self._seen(group, regex, topics) for regex, topics in found.items()}
            group.resolved(seen, self._now())

    async def _seen(self, group: ConsumerGroup, regex: str, topics: frozenset[str]) -> frozenset[str]:
        """Those of the topics that members may see; after a start, until one has come, no new ones."""
        subscriptions = group.subscriptions
        may_see = subscriptions.sights.get(regex)
        if may_see is not None:
            return frozenset([name async for name in in_turns(topics) if may_see(name)])
        return topics & subscriptions.resolved.get(regex, frozenset()) if self._asks_rights else topics

    def _names(self) -> list[str]:
        return [stream.name for stream in self._topics]

    def topic_changed(self, stream: Stream) -> None:
        """A topic came, went or grew: groups are told soon."""
        self._changed_topics.add(stream.name)
        if self._topics_task is None or self._topics_task.done():
            self._topics_task = asyncio.create_task(self._look_later())

    async def _look_at_all(self) -> None:
        await self._look_at_topics(None)
        await self._look_later()

    async def _look_later(self) -> None:
        while self._changed_topics and self._is_active:
            await asyncio.sleep(TOPICS_SETTLE_S)
            changed, self._changed_topics = self._changed_topics, set()
            await self._look_at_topics(changed)

    async def _look_at_topics(self, changed: set[str] | None) -> None:
        """Tell the groups of changed topics; None: of all topics."""
        async for group in in_turns(list(self._groups())):
            try:
                await self._tell_of_topics(group, changed)
            except Exception:  # the others must hear of them all the same
                _log.exception("a group could not be told of topics", extra={"group": group.group_id})

    async def _tell_of_topics(self, group: ConsumerGroup, changed: set[str] | None) -> None:
        if group.subscriptions.regexes and changed is None:
            await self._resolve_all(group)
        elif group.subscriptions.regexes and changed is not None:
            await self._resolve_anew(group, changed)
        if changed is None or any(map(group.subscriptions.wants, changed)):
            group.topics_changed(self._now(), changed)
        self._see_to_itself(group)

    async def _resolve_anew(self, group: ConsumerGroup, changed: set[str]) -> None:
        """Hold a group's regular expressions against the changed topics only."""
        async with self._matching:
            present = [name for name in changed if self._topics.get(name) is not None]
            found = await regexes.matching_each(list(group.subscriptions.resolved), lambda: present)
            seen = {regex: await self._seen(group, regex, topics) for regex, topics in found.items()}
            resolved = group.subscriptions.resolved
            anew = {regex: (resolved[regex] - changed) | topics for regex, topics in seen.items() if regex in resolved}
            group.resolved(anew, self._now())
