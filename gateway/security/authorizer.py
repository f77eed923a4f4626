"""The authorizer: the ACLs in effect, who is above them, and their changes.

Keeps: an ACL is in effect exactly if it is durable. A change is one row of the store's table for each ACL, and the rows
of up to `ACLS_AT_ONCE` ACLs are one record of the log: after a crash each ACL is there or not, and no other ACL is
touched. Each record is decided by the ACLs that are stored when it is made, by other processes, too. Whoever has no
right is told nothing: a decision is made before a resource is looked up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings
from core.errors import StoreError
from core.store import Store
from core.turns import in_turns
from gateway.config.authorizer import AuthorizerKeys
from gateway.refusals import Refusal, caught_up, invalid_request, refusal_of
from gateway.security.acl_format import TABLE, TEXT_BYTES_MAX, decode_key, encode_key
from gateway.security.acls import (
    CLUSTER_NAME,
    SAMPLE_NAME,
    Acl,
    AclFilter,
    AclSet,
    Operation,
    ResourceType,
    Verdict,
)
from gateway.security.audit import Audit
from gateway.security.principal import NODE, Principal
from gateway.security.rights import Rights, Subject

logger = logging.getLogger(__name__)

ACLS_AT_ONCE: Final = 500
"""ACLs whose change is one record of the log."""
REPEATED_MAX: Final = 50_000
"""ACLs that filters of one deletion choose after another of them: each is told for each of these, some 400 bytes."""
STORED_CHARS_MAX: Final = 32 * 2**20
"""Most characters in the texts of all ACLs together. Those of ACLs that another process has just made are not counted
yet."""
REMEMBERED_MAX: Final = 200_000
"""Decisions that are remembered for all principals together, some 150 bytes each; beyond that all are forgotten."""
KNOWN_MAX: Final = 10_000
"""Pairs of principal and address whose decisions are remembered; beyond that all are forgotten."""


class Authorizer:
    """See the module. `version` counts the changes: what was decided at another version holds no longer."""

    def __init__(self, config: AuthorizerKeys, store: Store, audit: Audit) -> None:
        self.audit = audit
        self.version = 0
        self.denied = 0
        """Requests' resources that were denied."""
        self._store = store
        self._max = config.acls_max
        self._allow_without_acl = config.allow_everyone_if_no_acl_found
        named = (one.strip() for one in config.super_users.split(";"))
        self._super_users = frozenset((str(NODE), *filter(None, named)))
        self._acls = AclSet(map(decode_key, store.registry.settings(TABLE)))
        self._chars = sum(map(_chars, self._acls))
        self._rights: dict[tuple[Principal, str], Rights] = {}
        self._remembered = 0
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Authorizer {len(self._acls)} ACLs, version {self.version}>"

    def __len__(self) -> int:
        return len(self._acls)

    # --- Decisions ----------------------------------------------------------------------------

    def rights_of(self, subject: Subject) -> Rights:
        """The rights of a connection, as of now; the connection keeps them for its next request."""
        found = subject.rights
        if found is None or found.version != self.version or found.principal != subject.principal:
            found = subject.rights = self.rights(subject.principal, subject.peer_host)
        return found

    def rights(self, principal: Principal, host: str) -> Rights:
        """The rights of a principal that comes from an address."""
        key = (principal, host)
        found = self._rights.get(key)
        if found is None:
            if len(self._rights) >= KNOWN_MAX:
                self._forget()
            found = self._rights[key] = Rights(self, principal, host)
        return found

    def decide(self, principal: Principal, host: str, operation: Operation, kind: ResourceType, name: str) -> bool:
        """The decision by the present ACLs."""
        if str(principal) in self._super_users:
            return True
        match self._acls.decide(principal, host, operation, kind, name):
            case Verdict.NO_ACL:
                return self._allow_without_acl
            case verdict:
                return verdict is Verdict.ALLOWED

    def decide_some(self, principal: Principal, host: str, operation: Operation, kind: ResourceType) -> bool:
        """May the principal do the operation on some resource of the type?"""
        if self.decide(principal, host, operation, kind, SAMPLE_NAME):
            return True
        return self._acls.allows_some(principal, host, operation, kind)

    def may_remember(self, version: int) -> bool:
        """Is there room to remember a decision that was made at a version?"""
        if version != self.version:
            return False
        if self._remembered >= REMEMBERED_MAX:
            self._forget()
            return False
        self._remembered += 1
        return True

    def _forget(self) -> None:
        """Drop what is remembered. Rights that are still held are of another version now."""
        self.version += 1
        self._rights.clear()
        self._remembered = 0

    # --- ACLs ---------------------------------------------------------------------------------

    async def matching(self, wanted: AclFilter) -> list[Acl]:
        """The ACLs that a filter chooses; gives way to others in between."""
        exact = wanted.exact()
        if exact is not None:
            return [exact] if exact in self._acls else []
        return [acl async for acl in in_turns(list(self._acls)) if wanted.matches(acl)]

    async def create(self, acls: Sequence[Acl]) -> list[Refusal | None]:
        """Make ACLs durable, then let them take effect; each may be refused alone. One that is there stays as it is."""
        outcomes: list[Refusal | None] = []
        async with self._changing:
            for first in range(0, len(acls), ACLS_AT_ONCE):
                await asyncio.sleep(0)
                outcomes += await self._create_some(acls[first : first + ACLS_AT_ONCE])
        return outcomes

    async def _create_some(self, acls: Sequence[Acl]) -> list[Refusal | None]:
        outcomes: list[Refusal | None] = []

        def decide(stored: Settings) -> SettingChanges:
            new: dict[bytes, bytes | None] = {}
            chars = self._chars
            outcomes.clear()
            for acl in acls:
                refusal = fault_of(acl)
                if refusal is None and (key := encode_key(acl)) not in stored and key not in new:
                    refusal = self._no_room(len(stored) + len(new), chars + _chars(acl))
                    if refusal is None:
                        new[key] = b""
                        chars += _chars(acl)
                outcomes.append(refusal)
            return new

        try:
            made = await self._store.registry.change_settings(TABLE, decide)
        except StoreError as failed:
            refused = refusal_of(failed)
            return [fault_of(acl) or refused for acl in acls]
        there = {acl: None for acl, refusal in zip(acls, outcomes, strict=True) if refusal is None}
        stored = self._store.registry.settings(TABLE)  # another process may have removed one since
        added = [acl for acl in there if acl not in self._acls and encode_key(acl) in stored]
        for acl in added:
            self._acls.add(acl)
        self._changed(self._chars + sum(map(_chars, added)), len(made), 0)
        return outcomes

    def _no_room(self, acls: int, chars: int) -> Refusal | None:
        """Why there is no room for one more beside so many ACLs, with so many characters in all."""
        if acls >= self._max:
            return Refusal(ErrorCode.policy_violation, f"There are {self._max} ACLs: acls.max={self._max}.")
        if chars > STORED_CHARS_MAX:
            return Refusal(ErrorCode.policy_violation, f"No more than {STORED_CHARS_MAX} characters of ACLs are kept.")
        return None

    async def delete(self, filters: Sequence[AclFilter]) -> list[list[Acl]]:
        """Remove the ACLs that filters choose: for each filter, those that it removed. Raises Refusal, also if the
        filters choose the same ones too often: then none is removed."""
        async with self._changing:
            await caught_up(self._store)
            chosen, every = await self._chosen(filters)
            others: set[Acl] = set()  # what other processes have removed meanwhile
            for first in range(0, len(every), ACLS_AT_ONCE):
                some = every[first : first + ACLS_AT_ONCE]
                removed = await self._removed(some)
                others.update(acl for acl in some if encode_key(acl) not in removed)
                stored = self._store.registry.settings(TABLE)  # another process may have made one again since
                gone = self._acls.remove(acl for acl in some if encode_key(acl) not in stored)
                self._changed(self._chars - sum(map(_chars, gone)), 0, len(removed))
        return [[acl for acl in some if acl not in others] for some in chosen] if others else chosen

    async def _chosen(self, filters: Sequence[AclFilter]) -> tuple[list[list[Acl]], list[Acl]]:
        """The ACLs that each filter chooses, and each of them once. Raises Refusal."""
        chosen: list[list[Acl]] = []
        every: dict[Acl, None] = {}
        told = 0
        async for wanted in in_turns(filters):
            some = await self.matching(wanted)
            async for acl in in_turns(some):
                every[acl] = None
            chosen.append(some)
            told += len(some)
            if told - len(every) > REPEATED_MAX:
                raise invalid_request(f"The filters choose the same ACLs more than {REPEATED_MAX} times: send fewer")
        return chosen, list(every)

    async def _removed(self, acls: Sequence[Acl]) -> SettingChanges:
        """Remove those of these ACLs that are there, as one; returns their rows. Raises Refusal."""
        keys = [encode_key(acl) for acl in acls]
        try:
            return await self._store.registry.change_settings(
                TABLE, lambda stored: {key: None for key in keys if key in stored}
            )
        except StoreError as failed:
            raise refusal_of(failed) from failed

    def take_over(self) -> None:
        """Put the stored ACLs into effect: another process has changed them."""
        self._acls = AclSet(map(decode_key, self._store.registry.settings(TABLE)))
        self._chars = sum(map(_chars, self._acls))
        self._forget()

    def _changed(self, chars: int, made: int, removed: int) -> None:
        if made or removed or chars != self._chars:
            self._forget()
        self._chars = chars
        if made or removed:
            logger.info("ACLs changed", extra={"made": made, "removed": removed, "acls": len(self._acls)})


def fault_of(acl: Acl) -> Refusal | None:
    """Why Kafka's controller would not take an ACL, or we would not."""
    if not acl.name:
        return invalid_request("Resource name should not be empty")
    if acl.type is ResourceType.CLUSTER and acl.name != CLUSTER_NAME:
        return invalid_request(f"The only valid name for the CLUSTER resource is {CLUSTER_NAME}")
    if ":" not in acl.principal:
        return invalid_request(
            f"Could not parse principal from `{acl.principal[:100]}` "
            "(no colon is present separating the principal type from the principal name)"
        )
    if any(len(text.encode()) > TEXT_BYTES_MAX for text in _texts(acl)):
        return invalid_request(f"Names, principals and hosts of ACLs have at most {TEXT_BYTES_MAX} bytes")
    return None


def _texts(acl: Acl) -> Iterable[str]:
    return acl.name, acl.principal, acl.host


def _chars(acl: Acl) -> int:
    return sum(map(len, _texts(acl)))
