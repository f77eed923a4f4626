"""The facts of a classic group that rules and answers read: state, generation, protocol, members.

Keeps: facts decide nothing and change nothing. Only `Group`, which extends them, writes these attributes.
"""

from __future__ import annotations

from gateway.groups.classic.allowance import Allowance
from gateway.groups.classic.roster import Roster
from gateway.groups.classic.states import GroupState
from gateway.groups.classic.subscription import CONSUMER_PROTOCOL_TYPE


class GroupFacts:
    """A new group's facts: empty since `now_ms`, before its first generation."""

    def __init__(self, group_id: str, allowance: Allowance, now_ms: int) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.state_since_ms = now_ms
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.subscribed_topics: frozenset[str] | None = None
        self.roster = Roster(allowance)

    @property
    def is_empty(self) -> bool:
        return self.state is GroupState.EMPTY

    @property
    def is_idle(self) -> bool:
        """The group has no member and no member id that waits to be used."""
        return self.is_empty and not self.roster.pending

    @property
    def uses_consumer_protocol(self) -> bool:
        return self.protocol_type == CONSUMER_PROTOCOL_TYPE

    @property
    def member_count(self) -> int:
        return len(self.roster)

    @property
    def expiry_since_ms(self) -> int | None:
        """Since when committed offsets may expire, beside their own time; None: none does now."""
        if self.protocol_type is None:
            return 0
        if self.is_empty:
            return self.state_since_ms
        is_known = self.state is GroupState.STABLE and self.subscribed_topics is not None
        return 0 if is_known else None

    def is_subscribed_to(self, topic: str) -> bool:
        """Consumers whose subscriptions we cannot read count as subscribed to everything."""
        if self.subscribed_topics is None:
            return self.uses_consumer_protocol
        return topic in self.subscribed_topics
