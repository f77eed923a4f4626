"""The operator's settings of classic groups, and how large a group may be whatever they say.

Keeps: what a group does in one turn of the event loop, it does for MEMBERS_MAX members with PROTOCOLS_MAX protocols at
most. A group that an earlier release let grow larger is served, and becomes as small in its next rebalance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.groups.classic.allowance import Allowance

#: Members of a group: a rebalance looks at all of them in one turn, which takes 4 microseconds for each.
MEMBERS_MAX: Final = 5_000
#: Protocols of all members of a group together; members offer two or three.
PROTOCOLS_MAX: Final = 4 * MEMBERS_MAX
assert PROTOCOLS_MAX >= MEMBERS_MAX, "every member offers a protocol"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRules:
    """The operator's settings of groups, and the source of new ids."""

    initial_rebalance_delay_ms: int
    max_size: int
    new_id: Callable[[], str]
    allowance: Allowance


def members_max(wanted: int) -> int:
    """Members that a group may have where the operator wants that many (`group.max.size`)."""
    return min(wanted, MEMBERS_MAX)
