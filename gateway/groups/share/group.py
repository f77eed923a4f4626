"""A share group's members (KIP-932): who is in it, and which partitions each reads; a partition may have many readers.

A pure state machine. Members are not stored: after a restart each joins again with its next heartbeat, and takes the
records that nobody settled. Only the epoch is, so that no epoch is ever used twice.

Keeps: every partition of a subscribed topic has a reader, as long as the topic has a subscriber; the numbers of readers
of two partitions differ by one at most, if all members want the same topics. A member keeps what it may keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.groups.classic.allowance import Allowance
from gateway.groups.modern import allowing
from gateway.groups.modern.epochs import JOINING_EPOCH, LEAVING_EPOCH, fenced, full, unknown_member
from gateway.groups.modern.subscriptions import Subscriptions
from gateway.groups.modern.topics import TopicView
from gateway.groups.share.spreading import Partitions
from gateway.groups.share.targets import Draft, MemberDraft
from gateway.refusals import invalid_request

AT_ONCE_MAX: Final = 1_000
"""Members, partitions and subscribed names of a group whose targets are made at once; others are `wanted`."""
OWN_BYTES: Final = 512
"""Bytes that a member costs beside its texts, for the allowance of all groups."""
NAME_BYTES: Final = 64
"""Bytes that a subscribed topic costs beside its name."""


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

    @property
    def size_bytes(self) -> int:
        """For the allowance of all groups."""
        return OWN_BYTES + len(self.member_id) + len(self.client_id) + len(self.rack_id or "") + _size_of(self.names)


class ShareGroup:
    """See the module."""

    protocol_type = "share"

    def __init__(
        self, group_id: str, epoch: int, topics: TopicView, settings: Callable[[str], Settings], allowance: Allowance
    ) -> None:
        self.group_id = group_id
        self.epoch = epoch
        self.members: dict[str, Member] = {}
        self.subscriptions = Subscriptions(topics)
        #: Targets for the caller to compute; it tells the result by `assigned`.
        self.wanted: Draft | None = None
        self._settings = settings
        self._allowance = allowance
        self._targets: dict[str, Partitions] = {}
        self._signature = 0
        """Of the subscribed topics as they were when the targets were made."""
        self._must_assign = False
        self._is_assigning = False

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

    def awaits_target(self, member_id: str) -> bool:
        """Has a member no target yet?"""
        return member_id in self.members and member_id not in self._targets

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
            self._subscribe(member, request.names)
        self.look()
        return self.answer(request)

    def answer(self, request: Heartbeat) -> Answer:
        """What a member of the group is told. Raises Refusal."""
        member = self._known(request.member_id)
        is_news = member.epoch != self.epoch or request.epoch == JOINING_EPOCH
        if member.epoch != self.epoch:
            member.previous_epoch, member.epoch = member.epoch, self.epoch
        is_behind = request.epoch != member.epoch
        assignment = self.target_of(member.member_id) if is_news or is_behind else None
        interval_ms = self._settings(self.group_id).heartbeat_interval_ms
        return Answer(member.member_id, member.epoch, interval_ms, assignment)

    def _joined(self, request: Heartbeat, settings: Settings) -> Member:
        member = self.members.get(request.member_id)
        if member is not None:
            return member
        if request.names is None:
            raise invalid_request("SubscribedTopicNames must be set in first request.")
        if len(self.members) >= settings.max_size:
            raise full("share", settings.max_size)
        member = Member(
            member_id=request.member_id,
            rack_id=request.rack_id,
            client_id=request.client_id,
            client_host=request.client_host,
            names=request.names,
        )
        allowing.check_size(self._allowance, member.size_bytes, 0)
        self._allowance.used += member.size_bytes
        self.members[member.member_id] = member
        self.subscriptions.add(member.names, "")
        self._must_assign = True
        return member

    def _subscribe(self, member: Member, names: frozenset[str]) -> None:
        before = member.size_bytes
        size = before + _size_of(names) - _size_of(member.names)
        allowing.check_size(self._allowance, size, before)
        self._allowance.used += size - before
        self.subscriptions.add(names, "")
        self.subscriptions.remove(member.names, "")
        member.names = names
        self._must_assign = True

    def _returned(self, request: Heartbeat) -> Member:
        member = self._known(request.member_id)
        if request.epoch not in (member.epoch, member.previous_epoch):
            raise fenced("share", request.epoch, member.epoch)
        return member

    def _known(self, member_id: str) -> Member:
        member = self.members.get(member_id)
        if member is None:
            raise unknown_member(member_id, self.group_id)
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
            member = self.members.pop(member_id)
            self.subscriptions.remove(member.names, "")
            self._allowance.used -= member.size_bytes
        self._must_assign = True
        self.look()

    def die(self) -> None:
        """The group is deleted or unloaded: no memory is left of it."""
        self._allowance.used -= sum(member.size_bytes for member in self.members.values())
        self.members.clear()

    # Topics and targets

    def topics_changed(self, names: list[str]) -> None:
        """These topics came, went or grew."""
        self.subscriptions.topics_changed(names)
        self.look()

    def look(self) -> None:
        """Look at topics that are newly wanted, or have changed; make new targets, if need be, when that is done."""
        self.subscriptions.look()
        if not self.subscriptions.is_seen or self._is_assigning:
            return
        if self._must_assign or self.subscriptions.signature != self._signature:
            self._assign()

    def _assign(self) -> None:
        self._must_assign = False
        self._signature = self.subscriptions.signature
        names = sum(len(member.names) for member in self.members.values())
        draft = Draft(
            tuple(MemberDraft(member.member_id, member.names) for member in self.members.values()),
            dict(self._targets),
            dict(self.subscriptions.topics),
        )
        if len(self.members) + names + self.subscriptions.partition_count > AT_ONCE_MAX:
            self._is_assigning = True
            self.wanted = draft
        else:
            self._take(draft.compute())

    def assigned(self, targets: dict[str, Partitions]) -> None:
        """The wanted targets are computed."""
        self._is_assigning = False
        self._take(targets)
        self.look()

    def _take(self, targets: dict[str, Partitions]) -> None:
        """Give the group a new epoch, in which each partition of a topic has readers among the topic's subscribers."""
        self.epoch += 1
        self._targets = {member_id: target for member_id, target in targets.items() if member_id in self.members}


def _size_of(names: frozenset[str]) -> int:
    return sum(map(len, names)) + NAME_BYTES * len(names)
