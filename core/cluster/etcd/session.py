"""Changes in etcd that happen once, although each of their requests may arrive twice, or late.

A session has a key, ``calls/<uuid>``, whose value is the number of its last change. Each change is one transaction that
compares the key's revision with the one that the session knows, and writes the next number. So the transaction's own
effect makes its compare false: whoever repeats it cannot make the change twice, and one that is still on its way when
the session has gone on finds another revision. When the compare fails, the number in the key says whether a former
attempt went through.

The key lies under a lease of `TTL_S`, renewed before a change: keys of processes that are gone go away by themselves.

**Invariants**

- A change happens once, or not at all. `CoordinatorAway` leaves open which; after it the session reads its key first.
- Changes of one session are made one after the other. Those of several sessions meet in the compares of the callers.
- The key is written by each change, below the prefix: so a copy that has its revision has the change (`newest`).
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.cluster.etcd.client import CALL_S, EtcdClient
from core.cluster.etcd.clock import boot_s
from core.cluster.etcd.wire import (
    Compare,
    Decided,
    Delete,
    EtcdError,
    KeyValue,
    Put,
    Range,
    absent,
    end_of,
    unchanged,
)
from core.errors import CoordinatorAway

CALLS: Final = b"calls/"
"""Keys of sessions, below the prefix; the value is a decimal number."""
TTL_S: Final = 3600
RENEW_S: Final = 1200.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change. If its compares did not hold, `found` has what the ranges found instead."""

    succeeded: bool
    revision: int
    found: tuple[tuple[KeyValue, ...], ...] = ()


class LeaseGone(Exception):
    """A key was to lie under a lease that has ended."""


class Session:
    """See the module. It begins with its first change."""

    def __init__(self, client: EtcdClient, prefix: bytes) -> None:
        self._client = client
        self._prefix = prefix
        self._one_at_a_time = asyncio.Lock()
        self._key = b""
        self._lease = 0
        self._renewed_s = 0.0
        self._number = 0
        self._known: KeyValue | None = None  # the key as etcd has it; None: it is to be read first

    def __repr__(self) -> str:
        return f"<Session {self._key!r} change {self._number}>"

    async def change(
        self,
        compares: Sequence[Compare],
        changes: Sequence[Put | Delete],
        otherwise: Sequence[Range] = (),
        within_s: float = CALL_S,
    ) -> Outcome:
        """Make all changes if all compares hold; else read. Raises CoordinatorAway, CoordinatorRefuses, LeaseGone."""
        try:
            async with asyncio.timeout(within_s), self._one_at_a_time:
                return await self._change(compares, changes, otherwise, within_s * 0.9)  # its error knows the reason
        except TimeoutError:
            raise CoordinatorAway(f"etcd has not settled a change within {within_s:g} s") from None

    async def close(self) -> None:
        """End the session: its key goes."""
        if self._lease:
            lease, self._lease, self._known = self._lease, 0, None
            await self._client.revoke(lease)

    async def _change(
        self, compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range], within_s: float
    ) -> Outcome:
        while True:
            known = await self._ready()
            self._number += 1
            number = b"%d" % self._number
            self._known = None  # unknown from here until an answer says: whatever ends this call in between
            decided = await self._decide(
                (*compares, unchanged(known, self._key)),
                (*changes, Put(self._key, number, self._lease)),
                (Range(self._key), *otherwise),
                within_s,
            )
            if decided.succeeded:
                self._known = KeyValue(self._key, number, known.created, decided.revision)
                return Outcome(True, decided.revision)
            now = decided.found[0][0] if decided.found[0] else None
            if now is None:
                raise CoordinatorAway("etcd has lost a change's key, and so whether it was made")
            self._known = now
            if now.value == number:  # an attempt before the last one went through unseen
                return Outcome(True, now.revision)
            if now.revision == known.revision:
                return Outcome(False, decided.revision, decided.found[1:])
            # A change that was given up has come through late, after this session read its key: now it is known.

    async def _decide(
        self, compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range], within_s: float
    ) -> Decided:
        try:
            return await self._client.decide(compares, changes, otherwise, within_s)
        except EtcdError as error:  # the session's own lease it cannot be: without that the compare had failed
            raise LeaseGone(str(error)) from error

    async def _ready(self) -> KeyValue:
        """The session's key as etcd has it, under a lease that lives on for a while."""
        if self._key and boot_s() - self._renewed_s > RENEW_S:
            self._renewed_s = boot_s()
            if not await self._client.renew(self._lease):
                self._key = b""
        if self._key and self._known is None:
            (self._known,) = (await self._client.read(Range(self._key))).keys or (None,)
        if not self._key or self._known is None:
            self._known = await self._begin()
        return self._known

    async def _begin(self) -> KeyValue:
        key = self._prefix + CALLS + uuid.uuid4().hex.encode()
        self._lease, self._renewed_s = random.getrandbits(62) + 1, boot_s()
        await self._client.grant(self._lease, TTL_S)
        begun = await self._client.decide((absent(key),), (Put(key, b"0", self._lease),), (Range(key),))
        (found,) = begun.found[0] if begun.found else (KeyValue(key, b"0", begun.revision, begun.revision),)
        self._key, self._number = key, 0
        return found


async def newest(client: EtcdClient, prefix: bytes, within_s: float = CALL_S) -> int:
    """The revision of the newest change that any session has made by now; 0 if none is known."""
    calls = prefix + CALLS
    found = await client.read(Range(calls, end_of(calls), limit=1, newest_first=True, keys_only=True), within_s)
    return found.keys[0].revision if found.keys else 0
