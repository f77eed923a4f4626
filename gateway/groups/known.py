"""The groups of one coordinator, of every kind but share groups, by id.

Keeps: an id belongs to one group; there are no more groups than `groups.max` allows, whatever the number of
coordinators. A closed group is being deleted, or becomes one of another kind, in steps: it takes no member, nobody
commits to it, and no answer names it. What a transaction commits is its own all the same, unless it goes for good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from kio.schema.errors import ErrorCode

from gateway.groups.admission import AnyGroup
from gateway.groups.classic.allowance import Allowance

#: Characters of a client's name in a line of the log.
ID_SHOWN_CHARS_MAX: Final = 100

_G = TypeVar("_G", bound=AnyGroup)
_log: Final = logging.getLogger(__name__)


class GroupBudget(NamedTuple):
    """What the groups of a process may hold together, whatever the number of its coordinators."""

    allowance: Allowance
    groups_max: int
    groups: Callable[[], int]
    """How many there are."""
    is_shared: Callable[[str], bool] = lambda _: False
    """Whether a share group has this id, which no other can have then."""


class KnownGroups:
    """See the module."""

    def __init__(self, budget: GroupBudget) -> None:
        self._budget = budget
        self._groups: dict[str, AnyGroup] = {}
        self._by_kind: dict[type, dict[str, AnyGroup]] = {}  # each topic that comes or goes asks for those of a kind
        self._closed: dict[str, bool] = {}  # do they go for good?

    def __repr__(self) -> str:
        return f"<KnownGroups {len(self._groups)}>"

    def __iter__(self) -> Iterator[AnyGroup]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def get(self, group_id: str) -> AnyGroup | None:
        return self._groups.get(group_id)

    def has(self, group: AnyGroup) -> bool:
        """Is it still the group of its id?"""
        return self._groups.get(group.group_id) is group

    def of_kind(self, kind: type[_G]) -> list[_G]:
        return [group for group in self._by_kind.get(kind, {}).values() if isinstance(group, kind)]

    def find(self, kind: type[_G], group_id: str) -> _G | None:
        """The group of an id, if it is of this kind, and not closed: nothing more is stored of one that is."""
        group = None if group_id in self._closed else self._groups.get(group_id)
        return group if isinstance(group, kind) else None

    def put(self, group: AnyGroup) -> None:
        """From now on it is the group of its id."""
        if (before := self._groups.get(group.group_id)) is not None:
            self.remove(before)
        self._groups[group.group_id] = group
        self._by_kind.setdefault(type(group), {})[group.group_id] = group

    def remove(self, group: AnyGroup) -> None:
        if self.has(group):
            del self._groups[group.group_id]
            del self._by_kind[type(group)][group.group_id]

    def close(self, group_id: str, *, for_good: bool) -> None:
        """Have nothing happen to a group that is being deleted (`for_good`), or becomes another, until `reopen`."""
        self._closed[group_id] = for_good

    def reopen(self, group_id: str) -> None:
        """The group is gone, and another may have its id; or its deletion has failed."""
        self._closed.pop(group_id, None)

    def is_closed(self, group_id: str) -> bool:
        return group_id in self._closed

    def is_going(self, group_id: str) -> bool:
        """Is the group being deleted, with all that is committed to it?"""
        return self._closed.get(group_id, False)

    def room_for(self, group_id: str) -> ErrorCode:
        """May there be one more group, of this id?"""
        if self._budget.is_shared(group_id):
            return ErrorCode.inconsistent_group_protocol
        if self._budget.groups() < self._budget.groups_max:
            return ErrorCode.none
        facts = {"group": group_id[:ID_SHOWN_CHARS_MAX], "groups.max": self._budget.groups_max}
        _log.warning("a new group is refused: there are as many as groups.max allows", extra=facts)
        return ErrorCode.policy_violation
