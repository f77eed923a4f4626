"""Groups that nobody needs any more: they are forgotten, or deleted with all that is stored of them.

Keeps: a group with a member, or with an offset that is visible or on its way to the log, stays; one that is stored is
deleted before it is forgotten. A group with many offsets is closed, and loses them in steps, and itself with the last:
a crash in between leaves a group with a part of its offsets, whose deletion nobody was told of.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from kio.schema.errors import ErrorCode

from core.turns import in_turns
from gateway.groups.admission import AnyGroup
from gateway.groups.classic.group import Group
from gateway.groups.classic_groups import ClassicGroups
from gateway.groups.journal import GroupJournal
from gateway.groups.kinds import Kinds
from gateway.groups.known import KnownGroups
from gateway.groups.offsets.committed import CommittedOffsets
from gateway.groups.offsets.service import OffsetService

_log: Final = logging.getLogger(__name__)


class UnusedGroups:
    """See the module."""

    def __init__(
        self,
        known: KnownGroups,
        kinds: Kinds,
        classic: ClassicGroups,
        committed: CommittedOffsets,
        offsets: OffsetService,
        journal: GroupJournal,
    ) -> None:
        self._known = known
        self._kinds = kinds
        self._classic = classic
        self._committed = committed
        self._offsets = offsets
        self._journal = journal
        self._deletions: set[asyncio.Task[ErrorCode]] = set()

    def __repr__(self) -> str:
        return f"<UnusedGroups among {len(self._known)}>"

    def forget(self, group: AnyGroup) -> None:
        """Drop a group that has no member, no offset and no stored record."""
        if self._is_unused(group) and not self._journal.holds_group(group.group_id):
            if isinstance(group, Group):
                self._classic.die(group, ErrorCode.unknown_member_id)
            else:
                group.die()
            self._known.remove(group)

    async def delete(self, group: AnyGroup) -> ErrorCode:
        """Delete an empty group with its offsets; returns when it is gone for good."""
        if not isinstance(group, Group):
            shell = self._kinds.shell_of(group)
            await shell.stored(group)
            if not self._known.has(group) or self._known.is_closed(group.group_id):
                return ErrorCode.coordinator_load_in_progress  # it is another, goes already or is elsewhere: ask again
            if shell.is_storing(group):
                return ErrorCode.non_empty_group  # a member joins at this moment
        if not group.is_empty:
            return ErrorCode.non_empty_group
        is_much = self._offsets.is_much(group.group_id)
        error = await asyncio.shield(self._delete_in_steps(group) if is_much else self._delete(group))
        if error is ErrorCode.none:
            _log.info("group deleted", extra={"group": group.group_id})
        return error

    async def sweep(self) -> None:
        """Delete offsets that have expired, then groups that have nothing left."""
        async for group in in_turns(list(self._known)):
            async for topic in in_turns(list(self._committed.topics(group.group_id))):
                await self._offsets.drop_expired(group.group_id, topic, self._known.get)
        await self._journal.settle()
        async for group in in_turns(list(self._known)):
            if self._is_unused(group):
                self._delete(group)

    async def finish(self) -> None:
        """Return when no group is being deleted in steps."""
        if self._deletions:
            await asyncio.wait(set(self._deletions))

    def _delete_in_steps(self, group: AnyGroup) -> asyncio.Task[ErrorCode]:
        self._known.close(group.group_id, for_good=True)  # now: the group is empty at this moment
        deletion = asyncio.create_task(self._delete_most_first(group))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)
        return deletion

    async def _delete_most_first(self, group: AnyGroup) -> ErrorCode:
        try:
            return await self._offsets.delete_most(group.group_id) or await self._delete(group)
        finally:
            self._known.reopen(group.group_id)

    def _delete(self, group: AnyGroup) -> asyncio.Task[ErrorCode]:
        """In one step."""
        keys = self._committed.keys_of_group(group.group_id)
        rows = () if isinstance(group, Group) else self._kinds.shell_of(group).rows_of(group)
        write = self._journal.write_offsets(dict.fromkeys(keys), without_group=group.group_id, without_rows=rows)
        write.add_done_callback(lambda _: self.forget(group))
        return write

    def _is_unused(self, group: AnyGroup) -> bool:
        if not isinstance(group, Group) and (group.changed or self._kinds.shell_of(group).is_storing(group)):
            return False
        return self._known.has(group) and group.is_idle and not self._committed.is_used(group.group_id)
