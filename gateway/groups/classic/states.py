"""The states of a classic group, and every transition between them.

Keeps: a group changes its state only as this table allows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class GroupState(enum.StrEnum):
    """Named as Kafka's tools show them."""

    EMPTY = "Empty"  # no members; lives on for its committed offsets
    PREPARING_REBALANCE = "PreparingRebalance"  # members are asked to join again
    COMPLETING_REBALANCE = "CompletingRebalance"  # all have joined; the leader assigns
    STABLE = "Stable"  # every member has, or may fetch, its assignment
    DEAD = "Dead"  # deleted; nothing leaves this state


TRANSITIONS: Final[Mapping[GroupState, frozenset[GroupState]]] = {
    GroupState.EMPTY: frozenset({GroupState.PREPARING_REBALANCE, GroupState.DEAD}),
    GroupState.PREPARING_REBALANCE: frozenset({GroupState.COMPLETING_REBALANCE, GroupState.EMPTY, GroupState.DEAD}),
    GroupState.COMPLETING_REBALANCE: frozenset({GroupState.STABLE, GroupState.PREPARING_REBALANCE, GroupState.DEAD}),
    GroupState.STABLE: frozenset({GroupState.PREPARING_REBALANCE, GroupState.DEAD}),
    GroupState.DEAD: frozenset(),
}

#: States from which a rebalance may begin: all except PreparingRebalance and Dead.
CAN_REBALANCE: Final = frozenset(
    state for state, following in TRANSITIONS.items() if GroupState.PREPARING_REBALANCE in following
)
