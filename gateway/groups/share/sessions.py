"""Share sessions (KIP-932): which partitions a member reads over its connection, and which it may hold records of.

Keeps: a session ends with its connection, and what its member held is available to others then. A member has one
session at most; their number is bounded. In a session that has ended its member gets nothing more. One of many
partitions is given back in turns; until that is done its member begins no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from kio.schema.errors import ErrorCode

from core.turns import in_turns
from gateway.groups.share.format import PlaceKey
from gateway.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.groups.share.partitions import SharePartitions

INITIAL_EPOCH: Final = 0
FINAL_EPOCH: Final = -1
EPOCH_MAX: Final = 2**31 - 1
GIVEN_BACK_AT_ONCE: Final = 500
"""Partitions whose records are given back at once, in some 10 ms."""
PLACES_MAX: Final = 10_000
"""Partitions of one session, those included that it read before and may still hold records of."""


class Closable(Protocol):
    """A connection."""

    def on_close(self, callback: Callable[[], None]) -> None: ...

    def forget_on_close(self, callback: Callable[[], None]) -> None: ...


class ShareSession:
    """One member's session. `places`: what it reads, the next to be asked first; `touched`: what it has ever read."""

    def __init__(
        self, group_id: str, member_id: str, connection: Closable, end: Callable[[ShareSession], None]
    ) -> None:
        self.group_id = group_id
        self.member_id = member_id
        self.epoch = 1  # of the next request
        self.places: dict[PlaceKey, None] = {}
        self.touched: dict[PlaceKey, None] = {}
        self.waiting: dict[Callable[[], None], None] = {}
        """Called when the session ends: a fetch that waits must not take what its member has given back. And when the
        group's settings change: there may be more for it."""
        self.is_ended = False
        self.gave_back = False  # what its member held is available to others
        self._connection = connection
        self._end = end
        connection.on_close(self._closed)

    def __repr__(self) -> str:
        return f"<ShareSession of {self.member_id!r}, epoch {self.epoch}, {len(self.places)} partitions>"

    def add(self, key: PlaceKey) -> bool:
        """Have the member read a partition, from now on; False if it does so already. Raises Refusal."""
        if len(self.touched) >= PLACES_MAX and key not in self.touched:
            raise Refusal(ErrorCode.invalid_request, f"A share session has at most {PLACES_MAX} partitions.")
        is_new = key not in self.places
        self.touched[key] = None
        self.places[key] = None
        return is_new

    def forget(self, key: PlaceKey) -> None:
        self.places.pop(key, None)

    def asked(self, key: PlaceKey) -> None:
        """This partition gave records: the others' turn comes first."""
        if key in self.places:
            del self.places[key]
            self.places[key] = None

    def wake(self) -> None:
        """Have fetches that wait look again."""
        for wake in list(self.waiting):
            wake()

    def close(self) -> None:
        self.is_ended = True
        self._connection.forget_on_close(self._closed)

    def _closed(self) -> None:
        self._end(self)


class ShareSessions:
    """The sessions of all members that are connected."""

    def __init__(self, partitions: SharePartitions, sessions_max: int) -> None:
        self._partitions = partitions
        self._sessions_max = sessions_max
        self._sessions: dict[tuple[str, str], ShareSession] = {}
        self._giving_back: dict[tuple[str, str], asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, group_id: str, member_id: str, epoch: int, connection: Closable) -> ShareSession:
        """The session that a request begins, continues, or is the last of. Raises Refusal."""
        session = self._sessions.get((group_id, member_id))
        if epoch == INITIAL_EPOCH:
            return self._new(group_id, member_id, connection, session)
        if session is None:
            raise Refusal(ErrorCode.share_session_not_found)
        if epoch == FINAL_EPOCH:
            return session
        if session.epoch != epoch:
            raise Refusal(ErrorCode.invalid_share_session_epoch)
        session.epoch = 1 if epoch == EPOCH_MAX else epoch + 1
        return session

    def _new(self, group_id: str, member_id: str, connection: Closable, before: ShareSession | None) -> ShareSession:
        if (group_id, member_id) in self._giving_back:
            raise Refusal(ErrorCode.share_session_not_found)  # a client begins another again
        if before is None and len(self._sessions) >= self._sessions_max:
            raise Refusal(ErrorCode.share_session_limit_reached)
        session = ShareSession(group_id, member_id, connection, self.end)
        if before is not None:  # what it holds it may still settle
            before.close()
            session.touched.update(before.touched)
        self._sessions[group_id, member_id] = session
        return session

    def reconfigured(self, group_id: str) -> None:
        """A group's settings have changed: more records may be in flight, or others may be read."""
        for session in self._sessions.values():
            if session.group_id == group_id:
                session.wake()

    def end(self, session: ShareSession) -> None:
        """A member goes: what it holds is available to others."""
        if self._sessions.get((session.group_id, session.member_id)) is not session:
            return
        del self._sessions[session.group_id, session.member_id]
        session.close()
        session.gave_back = True
        session.wake()
        places = list(session.touched)
        for key in places[:GIVEN_BACK_AT_ONCE]:
            self._give_back(key, session.member_id)
        if rest := places[GIVEN_BACK_AT_ONCE:]:
            place = session.group_id, session.member_id
            self._giving_back[place] = task = asyncio.create_task(self._give_back_all(rest, session.member_id))
            task.add_done_callback(lambda _: self._giving_back.pop(place, None))

    async def _give_back_all(self, keys: Sequence[PlaceKey], member_id: str) -> None:
        async for key in in_turns(keys):
            self._give_back(key, member_id)

    def _give_back(self, key: PlaceKey, member_id: str) -> None:
        live = self._partitions.find(key)
        if live is not None:
            live.release(member_id)
