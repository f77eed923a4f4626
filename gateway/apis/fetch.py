"""Fetch (key 1), versions 4-18. Answers at once from memory where it can, waits without a task.

Sessions: KIP-227. Topic ids: KIP-516, from version 13. Topics whose `compression.type` is zstd: KIP-110, from version
10.

A fetch of more than LOOKS_AT_ONCE partitions goes through them as a task that gives way. It looks at them at most
LONG_LOOKS_MAX times, however often it is woken. An answer has at most ENTRIES_AT_ONCE entries from memory; none is kept
while the fetch waits for more. A fetch whose peer has left looks at nothing.

Keeps: the first partition that has anything returns at least one whole batch, whatever the limits (KIP-74); nothing
at or beyond the high watermark is returned, nor beyond the last stable offset to read_committed; a client gets a
partition's records as they were produced, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from core.errors import (
    NotHosted,
    StorageFailure,
)
from core.streams.entries import ENTRIES_AT_ONCE
from gateway.apis.shared.leaders import hints_of
from gateway.dispatch.registry import Api
from gateway.dispatch.request_tasks import timed
from gateway.dispatch.route import took
from gateway.dispatch.time_quota import time_pause_ms
from gateway.fetching.cold_reads import ColdReads
from gateway.fetching.looking import ColdRead, Findings
from gateway.fetching.sessions import FINAL_EPOCH, INITIAL_EPOCH, FetchSession, Target, TopicKey
from gateway.network.turns import Stint, is_out_of_turn
from gateway.quotas.quotas import FETCHED
from gateway.refusals import Refusal
from gateway.security.acls import CLUSTER_NAME, Operation, ResourceType
from gateway.wire.codec import request_codec
from gateway.wire.error_codes import NOT_LEADER_OR_FOLLOWER, TOPIC_AUTHORIZATION_FAILED
from gateway.wire.leader_hints import FETCH_SINCE, encode_fetch_with_hints
from gateway.wire.responses import FetchedPartition, encode_fetch_response

if TYPE_CHECKING:
    from core.container.container import Container
    from core.streams.live import Stream
    from gateway.network.connection import Connection
    from gateway.network.response_slot import Part, ResponseSlot
    from gateway.security.authorizer import Authorizer
    from gateway.wire.headers import RequestHeader
    from gateway.wire.message import Message

logger = logging.getLogger(__name__)


KEY: Final = 1
READ, TOPIC = Operation.READ, ResourceType.TOPIC
SESSIONS_SINCE: Final = 7
TOPIC_IDS_SINCE: Final = 13
REPLICA_STATE_SINCE: Final = 15
READ_COMMITTED: Final = 1

MAX_WAIT_MS: Final = 60_000
"""Longest wait for news, in ms, whatever a client asks for: a request that waits holds room that others need."""
GIVE_WAY_S: Final = 0.02
"""Longest wait of a reader of history for appends: it must not wait for a disk that stands still."""
SCARCE_BYTES: Final = 64 * 1024
"""Records of an answer, or one batch, while others use all the room for answers: a socket takes as much at once."""
LOOKS_AT_ONCE: Final = 256
"""Partitions that are looked at, or answered, between two looks at the clock."""
LONG_LOOKS_MAX: Final = 3
"""How often a fetch that gives way looks at its partitions; after that it answers with what there is."""

_now: Final = time.perf_counter
_T = TypeVar("_T")


class _Fetch(Findings):
    """One Fetch request on its way."""

    __slots__ = (
        "connection",
        "deadline_s",
        "done",
        "full",
        "gave_way",
        "late",
        "long_looks",
        "looking",
        "min_bytes",
        "reads",
        "reply",
        "services",
        "session",
        "timer",
        "waited",
    )

    def __init__(self, connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
        services = connection.services
        max_bytes: int = min(request.max_bytes, services.config.fetch_max_bytes)
        super().__init__(services.store, version, max_bytes, request.isolation_level == READ_COMMITTED)
        self.services = services
        self.connection = connection
        self.reply = reply
        if services.quotas.is_on:
            most = services.quotas.most_at_once(FETCHED, connection.principal.name, connection.client_id)
            self.max_bytes = self.max_bytes if most is None else min(self.max_bytes, int(most))
        if services.authorizer is not None:
            self.may_read = partial(_may_read, services.authorizer, connection)
        self.done = False
        self.min_bytes: int = min(request.min_bytes, max_bytes)
        self.session: FetchSession | None = None
        self.full = True  # the answer has every partition, not only those with news
        self.waited = request.max_wait <= 0
        self.deadline_s = min(request.max_wait, MAX_WAIT_MS) / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.looking = False  # as a task that gives way
        self.long_looks = 0
        self.late: list[Target] = []  # partitions that were, or should have been, read from long-term storage
        self.reads: ColdReads | None = None  # under way
        self.gave_way = False  # to appends: once is enough

    # --- Request ------------------------------------------------------------------------------

    def read_request(self, request: Message) -> None:
        """Find the partitions, in a session or not. Raises Refusal."""
        self._find_session(request)
        with_ids = self.version >= TOPIC_IDS_SINCE
        for topic in request.forgotten_topics_data:
            self._forget_partitions(topic.topic_id if with_ids else topic.topic, topic.partitions)
        for topic in request.topics:
            self._want(topic.topic_id if with_ids else topic.topic, topic.partitions)
        if self.session is not None:
            self._keep_session(self.session)

    async def read_long_request(self, request: Message) -> None:
        """The same for a request that names many; it gives way in between."""
        self._find_session(request)
        self.wanted.watch()  # each partition from its arrival on
        with_ids = self.version >= TOPIC_IDS_SINCE
        stint = self._stint()
        for topic in request.forgotten_topics_data:
            for some in slices(topic.partitions):
                await _breathe(stint)
                self._forget_partitions(topic.topic_id if with_ids else topic.topic, some)
        for topic in request.topics:
            for some in slices(topic.partitions):
                await _breathe(stint)
                self._want(topic.topic_id if with_ids else topic.topic, some)
        if self.session is not None:
            self._keep_session(self.session)

    def _find_session(self, request: Message) -> None:
        with_ids = self.version >= TOPIC_IDS_SINCE
        sessions = self.services.fetch_sessions
        session_id, epoch = request.session_id, request.session_epoch
        if self.version < SESSIONS_SINCE or epoch == FINAL_EPOCH:
            sessions.remove(session_id)
        elif epoch == INITIAL_EPOCH:
            sessions.remove(session_id)
            self.session = sessions.create(with_ids) if request.topics else None
        else:
            self.session = sessions.take(session_id, epoch, with_ids)
            self.full = False
        if self.session is not None:
            self.wanted = self.session
        self.wanted.committed = self.committed

    def _keep_session(self, session: FetchSession) -> None:
        if self.services.fetch_sessions.keep(session):
            session.watch()
        else:
            self.session = None  # the answer says so: the client names all partitions in its next fetch

    def _forget_partitions(self, topic: TopicKey, indices: Sequence[int]) -> None:
        for index in indices:
            self.wanted.remove(topic, index)

    def _want(self, topic: TopicKey, partitions: Sequence[Message]) -> None:
        wanted = self.wanted
        for partition in partitions:
            target = wanted.targets.get((topic, partition.partition))
            if target is None:
                target = Target(topic, partition.partition)
                target.find_slot(self.stream)
            target.offset = partition.fetch_offset
            target.max_bytes = partition.partition_max_bytes
            target.leader_epoch = partition.current_leader_epoch
            wanted.put(target)

    def stream(self, topic: TopicKey) -> Stream | None:
        return self.services.readable(topic)

    # --- Evaluation ---------------------------------------------------------------------------

    def run(self) -> None:
        """Look at the partitions that may have news, then answer or wait."""
        if self.done or self.looking:
            return
        if self.reads is not None:
            self.reads.lose_patience()  # the fetch goes on when the reads under way have ended
            return
        if self.connection.output_room() <= 0:
            if not self.connection.takes_more():
                self.connection.when_output_room(self._run_in_turn)
                return
            self._ask_for_little()
        todo = list(self.wanted.dirty)
        if len(todo) > LOOKS_AT_ONCE:
            self._begin(self.run_long(todo))
            return
        self.wanted.find_slots(self.stream, todo)
        if self._gives_way(todo):
            return
        cold: list[ColdRead] = []
        left: list[Target] = []
        self.choose(todo, cold, left)
        if not cold:
            self._decide()
            return
        self._begin(self._run_cold(cold, left))

    def _ask_for_little(self, cold: Sequence[ColdRead] = ()) -> None:
        """Others use all the room for answers."""
        self.max_bytes = min(self.max_bytes, SCARCE_BYTES)
        self.min_bytes = min(self.min_bytes, self.max_bytes)
        for read in cold:
            read.room = min(read.room, SCARCE_BYTES)

    async def run_long(self, todo: Sequence[Target]) -> None:
        """Look at many partitions; give way in between."""
        self.looking = True
        try:
            stint = self._stint()
            for some in slices(todo):
                await _breathe(stint)
                if self.connection.closed:
                    break
                self.wanted.find_slots(self.stream, some)
            gives_way = self._gives_way(todo)
            if not gives_way:
                self.long_looks += 1
                cold, left = await self._choose_of_many(todo)
        finally:
            self.looking = False
        if gives_way:
            return
        if self.long_looks >= LONG_LOOKS_MAX:
            self.urgent = True
        if cold and not self.connection.closed:
            await self._run_cold(cold, left)
        else:
            self._decide_after_others()

    def _stint(self) -> Stint:
        return Stint(self.connection.turns, self.connection.party)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on as a task, whose steps are turns of the connection's party."""
        task = asyncio.get_running_loop().create_task(timed(work, self.connection, self.reply.route, 0))
        task.add_done_callback(self._task_done)

    def _go_on(self) -> None:
        """There is news, or it is time to answer: run when it is the party's turn."""
        if is_out_of_turn(self.connection.party) and not self.connection.closed:
            self.connection.turns.wait(self.connection.party, self._run_in_turn)
        else:
            self._run_in_turn()

    def _run_in_turn(self) -> bool:
        began_s = _now()
        if not (self.done or self.looking) and self.connection.peer_left():
            self._abandon()
        else:
            self.run()
        took(self.connection, self.reply.route, _now() - began_s, 0)
        return False

    def _gives_way(self, todo: Sequence[Target]) -> bool:
        """A fetch that only reads history waits, once, for the appends under way: a megabyte for it keeps a processor
        from them for a millisecond, and they have two threads to go through."""
        if self.gave_way:
            return False
        container: Container | None = None
        for target in todo:
            slot = target.slot
            if slot is None or target.offset >= slot.tiered_end:
                return False
            try:
                container = self.services.store.hosted(slot).container
            except NotHosted:
                return False
            if container.is_all_durable:
                return False
        if container is None:
            return False
        self.gave_way = True
        waiting = asyncio.ensure_future(_settled(container))
        waiting.add_done_callback(lambda _: self._go_on())
        return True

    async def _choose_of_many(self, todo: Sequence[Target]) -> tuple[list[ColdRead], list[Target]]:
        cold: list[ColdRead] = []
        left: list[Target] = []
        stint = self._stint()
        for some in slices(todo):
            await _breathe(stint)
            if self.connection.closed:
                break
            self.choose(some, cold, left)
        return cold, left

    async def _run_cold(self, cold: list[ColdRead], left: list[Target]) -> None:
        self.keep_copies()
        reads = self.reads = ColdReads(self, self.min_bytes, self.deadline_s, self._choose_of_many, self._woken)
        try:
            async with self.connection.reading():
                if self.connection.output_room() <= 0:
                    self._ask_for_little(cold)
                out_of_time = await reads.run(cold, left)
        finally:
            self.reads = None
        self.late = reads.late
        if out_of_time:
            await self._look_again()
        self._decide_after_others()

    def _woken(self) -> None:
        """There are enough new entries, while others are being read or just after."""
        if self.reads is not None:
            self.reads.lose_patience()
        else:
            self._go_on()

    async def _look_again(self) -> None:
        """It is time to answer: leave out the partitions that came too late; others may have news meanwhile."""
        self.waited = True
        left_out = set(self.late)
        again = [target for target in self.wanted.dirty if target not in left_out]
        stint = self._stint()
        for some in slices(again):
            await _breathe(stint)
            for target in some:
                cold = self.look(target)
                if cold is not None:
                    self.add(target, cold.slot, None)

    def _task_done(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.error("fetch failed", exc_info=task.exception())
            self._finish()
            self.reply.close("a fetch failed; the gateway's log says why")

    # --- Waiting and answering ----------------------------------------------------------------

    def _decide_after_others(self) -> None:
        """Decide after other requests had the loop: the peer may have left meanwhile."""
        if self.done:
            return
        if self.connection.peer_left():
            self._abandon()
        else:
            self._decide()

    def _decide(self) -> None:
        is_enough = self.size >= self.min_bytes or self.entries >= ENTRIES_AT_ONCE
        if is_enough or self.waited or self.urgent or not self.wanted.targets:
            if len(self.results) > LOOKS_AT_ONCE:
                self._begin(self._answer_of_many())
            else:
                self._answer()
            return
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.deadline_s, self._time_is_up)
            self.connection.on_close(self._finish)
            self.services.fetch_sessions.waiting[self._time_is_up] = None
        self.wanted.wait(self.min_bytes - self.size, self._go_on)
        if self.size:
            self.keep_nothing()

    def _time_is_up(self) -> None:
        self.waited = True
        self.wanted.stop_waiting()
        self._go_on()

    def _abandon(self) -> None:
        """The peer has left: no answer is needed."""
        self._finish()
        self.connection.abandon(self.reply)

    def _finish(self) -> None:
        """Nothing more will happen to this request."""
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
            self.connection.forget_on_close(self._finish)
            self.services.fetch_sessions.waiting.pop(self._time_is_up, None)
        if self.session is None or self.session.ended:
            self.wanted.close()
        else:
            self.wanted.stop_waiting()

    def _answer(self) -> None:
        if self.done:
            return
        self._finish()
        if self._is_throttled():
            return
        topics: dict[TopicKey, list[FetchedPartition]] = {}
        self._tell(self.results.items(), topics, set(self.late))
        self.services.metrics.fetched_bytes += self.size
        session_id = 0 if self.session is None else self.session.id
        answer: list[Part] | None = None
        if self.version >= FETCH_SINCE and not self.services.nodes.is_alone:
            answer = self._with_hints(topics, session_id)
        self.reply.send(answer or self._encode(topics, session_id)())

    def _with_hints(self, topics: Mapping[TopicKey, Sequence[FetchedPartition]], session_id: int) -> list[Part] | None:
        """The answer that names other leaders, if one was asked for their partitions."""
        refused = [
            (topic, told.partition)
            for topic, partitions in topics.items()
            for told in partitions
            if told.error_code == NOT_LEADER_OR_FOLLOWER
        ]
        hints = hints_of(self.services, self.connection.listener, refused)
        if hints is None:
            return None
        return [encode_fetch_with_hints(self.version, list(topics.items()), hints, session_id)]

    async def _answer_of_many(self) -> None:
        """Give way in between, and encode the answer in a thread."""
        if self.done:
            return
        self._finish()
        if self._is_throttled():
            return
        topics: dict[TopicKey, list[FetchedPartition]] = {}
        late = set(self.late)
        stint = self._stint()
        for some in slices(list(self.results.items())):
            await _breathe(stint)
            self._tell(some, topics, late)
        self.services.metrics.fetched_bytes += self.size
        session_id = 0 if self.session is None else self.session.id
        self.reply.send(await self.connection.aside(self._encode(topics, session_id)))

    def _encode(
        self, topics: Mapping[TopicKey, Sequence[FetchedPartition]], session_id: int
    ) -> Callable[[], list[Part]]:
        """Makes the answer, which is given with its records though its client must pause for its time."""
        told, pause_ms = list(topics.items()), time_pause_ms(self.connection)
        return partial(encode_fetch_response, self.version, told, throttle_ms=pause_ms, session_id=session_id)

    def _is_throttled(self) -> bool:
        """Answer without any partition if these bytes would be more than the client's quota allows: it asks again after
        the pause, and what it was not told stays news."""
        quotas, connection = self.services.quotas, self.connection
        if not quotas.is_on:
            return False
        user, client_id = connection.principal.name, connection.client_id
        pause_ms = quotas.count(FETCHED, user, client_id, self.size)
        if not pause_ms:
            return False
        quotas.take_back(FETCHED, user, client_id, self.size)
        for target in self.results:
            if self.wanted.targets.get((target.topic, target.index)) is target:
                self.wanted.dirty[target] = None
        session_id = 0 if self.session is None else self.session.id
        self.reply.send(encode_fetch_response(self.version, [], throttle_ms=pause_ms, session_id=session_id))
        connection.mute(pause_ms)
        return True

    def _tell(
        self,
        results: Iterable[tuple[Target, FetchedPartition]],
        topics: dict[TopicKey, list[FetchedPartition]],
        late: set[Target],
    ) -> None:
        """Collect the results that the client does not know yet."""
        dirty = self.wanted.dirty
        for target, result in results:
            code, size = result.error_code, result.size
            end, start = result.high_watermark, result.log_start_offset
            if self.full or size or code or end != target.sent_end or start != target.sent_start:
                topics.setdefault(target.topic, []).append(result)
                target.sent_end, target.sent_start = end, start
            if (size or target in late) and target in dirty:
                # It may have more: its turn comes again, after all others.
                del dirty[target]
                dirty[target] = None


