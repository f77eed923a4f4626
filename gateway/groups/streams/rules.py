"""What a streams group knows of the world around it: the operator's settings, and topics.

Keeps: a group asks these and nothing else; none of them waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.groups.classic.allowance import Allowance
from gateway.groups.modern.topics import TopicView
from gateway.groups.streams.messages import StreamsSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsRules:
    """`settings` of one group, as they are now."""

    max_size: int
    allowance: Allowance
    topics: TopicView
    settings: Callable[[str], StreamsSettings]
