"""One member of a streams group: what it is, what it has, what it must give up.

Keeps: no task is both assigned in a role and being revoked in it. A member decides nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.groups.deadlines import Deadline
from gateway.groups.modern.group import GroupAlarm
from gateway.groups.streams.messages import NOTHING_YET, Heartbeat, MemberRecord, MemberState

OWN_BYTES: Final = 512
"""Bytes that a member costs beside its texts, for the allowance of all groups."""
TAG_BYTES: Final = 64
"""Bytes that a client tag costs beside its texts."""


class Member:
    """A member of a streams group."""

    __slots__ = ("current", "rebalance", "record", "session")

    #: Set by the group, which acts when they pass.
    session: Deadline[GroupAlarm]
    rebalance: Deadline[GroupAlarm]

    def __init__(self, record: MemberRecord) -> None:
        self.record = record
        self.current = NOTHING_YET

    def __repr__(self) -> str:
        return f"Member({self.member_id}, epoch {self.epoch}, {self.current.state.name})"

    @property
    def member_id(self) -> str:
        return self.record.member_id

    @property
    def process_id(self) -> str:
        return self.record.process_id

    @property
    def epoch(self) -> int:
        return self.current.epoch

    @property
    def size_bytes(self) -> int:
        return size_of(self.record)

    @property
    def is_giving_up(self) -> bool:
        return self.current.state is MemberState.UNREVOKED_TASKS

    def is_reconciled_to(self, target_epoch: int) -> bool:
        return self.current.state is MemberState.STABLE and self.epoch == target_epoch


def updated(before: MemberRecord | None, request: Heartbeat) -> MemberRecord:
    """The member as a heartbeat describes it: what is null stays as it was."""
    if before is None:
        before = MemberRecord(
            member_id=request.member_id,
            rack_id=None,
            client_id="",
            client_host="",
            rebalance_timeout_ms=-1,
            topology_epoch=-1,
            process_id="",
            endpoint=None,
            tags=(),
        )
    record = replace(before, client_id=request.client_id, client_host=request.client_host)
    if request.rack_id is not None:
        record = replace(record, rack_id=request.rack_id)
    if request.rebalance_timeout_ms != -1:
        record = replace(record, rebalance_timeout_ms=request.rebalance_timeout_ms)
    if request.topology is not None:
        record = replace(record, topology_epoch=request.topology.epoch)
    if request.process_id is not None:
        record = replace(record, process_id=request.process_id)
    if request.endpoint is not None:
        record = replace(record, endpoint=request.endpoint)
    if request.tags is not None:
        record = replace(record, tags=tuple(sorted(request.tags.items())))
    return record


def size_of(record: MemberRecord) -> int:
    """Bytes that a member holds of its client's texts, and the cost of a member."""
    size = OWN_BYTES + len(record.member_id) + len(record.client_id) + len(record.process_id)
    size += len(record.rack_id or "") + len(record.endpoint.host if record.endpoint is not None else "")
    return size + sum(len(key) + len(value) + TAG_BYTES for key, value in record.tags)
