"""The shell around consumer groups (KIP-848): their rows, their deadlines, their long computations.

Keeps: an answer leaves when all that it tells is stored and synced. Targets of large groups are computed in a thread,
long lists are gone through in turns.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.trusted_clock import TrustedClock
from core.turns import in_turns
from gateway.config.loading import Config
from gateway.groups import regexes
from gateway.groups.alarms import Alarms
from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.messages import Instant
from gateway.groups.consumer.assignors import ASSIGNORS
from gateway.groups.consumer.format import CONSUMER_TABLE, decode_key, encode_key
from gateway.groups.consumer.group import ConsumerGroup
from gateway.groups.consumer.messages import ConsumerAlarm, Heartbeat, HeartbeatAnswer, RowKey, RowKind, Topic
from gateway.groups.consumer.rows import STORING_TARGETS, all_keys, restored, row, unfinished_head
from gateway.groups.consumer.rules import ConsumerRules, GroupSettings
from gateway.groups.journal import GroupJournal
from gateway.groups.landing import Landing
from gateway.groups.visible import VisibleTopics
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from core.streams.live import Stream

HEAD: Final = RowKey(RowKind.HEAD)
TOPICS_SETTLE_S: Final = 0.1
"""Changes of topics within this time make one new target: topics often come in numbers."""

_log: Final = logging.getLogger(__name__)


class ConsumerGroups:
    """What the consumer groups of one coordinator need beside their state machines.

    `groups` are all consumer groups there are now, `find` looks one up; `seen_to` is called when a group has changed by
    itself.
    """

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
        self._clock = clock
        self._trusted = trusted
        self._topics = topics
        self._asks_rights = bool(config.authorizer_class_name)
        self._journal = journal
        self._groups = groups
        self._find = find
        self._seen_to = seen_to
        self._rules = ConsumerRules(
            max_size=config.group_consumer_max_size,
            assignors=config.group_consumer_assignors,
            allowance=allowance,
            topics=_TopicView(topics),
            settings=settings,
            resolve=self._resolve,
            new_id=lambda: str(uuid.uuid4()),
        )
        self._alarms: Alarms[ConsumerAlarm] = Alarms(clock, self._now, self._expired)
        self._landing: Landing[ConsumerGroup, RowKey] = Landing(journal, HEAD, _change, _unfinished)
        self._computing: dict[ConsumerGroup, asyncio.Task[None]] = {}
        self._resolving: dict[ConsumerGroup, asyncio.Task[None]] = {}
        self._changed_topics: set[str] = set()
        self._topics_task: asyncio.Task[None] | None = None
        self._is_active = False

    def __repr__(self) -> str:
        return f"ConsumerGroups({len(self._landing)} writing, {len(self._alarms.deadlines)} deadlines)"

    @property
    def topic_view(self) -> _TopicView:
        return _TopicView(self._topics)

    def create(self, group_id: str) -> ConsumerGroup:
        return ConsumerGroup(group_id, self._rules, self._alarms.deadlines, self._now())

    # Life

    def load(self, classic_ids: Callable[[str], bool]) -> Iterator[ConsumerGroup]:
        """The stored groups. Rows of a conversion that did not end are deleted. Raises UnreadableRecord."""
        rows: dict[str, dict[RowKey, bytes]] = {}
        for key, value in self._journal.rows():
            group_id, row_key = decode_key(key)
            rows.setdefault(group_id, {})[row_key] = value
        for group_id, of_group in rows.items():
            group = self.create(group_id)
            is_whole = HEAD in of_group
            if is_whole:
                restored(group, of_group, self._now())
            if not is_whole or (group.head().target_epoch == STORING_TARGETS and classic_ids(group_id)):
                group.die()
                self._journal.write_rows([Delete(CONSUMER_TABLE, encode_key(group_id, key)) for key in of_group])
                continue
            yield group

    def start(self) -> None:
        """Begin to serve: deadlines run; groups learn of the topics that came or went while nobody looked."""
        self._is_active = True
        self._topics_task = asyncio.create_task(self._look_at_topics(None))
        self._alarms.start()

    async def stop(self) -> None:
        """Return when all that changed is stored."""
        self._is_active = False
        self._alarms.stop()
        tasks = [*self._computing.values(), *self._resolving.values()]
        if self._topics_task is not None:
            tasks.append(self._topics_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._landing.settle()

    # Requests

    async def heartbeat(self, group: ConsumerGroup, request: Heartbeat) -> HeartbeatAnswer:
        """One heartbeat; its answer when all that it tells is durable. Raises Refusal."""
        before = group.epoch, group.target_epoch
        answer = group.heartbeat(request, self._now())
        self.see_to(group)
        if (group.epoch, group.target_epoch) != before:
            self._report(group)
        if not answer.epoch:  # the group's first target is being computed
            await self._computed(group)
            answer = group.answer_again(answer.member_id, self._now())
            self.see_to(group)
            if not answer.epoch:
                raise Refusal(ErrorCode.coordinator_not_available)  # a client asks again
        error = await self.stored(group)
        if error is not ErrorCode.none:
            raise Refusal(error)
        return answer

    def see_to(self, group: ConsumerGroup) -> None:
        """Carry out what a group wants after an input: rows, a target, topics of regular expressions."""
        if group.changed:
            self._landing.write(group)
        if group.wanted is not None and group not in self._computing:
            self._compute(group)
        if not group.subscriptions.is_resolved and group not in self._resolving:
            self._start(self._resolving, group, self._resolve_all(group))
        self._alarms.set_timer()

    def drop(self, group: ConsumerGroup, also: Iterable[Put | Delete] = ()) -> asyncio.Task[ErrorCode]:
        """A group is no longer: submit the deletion of its rows, after `also` in one record."""
        rows = self.rows_of(group)
        group.die()
        return self._journal.write_rows([*also, *rows])

    def rows_of(self, group: ConsumerGroup) -> list[Delete]:
        """What deletes a group's rows."""
        return [Delete(CONSUMER_TABLE, encode_key(group.group_id, key)) for key in all_keys(group)]

    def also(self, group: ConsumerGroup, change: Put | Delete) -> None:
        """Store a change together with the group's next rows, in the record of its head."""
        self._landing.also(group, change)

    # Storing

    async def stored(self, group: ConsumerGroup) -> ErrorCode:
        """Wait until everything that changed so far is durable."""
        return await self._landing.stored(group)

    def is_storing(self, group: ConsumerGroup) -> bool:
        return self._landing.is_storing(group)

    # Targets and topics

    def _compute(self, group: ConsumerGroup) -> None:
        wanted, group.wanted = group.wanted, None
        assert wanted is not None

        async def compute() -> None:
            targets = await asyncio.to_thread(ASSIGNORS[wanted.assignor], wanted.spec)
            group.assigned(wanted.epoch, targets, self._now())
            self._report(group)

        self._start(self._computing, group, compute())

    async def _computed(self, group: ConsumerGroup) -> None:
        """Wait for the target that is being computed, if one is."""
        if computing := self._computing.get(group):
            await asyncio.wait([computing])

    def _resolve(self, pattern: str) -> frozenset[str] | None:
        """The topics of a regular expression, if there are few enough topics to look at once. Raises Refusal."""
        regexes.check(pattern)
        if len(self._topics) > regexes.NAMES_AT_ONCE:
            return None
        return regexes.matching(pattern, self._names())

    async def _resolve_all(self, group: ConsumerGroup) -> None:
        found = await regexes.matching_each(list(group.subscriptions.regexes), self._names)
        group.resolved({regex: self._seen(group, regex, topics) for regex, topics in found.items()}, self._now())

    def _seen(self, group: ConsumerGroup, regex: str, topics: frozenset[str]) -> frozenset[str]:
        """Those of the topics that members may see; after a start, until one has come, no new ones."""
        subscriptions = group.subscriptions
        if self._asks_rights and regex not in subscriptions.sights:
            return topics & subscriptions.resolved.get(regex, frozenset())
        return subscriptions.visible(regex, topics)

    def _names(self) -> list[str]:
        return [stream.name for stream in self._topics]

    def topic_changed(self, stream: Stream) -> None:
        """A topic came, went or grew: groups are told soon."""
        self._changed_topics.add(stream.name)
        if self._topics_task is None or self._topics_task.done():
            self._topics_task = asyncio.create_task(self._look_later())

    async def _look_later(self) -> None:
        while self._changed_topics and self._is_active:
            await asyncio.sleep(TOPICS_SETTLE_S)
            changed, self._changed_topics = self._changed_topics, set()
            await self._look_at_topics(changed)

    async def _look_at_topics(self, changed: set[str] | None) -> None:
        """Tell the groups of changed topics; None: of all topics."""
        async for group in in_turns(list(self._groups())):
            if group.subscriptions.regexes and changed is None:
                await self._resolve_all(group)
            elif group.subscriptions.regexes and changed is not None:
                group.resolved(self._resolved_anew(group, changed), self._now())
            if changed is None or any(map(group.subscriptions.wants, changed)):
                group.topics_changed(self._now())
            self._see_to_itself(group)
        if self._changed_topics:
            await self._look_later()

    def _resolved_anew(self, group: ConsumerGroup, changed: set[str]) -> Mapping[str, frozenset[str]]:
        """The topics of a group's regular expressions, only the changed topics looked at."""
        present = {name for name in changed if self._topics.get(name) is not None}
        return {
            pattern: (topics - changed) | self._seen(group, pattern, regexes.matching(pattern, present))
            for pattern, topics in group.subscriptions.resolved.items()
        }

    def _start(self, tasks: dict[ConsumerGroup, asyncio.Task[None]], group: ConsumerGroup, work: Any) -> None:
        """Work for a group, one of its kind at a time; then see to the group again."""
        task = tasks[group] = asyncio.create_task(work)

        def ended(task: asyncio.Task[None]) -> None:
            del tasks[group]
            if not task.cancelled():
                if failure := task.exception():
                    _log.error("a consumer group's work failed", extra={"group": group.group_id}, exc_info=failure)
                self._see_to_itself(group)

        task.add_done_callback(ended)

    # Time

    def _now(self) -> Instant:
        return Instant(self._clock.monotonic_s(), self._trusted.stamp_ms())

    def expire_due(self) -> None:
        """Fire every deadline that has passed."""
        self._alarms.expire_due()

    def _expired(self, group_id: str) -> None:
        group = self._find(group_id)
        if group is not None:
            self._see_to_itself(group)

    def _see_to_itself(self, group: ConsumerGroup) -> None:
        self.see_to(group)
        self._seen_to(group)

    def _report(self, group: ConsumerGroup) -> None:
        facts = {"group": group.group_id, "epoch": group.epoch, "members": group.member_count}
        if group.epoch == group.target_epoch:
            _log.info("consumer group has a new target", extra={**facts, "assignor": group.assignor})
        else:
            _log.debug("consumer group has a new epoch", extra=facts)


class _TopicView:
    """The topics as groups see them."""

    def __init__(self, topics: VisibleTopics) -> None:
        self._topics = topics

    def topic(self, name: str) -> Topic | None:
        stream = self._topics.get(name)
        return None if stream is None else Topic(stream.uuid, stream.slot_count)

    def name_of(self, topic_id: UUID) -> str | None:
        stream = self._topics.by_uuid(topic_id)
        return None if stream is None else stream.name


def _change(group: ConsumerGroup, key: RowKey) -> Put | Delete:
    value = row(group, key)
    encoded = encode_key(group.group_id, key)
    return Delete(CONSUMER_TABLE, encoded) if value is None else Put(CONSUMER_TABLE, encoded, value)


def _unfinished(group: ConsumerGroup) -> Put:
    return Put(CONSUMER_TABLE, encode_key(group.group_id, HEAD), unfinished_head(group))
