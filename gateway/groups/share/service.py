"""What share groups consist of, for handlers: their members, their partitions, their sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kio.schema.errors import ErrorCode

from core.errors import StoreError
from gateway.groups.share.coordinators import ShareCoordinators
from gateway.groups.share.elsewhere import ShareElsewhere
from gateway.groups.share.partitions import SharePartitions
from gateway.groups.share.sessions import ShareSessions
from gateway.groups.share.settings import ShareSettings
from gateway.refusals import Asked, Refusal, code_of


@dataclass(frozen=True, slots=True, eq=False)
class ShareGroups:
    """See the module."""

    coordinators: ShareCoordinators
    partitions: SharePartitions
    sessions: ShareSessions
    settings: Callable[[str], ShareSettings]
    elsewhere: ShareElsewhere

    async def delete(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        """Delete groups without members: what they have settled, here and on other workers, and at last the groups.
        They are closed meanwhile: a member that came would begin where its group was, and lose its place at the end.
        They share the records of the log; the caller bounds their number. Returns the outcome of each.

        A container that is nobody's, or goes from one node to another meanwhile, may keep what a group has settled:
        then the group stays as well, to be deleted again.
        """
        codes: dict[str, ErrorCode] = {}
        placement = self.elsewhere.placement()
        with contextlib.ExitStack() as closed:
            for group_id in group_ids:
                try:
                    codes[group_id] = closed.enter_context(self.coordinators.of(group_id).closing(group_id))
                except Refusal as refused:
                    codes[group_id] = refused.code
            for step in (self._forget_elsewhere, self._forget_here, self.coordinators.delete):
                if placement is None or placement != self.elsewhere.placement():
                    return codes | {one: ErrorCode.coordinator_not_available for one, code in codes.items() if not code}
                if left := [group_id for group_id, code in codes.items() if not code]:
                    codes |= await step(left)
        return codes

    async def _forget_elsewhere(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        return dict(zip(group_ids, await asyncio.gather(*map(self._forgotten_elsewhere, group_ids)), strict=True))

    async def _forgotten_elsewhere(self, group_id: str) -> ErrorCode:
        names = await self.elsewhere.topics_begun(group_id)
        if names is None:
            return ErrorCode.coordinator_not_available
        codes = await self.elsewhere.forget(group_id, names)
        return ErrorCode.coordinator_not_available if any(codes.values()) else ErrorCode.none

    async def _forget_here(self, group_ids: Sequence[str]) -> dict[str, ErrorCode]:
        try:
            failures = await self.partitions.delete_groups(group_ids)
        except StoreError as failed:
            failures = dict.fromkeys(group_ids, failed)
        return {group_id: code_of(failure, Asked.COORDINATOR) for group_id, failure in failures.items()}
