"""What a consumer group knows of the world around it: the operator's settings, topics, regular expressions.

Keeps: a group asks these and nothing else; none of them waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.groups.classic.allowance import Allowance
from gateway.groups.modern.topics import TopicView


class GroupSettings(NamedTuple):
    """One group's settings, as they are now."""

    session_timeout_ms: int
    heartbeat_interval_ms: int
    assignment_interval_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRules:
    """`assignors`: names in the operator's order, the first is the default. `resolve` gives the topics of a regular
    expression, or None if that takes too long to do at once; it raises Refusal for one that is invalid."""

    max_size: int
    assignors: tuple[str, ...]
    allowance: Allowance
    topics: TopicView
    settings: Callable[[str], GroupSettings]
    resolve: Callable[[str], frozenset[str] | None]
    new_id: Callable[[], str]
