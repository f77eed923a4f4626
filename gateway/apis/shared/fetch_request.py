"""What a Fetch asks for: its bounds, and its partitions, by itself or in a session.

Sessions: KIP-227. Topic ids: KIP-516, from version 13.

Keeps: every partition that a request names is looked at; of a session's others, those with news.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.apis.shared.slices import breathe, slices
from gateway.fetching.looking import Findings
from gateway.fetching.sessions import FINAL_EPOCH, INITIAL_EPOCH, FetchSession, Target, TopicKey
from gateway.network.turns import Stint
from gateway.quotas.quotas import FETCHED
from gateway.security.acls import Operation, ResourceType

if TYPE_CHECKING:
    from core.streams.live import Stream
    from gateway.network.connection import Connection
    from gateway.security.authorizer import Authorizer
    from gateway.wire.message import Message

READ, TOPIC = Operation.READ, ResourceType.TOPIC
SESSIONS_SINCE: Final = 7
TOPIC_IDS_SINCE: Final = 13
READ_COMMITTED: Final = 1


class FetchRequest(Findings):
    """One Fetch request, and its findings so far."""

    __slots__ = ("connection", "full", "min_bytes", "services", "session")

    def __init__(self, connection: Connection, version: int, request: Message) -> None:
        services = connection.services
        max_bytes: int = min(request.max_bytes, services.config.fetch_max_bytes)
        super().__init__(services.store, version, max_bytes, request.isolation_level == READ_COMMITTED)
        self.services = services
        self.connection = connection
        if services.quotas.is_on:
            most = services.quotas.most_at_once(FETCHED, connection.principal.name, connection.client_id)
            self.max_bytes = self.max_bytes if most is None else min(self.max_bytes, int(most))
        if services.authorizer is not None:
            self.may_read = partial(_may_read, services.authorizer, connection)
        self.min_bytes: int = min(request.min_bytes, max_bytes)
        self.session: FetchSession | None = None
        self.full = True  # the answer has every partition, not only those with news

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
        stint = self.stint()
        for topic in request.forgotten_topics_data:
            for some in slices(topic.partitions):
                await breathe(stint)
                self._forget_partitions(topic.topic_id if with_ids else topic.topic, some)
        for topic in request.topics:
            for some in slices(topic.partitions):
                await breathe(stint)
                self._want(topic.topic_id if with_ids else topic.topic, some)
        if self.session is not None:
            self._keep_session(self.session)

    def stream(self, topic: TopicKey) -> Stream | None:
        """The topic, if it is served."""
        return self.services.readable(topic)

    def stint(self) -> Stint:
        """The time that its next steps may take."""
        return Stint(self.connection.turns, self.connection.party)

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


def _may_read(authorizer: Authorizer, connection: Connection, name: str) -> bool:
    """At each look: rights may be taken away while a fetch waits."""
    return authorizer.rights_of(connection).may(READ, TOPIC, name, "Fetch")
