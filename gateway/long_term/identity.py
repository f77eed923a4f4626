"""The identity object: the cluster and the format of the chunks below a prefix of long-term storage.

It is the object ``identity.json``:

    {"cluster_id": "<22 characters>", "format": 1, "needs_release": "0.1.0", "written_by": "0.1.0", "created_ms": 0}

Keeps: nothing is put or deleted below a prefix before its identity is known to be ours. The object is created with a
put that never replaces: if two gateways begin on one prefix, one is refused. It is never changed and never removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gateway import __version__
from gateway.data_directory import CLUSTER_ID_CHARS, IDENTITY_BYTES_MAX
from gateway.exits import CannotGoOn, ExitCode
from gateway.long_term.ownership import BEAT_S, Life, Owner, beat, is_ours, life_of, read_owner, take
from tier2.storage import AlreadyExists, Corrupt, Denied, NoRoom, ObjectNotFound, Storage, StorageError

logger = logging.getLogger(__name__)

T = TypeVar("T")

IDENTITY_KEY: Final = "identity.json"
FORMAT: Final = 1
"""The layout of all objects below the prefix. Formats are never reused; all older ones are read."""
NEEDS_RELEASE: Final = "0.1.0"
"""The first release that reads FORMAT."""


class IdentityRefused(CannotGoOn):
    """This store must not use that prefix; the message names the remedy. Nothing there was changed."""


class OwnerAlive(IdentityRefused):
    """Another gateway owns that prefix and runs."""

    exit_code = ExitCode.TAKEN

    def __init__(self, place: str, owner: Owner, what_to_do: str) -> None:
        super().__init__(f"{place} is in use: it belongs to {owner}, which is alive. {what_to_do}")


class DamagedIdentity(CannotGoOn):
    """The identity object is not as Penstock wrote it."""

    exit_code = ExitCode.CORRUPT

    def __init__(self, place: str, why: str) -> None:
        super().__init__(
            f"{place}: object {IDENTITY_KEY} {why}. Nothing there was changed; put the object back from a backup"
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a prefix."""

    cluster_id: str
    created_ms: int

    def encode(self) -> bytes:
        fields = {
            "cluster_id": self.cluster_id,
            "format": FORMAT,
            "needs_release": NEEDS_RELEASE,
            "written_by": __version__,
            "created_ms": self.created_ms,
        }
        return json.dumps(fields, indent=2).encode() + b"\n"


