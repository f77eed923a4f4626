"""What share groups consist of, for handlers: their members, their partitions, their sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.groups.share.coordinators import ShareCoordinators
from gateway.groups.share.elsewhere import ShareElsewhere
from gateway.groups.share.partitions import SharePartitions
from gateway.groups.share.sessions import ShareSessions
from gateway.groups.share.settings import ShareSettings
from gateway.refusals import Asked, code_of


@dataclass(frozen=True, slots=True, eq=False)
class ShareGroups:
    """See the module."""

    coordinators: ShareCoordinators
    partitions: SharePartitions
    sessions: ShareSessions
    settings: Callable[[str], ShareSettings]
    elsewhere: ShareElsewhere

    async def delete(self, group_id: str) -> ErrorCode:
        """Delete a group without members, and what it has settled; first what other workers know of it."""
        group = self.coordinators.of(group_id).get(group_id)
        if group is not None and group.is_empty:
            codes = await self.elsewhere.forget(group_id, {name for name, _ in await self.elsewhere.begun(group_id)})
            if any(codes.values()):
                return ErrorCode.coordinator_not_available
        error = await self.coordinators.of(group_id).delete(group_id)
        if error is ErrorCode.none:
            try:
                await self.partitions.delete_group(group_id)
            except StoreError as failed:
                return code_of(failed, Asked.COORDINATOR)
        return error
