"""A share group's members (KIP-932): who is in it, and which partitions each reads; a partition may have many readers.

A pure state machine. Members are not stored: after a restart each joins again with its next heartbeat, and takes the
records that nobody settled. Only the epoch is, so that no epoch is ever used twice.

Keeps: every partition of a subscribed topic has a reader, as long as the topic has a subscriber; the numbers of readers
of two partitions differ by one at most, if all members want the same topics. A member keeps what it may keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from kio.schema.errors import ErrorCode

from gateway.groups.share.spreading import Partitions, spread
from gateway.refusals import Refusal, invalid_request

JOINING_EPOCH = 0
LEAVING_EPOCH = -1


class Topic(NamedTuple):
    """A topic as an assignor sees it."""

    id: UUID
    partition_count: int


class TopicView(Protocol):
    """The topics that exist now."""

    def topic(self, name: str) -> Topic | None: ...


class Settings(NamedTuple):
    """One group's settings for its members, as they are now."""

    session_timeout_ms: int
    heartbeat_interval_ms: int
    max_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a member says; `names` is None if its subscription is as before."""

    member_id: str
    epoch: int
    rack_id: str | None
    names: frozenset[str] | None
    client_id: str
    client_host: str


class Answer(NamedTuple):
    """`assignment` is None when the member has it already."""

    member_id: str
    epoch: int
    interval_ms: int
    assignment: Partitions | None


@dataclass(slots=True, kw_only=True)
class Member:
    """One member. `epoch`: of the assignment that it was told last."""

    member_id: str
    rack_id: str | None
    client_id: str
    client_host: str
    names: frozenset[str]
    epoch: int = 0
    previous_epoch: int = 0
    silent_after_s: float = 0.0


class ShareGroup:
    """See the module."""

    protocol_type = "share"

    def __init__(self, group_id: str, epoch: int, topics: TopicView, settings: Callable[[str], Settings]) -> None:
        self.group_id = group_id
        self.epoch = epoch
        self.members: dict[str, Member] = {}
        self._topics = topics
        self._settings = settings
        self._targets: dict[str, Partitions] = {}
        self._seen: dict[str, Topic | None] = {}
        """The subscribed topics as they were when the targets were made."""

    def __repr__(self) -> str:
        return f"<ShareGroup {self.group_id!r} epoch {self.epoch}, {len(self.members)} members>"

    @property
    def is_empty(self) -> bool:
        return not self.members

    @property
    def state(self) -> str:
        """Kafka's word for it."""
        return "Stable" if self.members else "Empty"

    def target_of(self, member_id: str) -> Partitions:
        return self._targets.get(member_id, {})

    def heartbeat(self, request: Heartbeat, now_s: float) -> Answer:
        """One heartbeat. Raises Refusal."""
        if request.epoch == LEAVING_EPOCH:
            self._known(request.member_id)
            self._remove([request.member_id])
            return Answer(request.member_id, LEAVING_EPOCH, 0, None)
        settings = self._settings(self.group_id)
        member = self._joined(request, settings) if request.epoch == JOINING_EPOCH else self._returned(request)
        member.silent_after_s = now_s + settings.session_timeout_ms / 1_000
        if request.names is not None and request.names != member.names:
            member.names = request.names
            self._assign()
        elif member.member_id not in self._targets or self._seen != self._subscribed():
            self._assign()
        is_news = member.epoch != self.epoch or request.epoch == JOINING_EPOCH
        if member.epoch != self.epoch:
            member.previous_epoch, member.epoch = member.epoch, self.epoch
        is_behind = request.epoch != member.epoch
        assignment = self.target_of(member.member_id) if is_news or is_behind else None
        return Answer(member.member_id, member.epoch, settings.heartbeat_interval_ms, assignment)

    def _joined(self, request: Heartbeat, settings: Settings) -> Member:
        member = self.members.get(request.member_id)
        if member is not None:
            return member
        if request.names is None:
            raise invalid_request("SubscribedTopicNames must be set in first request.")
        if len(self.members) >= settings.max_size:
            told = f"The share group has reached its maximum capacity of {settings.max_size} members."
            raise Refusal(ErrorCode.group_max_size_reached, told)
        member = self.members[request.member_id] = Member(
            member_id=request.member_id,
            rack_id=request.rack_id,
            client_id=request.client_id,
            client_host=request.client_host,
            names=request.names,
        )
        return member

    def _returned(self, request: Heartbeat) -> Member:
        member = self._known(request.member_id)
        if request.epoch not in (member.epoch, member.previous_epoch):
            than = "greater" if request.epoch > member.epoch else "smaller"
            told = (
                f"The share group member has a {than} member epoch ({request.epoch}) than the one known by the group "
                f"coordinator ({member.epoch}). The member must abandon all its partitions and rejoin."
            )
            raise Refusal(ErrorCode.fenced_member_epoch, told)
        return member

    def _known(self, member_id: str) -> Member:
        member = self.members.get(member_id)
        if member is None:
            raise Refusal(ErrorCode.unknown_member_id, f"Member {member_id} is not a member of group {self.group_id}.")
        return member

    def expire(self, now_s: float) -> None:
        """Remove the members that were silent for too long."""
        self._remove([member.member_id for member in self.members.values() if member.silent_after_s <= now_s])

    def next_expiry_s(self) -> float | None:
        """When the first member will have been silent for too long; None if there is none."""
        return min((member.silent_after_s for member in self.members.values()), default=None)

    def _remove(self, member_ids: list[str]) -> None:
        if not member_ids:
            return
        for member_id in member_ids:
            del self.members[member_id]
        self._assign()

    def _subscribed(self) -> dict[str, Topic | None]:
        names = {name for member in self.members.values() for name in member.names}
        return {name: self._topics.topic(name) for name in names}

    def _assign(self) -> None:
        """Give the group a new epoch, in which each partition of a topic has readers among the topic's subscribers."""
        self.epoch += 1
        self._seen = self._subscribed()
        by_readers: dict[tuple[str, ...], list[Topic]] = {}
        for name in sorted(self._seen):
            topic = self._seen[name]
            if topic is not None:
                readers = tuple(sorted(each.member_id for each in self.members.values() if name in each.names))
                by_readers.setdefault(readers, []).append(topic)
        targets: dict[str, dict[UUID, set[int]]] = {member_id: {} for member_id in self.members}
        for readers, topics in by_readers.items():
            places = [(topic.id, number) for topic in topics for number in range(topic.partition_count)]
            for reader, (topic_id, number) in spread(readers, places, self._targets) if places else ():
                targets[reader].setdefault(topic_id, set()).add(number)
        self._targets = {
            member_id: {topic: frozenset(numbers) for topic, numbers in target.items()}
            for member_id, target in targets.items()
        }
