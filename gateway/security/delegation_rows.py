"""Delegation tokens as rows of the table `delegationtokens`. No row holds a secret.

A token has two rows. The first never changes; its key is 0x01 and the token's id in UTF-8, its value, big-endian:

    u8   version: 1
    i64  when it was made, ms since 1970
    i64  when it ends at the latest, however often it is renewed
    u16  count of principals: the owner, who asked for it, those who may renew it
    of each: u16 size of the type, the type in UTF-8, u16 size of the name, the name in UTF-8

The second is written again at each renewal; its key is 0x02 and the id, its value an i64: when it ends.

Invariant: a token exists exactly if its first row does. So a renewal that crosses a removal, in another process, cannot
bring the token back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.security.principal import Principal

TABLE: Final = "delegationtokens"
MADE, ENDS = b"\x01", b"\x02"
VERSION: Final = 1
TOKENS_MAX: Final = 20_000
"""Most tokens: some 500 bytes each."""
_HEAD: Final = struct.Struct(">BqqH")
_SIZE: Final = struct.Struct(">H")
_TIME: Final = struct.Struct(">q")


@dataclass(frozen=True, slots=True)
class DelegationToken:
    """What is known of a token; its secret is made from its id."""

    id: str
    owner: Principal
    requester: Principal
    renewers: tuple[Principal, ...]
    made_ms: int
    ends_ms: int
    ends_at_last_ms: int

    def is_of(self, principal: Principal) -> bool:
        """May the principal renew it and end it?"""
        return principal == self.owner or principal in self.renewers

    def concerns(self, principal: Principal) -> bool:
        """May the principal see it? Whoever asked for it for somebody else may do no more."""
        return self.is_of(principal) or principal == self.requester

    def has_ended(self, now_ms: int) -> bool:
        return min(self.ends_ms, self.ends_at_last_ms) < now_ms


def rows_of(token: DelegationToken) -> dict[bytes, bytes | None]:
    """The rows of a new token."""
    people = (token.owner, token.requester, *token.renewers)
    made = [_HEAD.pack(VERSION, token.made_ms, token.ends_at_last_ms, len(people))]
    for text in (text.encode() for principal in people for text in principal):
        made += (_SIZE.pack(len(text)), text)
    return {MADE + token.id.encode(): b"".join(made), **renewal_of(token.id, token.ends_ms)}


def renewal_of(token_id: str, ends_ms: int) -> dict[bytes, bytes | None]:
    """The row that gives a token another end."""
    return {ENDS + token_id.encode(): _TIME.pack(ends_ms)}


def removal_of(token_id: str) -> dict[bytes, bytes | None]:
    """What removes a token, and whatever is left of it."""
    return {kind + token_id.encode(): None for kind in (MADE, ENDS)}


def read_table(table: Mapping[bytes, bytes]) -> Iterator[DelegationToken]:
    """The tokens that there are; those that were read before cost little. Raises ValueError."""
    for key, value in table.items():
        if key.startswith(MADE):
            yield _token(key[1:].decode(), value, table.get(ENDS + key[1:]))


def token_of(table: Mapping[bytes, bytes], token_id: str) -> DelegationToken | None:
    """A token, if it is there. Raises ValueError."""
    value = table.get(MADE + token_id.encode())
    return None if value is None else _token(token_id, value, table.get(ENDS + token_id.encode()))


def left_over(table: Mapping[bytes, bytes]) -> list[str]:
    """Ids of which only a renewal is there."""
    return [key[1:].decode() for key in table if key.startswith(ENDS) and MADE + key[1:] not in table]


@lru_cache(2 * TOKENS_MAX)
def _token(token_id: str, value: bytes, renewal: bytes | None) -> DelegationToken:
    try:
        version, made_ms, ends_at_last_ms, count = _HEAD.unpack_from(value)
        at = _HEAD.size
        texts: list[str] = []
        for _ in range(2 * count):
            (size,) = _SIZE.unpack_from(value, at)
            at += _SIZE.size + size
            texts.append(value[at - size : at].decode())
        (ends_ms,) = (made_ms,) if renewal is None else _TIME.unpack(renewal)
    except (struct.error, UnicodeDecodeError):
        raise ValueError("a stored delegation token is damaged") from None
    if version != VERSION or at != len(value) or count < 2:
        raise ValueError(f"a stored delegation token of version {version} with {len(value)} bytes")
    owner, requester, *renewers = (Principal(*pair) for pair in zip(texts[::2], texts[1::2], strict=True))
    return DelegationToken(token_id, owner, requester, tuple(renewers), made_ms, ends_ms, ends_at_last_ms)
