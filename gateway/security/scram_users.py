"""The SCRAM credentials of users, durable in the store's table `scramcredentials`; passwords are nowhere.

A row's key is the mechanism's number in Kafka (1: SCRAM-SHA-256, 2: SCRAM-SHA-512) as one byte, and the user's name in
UTF-8. Its value, big-endian:

    u8   version: 1
    u32  iterations
    u16  size of the salt, and the salt
    u8   size of each key, the stored key, the server key

The row with the key 0x00 holds 32 random bytes, from which the salts of users who do not exist are drawn.

In a cluster of machines the rows lie in etcd, where each node reads them. In no case are they in the bucket.

Invariants: a change is one atomic record, decided by the credentials that are stored when it is made; it counts for
logins once it is durable. The table leaves this machine by no API and in no snapshot (`TABLE` is private).
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from kio.schema.errors import ErrorCode

from core.cluster.registry import SettingChanges, Settings
from core.store import Store
from gateway.refusals import Refusal
from gateway.security.plain import parse_users
from gateway.security.scram import ITERATIONS_MIN, ScramCredential, unknown_credential

TABLE: Final = "scramcredentials"
MECHANISMS: Final[Mapping[int, str]] = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
NUMBERS: Final = {name: number for number, name in MECHANISMS.items()}
SECRET_KEY: Final = b"\0"
VERSION: Final = 1
USERS_MAX: Final = 100_000
"""Most credentials: some 300 bytes each."""
_HEAD: Final = struct.Struct(">BIH")
_DELETED: Final = "-"

Change = tuple[str, str, ScramCredential | None]
"""User, mechanism, and the new credential; None deletes it."""


def encode_credential(credential: ScramCredential) -> bytes:
    keys = bytes([len(credential.stored_key)]) + credential.stored_key + credential.server_key
    return _HEAD.pack(VERSION, credential.iterations, len(credential.salt)) + credential.salt + keys


def decode_credential(mechanism: str, value: bytes) -> ScramCredential:
    """Raises ValueError."""
    try:
        version, iterations, salt_size = _HEAD.unpack_from(value)
        at = _HEAD.size + salt_size
        size = value[at]
    except (struct.error, IndexError):
        raise ValueError("a stored credential is too short") from None
    if version != VERSION or len(value) != at + 1 + 2 * size:
        raise ValueError(f"a stored credential of version {version} with {len(value)} bytes")
    salt = value[_HEAD.size : at]
    return ScramCredential(mechanism, iterations, salt, value[at + 1 : at + 1 + size], value[at + 1 + size :])


def read_table(table: Mapping[bytes, bytes]) -> Iterator[tuple[str, ScramCredential]]:
    """Users with their credentials. Raises ValueError."""
    for key, value in table.items():
        if key != SECRET_KEY:
            yield key[1:].decode(), decode_credential(MECHANISMS[key[0]], value)


class ScramUsers:
    """All credentials, by mechanism and user."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, ScramCredential]] = {name: {} for name in NUMBERS}
        self._secret = secrets.token_bytes(32)
        self.are_kept = False
        """Whether there is a place for users."""
        self.take_over()

    def take_over(self) -> None:
        """Put the stored credentials into effect. Raises ValueError."""
        known: dict[str, dict[str, ScramCredential]] = {name: {} for name in NUMBERS}
        for user, credential in read_table(self._store.registry.settings(TABLE)):
            known[credential.mechanism][user] = credential
        self._known = known
        self._secret = self._store.registry.settings(TABLE).get(SECRET_KEY, self._secret)

    def __repr__(self) -> str:
        return f"<ScramUsers {len(self)} credentials>"

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    async def prepare(self, pending: Path, *, are_kept: bool = True) -> None:
        """Before clients are served: keep the secret of unknown users, and take over the users of `penstock users`.

        `are_kept`: rows are in a log that stays on this machine, or in etcd. Else nothing is written: there are no
        users, and the secret is this process's own. Raises StoreError, OSError, ValueError."""
        self.are_kept = are_kept
        if not are_kept:
            if read_pending(pending):
                raise ValueError(
                    f"{pending}: log.store = object: users of SCRAM are kept in the log, and must not leave the "
                    "machine. Remove the file, or set log.store = disk"
                )
            return
        first = {SECRET_KEY: self._secret}
        await self._store.registry.change_settings(TABLE, lambda stored: {} if SECRET_KEY in stored else first)
        self._secret = self._store.registry.settings(TABLE)[SECRET_KEY]
        changes = list(read_pending(pending).values())
        if changes:
            await self.change(changes, sys.maxsize)  # the operator's own are taken, however many
        await asyncio.to_thread(pending.unlink, missing_ok=True)

    def get(self, mechanism: str, user: str) -> ScramCredential | None:
        return self._known[mechanism].get(user)

    def find(self, mechanism: str, user: str) -> tuple[ScramCredential, bool]:
        """A user's credential, or one that looks like it, and whether the user has one. The other is made for users,
        too: the time of an answer tells nothing."""
        other = unknown_credential(mechanism, user, self._secret, self._usual_iterations(mechanism))
        known = self._known[mechanism].get(user)
        return (other, False) if known is None else (known, True)

    def _usual_iterations(self, mechanism: str) -> int:
        """What most users have: another number would tell who does not exist. Looks at a few only."""
        some = [one.iterations for _, one in zip(range(100), self._known[mechanism].values(), strict=False)]
        return Counter(some).most_common(1)[0][0] if some else ITERATIONS_MIN

    def of(self, user: str) -> list[ScramCredential]:
        """A user's credentials, in the order of their mechanisms' numbers."""
        return [found for known in self._known.values() if (found := known.get(user)) is not None]

    def names(self) -> list[str]:
        return sorted({user for known in self._known.values() for user in known})

    async def change(self, changes: Iterable[Change], most: int = USERS_MAX) -> list[Change]:
        """Apply changes in one durable step; returns the deletions of what is not there.

        `most`: the most credentials that there may be then, if they become more. Raises Refusal, StoreError."""
        wanted = {bytes([NUMBERS[change[1]]]) + change[0].encode(): change for change in changes}
        missing: list[Change] = []

        def decide(stored: Settings) -> SettingChanges:
            missing[:] = [one for key, one in wanted.items() if one[2] is None and key not in stored]
            rows = {
                key: None if credential is None else encode_credential(credential)
                for key, (_, _, credential) in wanted.items()
                if credential is not None or key in stored
            }
            more = sum(1 if key not in stored else -1 if value is None else 0 for key, value in rows.items())
            if more > 0 and len(stored) - 1 + more > most:  # one row is the secret
                raise Refusal(ErrorCode.policy_violation, f"No more than {most} credentials are kept")
            return rows

        await self._store.registry.change_settings(TABLE, decide)
        stored = self._store.registry.settings(TABLE)  # another process may have changed it since, too
        for key, (user, mechanism, _) in wanted.items():
            if key in stored:
                self._known[mechanism][user] = decode_credential(mechanism, stored[key])
            else:
                self._known[mechanism].pop(user, None)
        return missing


def read_pending(path: Path) -> dict[tuple[str, str], Change]:
    """The changes that wait for the next start; none without the file. Lines are NAME:CREDENTIAL, or
    NAME:-MECHANISM for one that is deleted. Raises OSError, ValueError."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    found: dict[tuple[str, str], Change] = {}
    for number, line in enumerate(text.splitlines(), 1):
        user, _, rest = line.rpartition(f":{_DELETED}")
        if rest in NUMBERS and user:
            found[user, rest] = (user, rest, None)
            continue
        try:
            ((user, credential),) = parse_users(line).items()
        except ValueError as wrong:
            raise ValueError(f"{path}, line {number}: {wrong}") from None
        found[user, credential.mechanism] = (user, credential.mechanism, credential)
    return found


def pending_text(changes: Iterable[Change]) -> str:
    """The inverse of `read_pending`."""
    return "".join(
        f"{user}:{_DELETED}{mechanism}\n" if credential is None else f"{user}:{credential.to_text()}\n"
        for user, mechanism, credential in changes
    )
