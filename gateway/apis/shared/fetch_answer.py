"""The answer to a Fetch: which of its findings the client is told, and in what bytes.

Keeps: a session's client is told of each partition only what it does not know yet; what a quota keeps from it stays
news.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gateway.apis.shared.fetch_request import FetchRequest
from gateway.apis.shared.leaders import hints_of
from gateway.apis.shared.slices import breathe, slices
from gateway.dispatch.time_quota import time_pause_ms
from gateway.fetching.sessions import Target, TopicKey
from gateway.quotas.quotas import FETCHED
from gateway.wire.error_codes import NOT_LEADER_OR_FOLLOWER
from gateway.wire.leader_hints import FETCH_SINCE, encode_fetch_with_hints
from gateway.wire.responses import FetchedPartition, encode_fetch_response

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.network.response_slot import Part, ResponseSlot
    from gateway.wire.message import Message


class AnsweredFetch(FetchRequest):
    """One Fetch request with its reply. It answers once: its caller sees to that."""

    __slots__ = ("late", "reply")

    def __init__(self, connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
        super().__init__(connection, version, request)
        self.reply = reply
        self.late: list[Target] = []  # partitions that were, or should have been, read from long-term storage

    def answer(self) -> None:
        """Answer with what was found."""
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

    async def answer_of_many(self) -> None:
        """The same for many partitions: give way in between, and encode the answer in a thread."""
        if self._is_throttled():
            return
        topics: dict[TopicKey, list[FetchedPartition]] = {}
        late = set(self.late)
        stint = self.stint()
        for some in slices(list(self.results.items())):
            await breathe(stint)
            self._tell(some, topics, late)
        self.services.metrics.fetched_bytes += self.size
        session_id = 0 if self.session is None else self.session.id
        self.reply.send(await self.connection.aside(self._encode(topics, session_id)))

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