def _may_read(authorizer: Authorizer, connection: Connection, name: str) -> bool:
    """At each look: rights may be taken away while a fetch waits."""
    return authorizer.rights_of(connection).may(READ, TOPIC, name, "Fetch")


def slices(items: Sequence[_T]) -> Iterable[Sequence[_T]]:
    """Slices of LOOKS_AT_ONCE items. An empty sequence has one slice, too, so that many empty ones also give way."""
    if len(items) <= LOOKS_AT_ONCE:
        return (items,)
    return (items[first : first + LOOKS_AT_ONCE] for first in range(0, len(items), LOOKS_AT_ONCE))


async def _breathe(stint: Stint) -> None:
    if stint.is_over:
        await stint.give_way()


async def _settled(container: Container) -> None:
    """Wait until the appends under way are durable or have failed; not longer than `GIVE_WAY_S`."""
    with contextlib.suppress(TimeoutError, StorageFailure):
        async with asyncio.timeout(GIVE_WAY_S):
            await container.all_durable()


def fetch(connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
    """Answer a Fetch, now or when there is enough. Raises MalformedRequest."""
    if (connection.blocked or connection.half_closed or len(connection.slots) > 1) and connection.peer_left():
        connection.abandon(reply)
        return
    version = header.api_version
    request = request_codec(KEY, version).decode(body)
    if (request.replica_state.replica_id if version >= REPLICA_STATE_SINCE else request.replica_id) >= 0:
        reply.send(_refuse_replica(version, request, _code_for_replica(connection)))
        return
    running = _Fetch(connection, version, request, reply)
    try:
        running.read_request(request)
    except Refusal as error:
        reply.send(encode_fetch_response(version, [], error_code=error.code))
        return
    running.run()


async def fetch_long(connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
    """Answer a Fetch that names many partitions; returns when it is answered or waits."""
    if connection.peer_left():
        connection.abandon(reply)
        return
    if (request.replica_state.replica_id if version >= REPLICA_STATE_SINCE else request.replica_id) >= 0:
        reply.send(await connection.aside(_refuse_replica, version, request, _code_for_replica(connection)))
        return
    running = _Fetch(connection, version, request, reply)
    try:
        await running.read_long_request(request)
    except Refusal as error:
        reply.send(encode_fetch_response(version, [], error_code=error.code))
        return
    running.run()


def _code_for_replica(connection: Connection) -> int:
    """A replica needs the right of one, before it hears that none is served."""
    authorizer = connection.services.authorizer
    if authorizer is None:
        return NOT_LEADER_OR_FOLLOWER
    rights = authorizer.rights_of(connection)
    is_broker = rights.may(Operation.CLUSTER_ACTION, ResourceType.CLUSTER, CLUSTER_NAME, API.name)
    return NOT_LEADER_OR_FOLLOWER if is_broker else TOPIC_AUTHORIZATION_FAILED


def _refuse_replica(version: int, request: Message, code: int) -> list[Any]:
    """No broker replicates from here: a fetch in a replica's name must not move anything."""
    topics: list[tuple[TopicKey, list[FetchedPartition]]] = [
        (
            topic.topic_id if version >= TOPIC_IDS_SINCE else topic.topic,
            [FetchedPartition(p.partition, code) for p in topic.partitions],
        )
        for topic in request.topics
    ]
    return list(encode_fetch_response(version, topics))


API: Final = Api(key=KEY, name="Fetch", versions=range(4, 19), handle_raw=fetch, handle_long=fetch_long)