def decode_identity(place: str, data: bytes) -> Identity:
    """Raises IdentityRefused if a later release wrote it, DamagedIdentity."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedIdentity(place, f"is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DamagedIdentity(place, "is not a JSON object")
    written, cluster_id, created = fields.get("format"), fields.get("cluster_id"), fields.get("created_ms")
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise DamagedIdentity(place, f"has format {written!r}, no number from 1 on")
    if written > FORMAT:
        release = fields.get("needs_release", "a newer one")
        raise IdentityRefused(
            f"{place} has format {written}, this release reads up to {FORMAT}: use Penstock {release} or later"
        )
    if not isinstance(cluster_id, str) or len(cluster_id) != CLUSTER_ID_CHARS:
        raise DamagedIdentity(place, "names no cluster of 22 characters")
    return Identity(cluster_id, created if isinstance(created, int) else 0)


async def read_identity(storage: Storage, place: str) -> Identity | None:
    """The owner of the prefix; None if it has none. Raises IdentityRefused, DamagedIdentity, StorageError."""
    try:
        found = await storage.stat(IDENTITY_KEY)
        if found is None:
            return None
        if not 0 < found.size <= IDENTITY_BYTES_MAX:
            raise DamagedIdentity(place, f"has {found.size} bytes")
        return decode_identity(place, await storage.get_range(IDENTITY_KEY, 0, found.size))
    except ObjectNotFound:
        return None
    except Corrupt as error:
        raise DamagedIdentity(place, error.why) from error


async def create_identity(storage: Storage, place: str, cluster_id: str) -> Identity:
    """Make the prefix ours; return its owner then. Raises IdentityRefused, DamagedIdentity, StorageError."""
    ours = Identity(cluster_id, time.time_ns() // 1_000_000)
    try:
        await storage.put_new(IDENTITY_KEY, ours.encode())
    except AlreadyExists:
        logger.info("another process was faster to create the identity object", extra={"place": place})
    # Read back even our own put: a store that ignores the condition keeps the last of two writers.
    found = await read_identity(storage, place)
    if found is None:
        raise IdentityRefused(f"{place}: object {IDENTITY_KEY} was put, and is not there. Is the prefix ours alone?")
    return found


async def refuse_beside(
    storage: Storage, place: str, owner: Owner | None, data_dir: Path, what_to_do: str, *, locked: bool
) -> Life:
    """Raise OwnerAlive if the owner is a running gateway on another data directory; see `life_of`."""
    life = Life.DEAD if owner is None else await life_of(storage, owner, data_dir, locked=locked)
    if owner is not None and life is Life.ALIVE:
        raise OwnerAlive(place, owner, what_to_do)
    return life


@dataclass(slots=True)
class Admission:
    """One store's admission to its prefix: `look` before the store is opened, `admit` once it has been recovered.

    A drill only reads there: it competes with no owner and is never admitted to more.
    """

    storage: Storage
    place: str
    data_dir: Path
    cluster_id: str
    fresh: bool
    """The data directory has never held a store."""
    beat_s: float = BEAT_S
    take_over: bool = False
    """A gateway that runs there ends."""
    drill: bool = False
    beside: bool = False
    """The supervisor of this process owns the prefix: what is left is to check whose it is."""
    private: bool = False
    """The prefix lies in the data directory, which is ours alone: a copy of the one is a copy of the other."""
    holds_log: bool = False
    """The log lies there too, with a fence of its own: any data directory may go on with it."""
    token: str = ""
    """The token that this store put there, once admitted; while there is no room, the token that it found there."""
    has_taken: bool = True
    """False while long-term storage has no room for a token of its own."""
    _beats: int = 0
    _seen: Owner | None = None
    _life: Life = Life.DEAD

    async def look(self) -> None:
        """Refuse before the store is opened, if possible. Raises IdentityRefused, DamagedIdentity."""
        await self._asked(self._look)

    async def _look(self) -> None:
        found = await read_identity(self.storage, self.place)
        if found is not None:
            self._check(found)
            if not self.drill and not self.beside:
                await self._check_owner(await read_owner(self.storage))

    async def admit(self, has_chunks: bool) -> None:
        """Refuse, or make sure that the prefix is ours. Raises IdentityRefused, DamagedIdentity."""
        if not self.drill:
            await self._asked(lambda: self._admit(has_chunks))

    async def _admit(self, has_chunks: bool) -> None:
        found = await read_identity(self.storage, self.place)
        if found is None:
            if has_chunks:
                raise IdentityRefused(
                    f"{self.place} holds no object {IDENTITY_KEY}, but this store has chunks in long-term storage: "
                    "it is another place, or has been emptied. Correct tier2, or put the objects back; to go on "
                    "without what was in them, run `penstock tier2 init` with the same flags"
                )
            found = await create_identity(self.storage, self.place, self.cluster_id)
        self._check(found)
        if not self.beside:
            await self._own()

    async def own(self) -> None:
        """Become the owner of the prefix, before its identity is made or checked by others of this data directory.

        Raises IdentityRefused.
        """
        if not self.drill:
            await self._asked(self._own)

    async def _own(self) -> None:
        owner = await read_owner(self.storage)
        if owner != self._seen:  # another gateway has begun meanwhile
            await self._check_owner(owner)
        self.token = "" if owner is None else owner.token
        await self._take(owner)
        if not self.has_taken:
            if self._life is not Life.DEAD:
                raise IdentityRefused(
                    f"{self.place} has no room to record a new owner, and {owner} may still be alive. "
                    "Delete objects there that are not Penstock's, or give it more room"
                )
            logger.warning(
                "long-term storage has no room: its data is served, nothing is moved there; delete topics or "
                "records, wait for retention, or give it more room",
                extra={"place": self.place},
            )

    async def _take(self, owner: Owner | None) -> None:
        """Become the owner as soon as there is room for the token; until then go on with the dead owner's token."""
        try:
            self.token = await take(self.storage, self.data_dir, owner, self.beat_s)
            self.has_taken = True
        except NoRoom:
            self.has_taken = False

    async def _check_owner(self, owner: Owner | None) -> None:
        """Refuse if another copy has begun, or if the owner still lives."""
        if not self.holds_log and not is_ours(self.data_dir, owner):
            raise IdentityRefused(
                f"{self.place} was taken by {owner}, which began with another copy of {self.data_dir}: two copies must "
                "never use it. To go on with this copy and its metadata, run `penstock tier2 init` with the same "
                "flags; to begin with the data in long-term storage, `penstock recover`"
            )
        self._life = Life.DEAD if self.private else Life.SILENT
        if not self.take_over and not self.private:
            what_to_do = (
                f"{self.data_dir} is another copy of its data. Stop that gateway first; to end it by force, add "
                "`--take-over`; to look at the data beside it, make the copy with `penstock recover --drill`"
            )
            self._life = await refuse_beside(self.storage, self.place, owner, self.data_dir, what_to_do, locked=True)
        self._seen = owner

    async def until_replaced(self) -> Owner:
        """Give signs of life; return once another copy of the data directory has taken the prefix.

        Unreachable storage proves nothing, so its errors are ignored.
        """
        while True:
            await asyncio.sleep(self.beat_s)
            with contextlib.suppress(StorageError):
                owner = await read_owner(self.storage)
                if owner is not None and owner.token != self.token:
                    return owner
                if self.has_taken:
                    self._beats += 1
                    await beat(self.storage, self.token, self._beats)
                else:
                    await self._take(owner)

    async def release(self) -> None:
        """Record that this gateway has stopped, so that the next one need not wait. Raises StorageError."""
        if self.token and self.has_taken and not self.drill:
            await beat(self.storage, self.token, self._beats + 1, released=True)

    def _check(self, found: Identity) -> None:
        if found.cluster_id == self.cluster_id:
            return
        if self.fresh:
            raise IdentityRefused(
                f"{self.place} holds the data of cluster {found.cluster_id}, and {self.data_dir} is new. "
                "To get that data back, run `penstock recover` with the same flags; to start empty, name another prefix"
            )
        raise IdentityRefused(
            f"{self.place} belongs to cluster {found.cluster_id}, {self.data_dir} to cluster {self.cluster_id}. "
            "Name the prefix that belongs to this data directory; nothing there was changed"
        )

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        try:
            return await question()
        except Denied as error:
            raise IdentityRefused(
                f"{self.place}: {error}. Credentials must allow to get, put, list and delete objects below the prefix"
            ) from error
        except StorageError as error:
            raise IdentityRefused(f"{self.place}: its identity cannot be read or written: {error}") from error
