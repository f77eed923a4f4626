"""Delegation tokens (KIP-48, KIP-373): a user's right to come in by SCRAM, for a time, by a secret that is not theirs.

A token's secret is an HMAC of its id under `delegation.token.secret.key`, as in Kafka; it is stored nowhere.

Invariants:
- A change counts once it is durable, and is decided by the tokens that are stored when it is made. What has ended lets
  nobody in, whether or not it was removed yet.
- Nothing that a client sees before the end of its exchange tells an id that exists from one that does not: salt and
  keys of each are made from the id alone.
- No more than `TOKENS_MAX` tokens, `TOKENS_OF_ONE_MAX` by one principal, and `RENEWERS_CHARS_MAX` characters of
  principals in one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from kio.schema.errors import ErrorCode

from core.background import Background
from core.clock import Clock
from core.cluster.registry import Decide, SettingChanges, Settings
from core.errors import StoreError
from core.store import Store
from core.turns import in_turns
from gateway.config.delegation import DelegationKeys
from gateway.refusals import Refusal, caught_up, refusal_of
from gateway.security.delegation_rows import (
    TABLE,
    TOKENS_MAX,
    DelegationToken,
    left_over,
    read_table,
    removal_of,
    renewal_of,
    rows_of,
    token_of,
)
from gateway.security.principal import USER, Principal
from gateway.security.scram import ITERATIONS_MIN, ScramCredential, TokenClaim, credential_of_salted, drawn_salt
from gateway.security.scram import salt_password as salted_of

logger = logging.getLogger(__name__)

TOKENS_OF_ONE_MAX: Final = 1_000
RENEWERS_CHARS_MAX: Final = 4_000
ID_BYTES: Final = 16
KEPT_CREDENTIALS: Final = 10_000
"""Credentials of tokens that are kept in memory, 300 bytes each; another costs a thread some milliseconds."""
REMOVED_AT_ONCE: Final = 500
STAYS_MS: Final = 60_000
"""An ended token is removed so much later: by another process's clock it may not have ended yet."""
Judge = Callable[[DelegationToken, int], int | None]
"""When a token is to end, by what it is and the present time; None: at once and for ever. It may raise Refusal."""

DISABLED: Final = Refusal(ErrorCode.delegation_token_auth_disabled, "delegation.token.secret.key is not set")
NOT_FOUND: Final = Refusal(ErrorCode.delegation_token_not_found, "There is no such token")
ENDED: Final = Refusal(ErrorCode.delegation_token_expired, "The token has ended")
NOT_YOURS: Final = Refusal(ErrorCode.delegation_token_owner_mismatch, "It is neither owner nor renewer of the token")
NO_USER: Final = Refusal(ErrorCode.invalid_principal_type, "Owners and renewers of tokens are of type User")
TOO_MANY: Final = Refusal(
    ErrorCode.policy_violation,
    f"There are at most {TOKENS_MAX} tokens, {TOKENS_OF_ONE_MAX} by one principal, and {RENEWERS_CHARS_MAX} characters "
    "of principals in one",
)


class DelegationTokens:
    """All tokens, and the credentials by which they are proved."""

    def __init__(self, config: DelegationKeys, store: Store, clock: Clock) -> None:
        secret = config.delegation_token_secret_key
        self._key = None if secret is None else secret.get_secret_value().encode()
        self._life_ms = config.delegation_token_max_lifetime_ms
        self._period_ms = config.delegation_token_expiry_time_ms
        self._pause_s = config.delegation_token_expiry_check_interval_ms / 1000
        self._store = store
        self._clock = clock
        self._known: dict[str, DelegationToken] = {}
        self._ids: dict[bytes, str] = {}  # by a hash of the secret: looking one up tells nothing of it
        self._mark = lru_cache(2 * TOKENS_MAX)(self._made_mark)
        self._credential = lru_cache(KEPT_CREDENTIALS)(self._made_credential)
        self._sweeping = Background("delegation tokens", 0, self._sweep, retry_s=10.0, first_s=min(60.0, self._pause_s))
        self.take_over()

    def __repr__(self) -> str:
        return f"<DelegationTokens {len(self._known)}, {'on' if self.is_on else 'off'}>"

    def __len__(self) -> int:
        return len(self._known)

    @property
    def is_on(self) -> bool:
        return self._key is not None

    def take_over(self) -> None:
        """Put the stored tokens into effect. Raises ValueError."""
        self._known = {token.id: token for token in read_table(self._store.registry.settings(TABLE))}
        self._ids = {self._mark(token_id): token_id for token_id in self._known} if self.is_on else {}

    def start(self) -> None:
        """Begin to remove tokens that have ended."""
        self._sweeping.start()

    async def stop(self) -> None:
        await self._sweeping.stop()

    # --- Changes ------------------------------------------------------------------------------

    async def create(
        self, owner: Principal, requester: Principal, renewers: Sequence[Principal], life_ms: int
    ) -> DelegationToken:
        """A new token; `life_ms` not above 0: the longest that is configured. Raises Refusal."""
        self._require_on()
        if any(principal.type != USER for principal in (owner, *renewers)):
            raise NO_USER
        if sum(len(text) for principal in (owner, requester, *renewers) for text in principal) > RENEWERS_CHARS_MAX:
            raise TOO_MANY
        now_ms = self._clock.wall_ms()
        ends_at_last_ms = now_ms + _within(life_ms, self._life_ms)
        ends_ms = min(ends_at_last_ms, now_ms + self._period_ms)
        people = tuple(dict.fromkeys(renewers))
        token = DelegationToken(_new_id(), owner, requester, people, now_ms, ends_ms, ends_at_last_ms)

        def decide(stored: Settings) -> SettingChanges:
            requesters = [one.requester for one in read_table(stored)]
            if len(requesters) >= TOKENS_MAX or requesters.count(requester) >= TOKENS_OF_ONE_MAX:
                raise TOO_MANY
            return rows_of(token)

        await self._change(token.id, decide)
        return token

    async def renew(self, secret: bytes, who: Principal, period_ms: int) -> DelegationToken:
        """Put off a token's end; `period_ms` not above 0: by the time that is configured. Raises Refusal."""

        def judge(token: DelegationToken, now_ms: int) -> int:
            if token.has_ended(now_ms):
                raise ENDED
            if not token.is_of(who):
                raise NOT_YOURS
            return now_ms + _within(period_ms, self._period_ms)

        return await self._end(secret, self._clock.wall_ms(), judge)

    async def expire(self, secret: bytes, who: Principal, after_ms: int) -> tuple[DelegationToken, int]:
        """Let a token end after a time, or at once and for ever if that is negative; returns when. Raises Refusal."""

        def judge(token: DelegationToken, now_ms: int) -> int | None:
            if not token.is_of(who):
                raise NOT_YOURS
            if after_ms < 0:
                return None
            if token.has_ended(now_ms):
                raise ENDED
            return now_ms + after_ms

        now_ms = self._clock.wall_ms()
        token = await self._end(secret, now_ms, judge)
        return token, now_ms if after_ms < 0 else token.ends_ms

    async def visible(self, may_see: Callable[[DelegationToken], bool]) -> list[DelegationToken]:
        """The tokens that somebody may see. Raises Refusal."""
        self._require_on()
        return [token async for token in in_turns(list(self._known.values())) if may_see(token)]

    async def _end(self, secret: bytes, now_ms: int, judge: Judge) -> DelegationToken:
        """Give a token the end that it is judged to have, within its life. Raises Refusal."""
        await caught_up(self._store)  # its id is known by its secret, and another process may just have made it
        token = self._by_secret(secret)

        def decide(stored: Settings) -> SettingChanges:
            nonlocal token
            found = token_of(stored, token.id)
            if found is None:
                raise NOT_FOUND
            ends_ms = judge(found, now_ms)
            if ends_ms is None:
                token = found
                return removal_of(token.id)
            token = replace(found, ends_ms=min(ends_ms, found.ends_at_last_ms))
            return renewal_of(token.id, token.ends_ms)

        await self._change(token.id, decide)
        return token

    async def _change(self, token_id: str, decide: Decide) -> None:
        try:
            await self._store.registry.change_settings(TABLE, decide)
        except StoreError as failed:
            raise refusal_of(failed) from failed
        self._take_over_one(token_id)

    def _take_over_one(self, token_id: str) -> None:
        """Put a token's rows into effect: one's own change is there, and maybe later ones of others."""
        token = token_of(self._store.registry.settings(TABLE), token_id)
        if token is None:
            self._forget(token_id)
            return
        self._known[token_id] = token
        if self.is_on:
            self._ids[self._mark(token_id)] = token_id

    async def _sweep(self) -> float:
        """Remove what has ended. Raises StoreError."""
        before_ms = self._clock.wall_ms() - STAYS_MS
        gone = [token.id async for token in in_turns(list(self._known.values())) if token.has_ended(before_ms)]
        gone += left_over(self._store.registry.settings(TABLE))
        for first in range(0, len(gone), REMOVED_AT_ONCE):
            some = gone[first : first + REMOVED_AT_ONCE]
            await self._store.registry.change_settings(TABLE, partial(_ended, some, before_ms))
            for token_id in some:
                self._take_over_one(token_id)
        if gone:
            logger.info("delegation tokens that had ended were removed", extra={"count": len(gone)})
        return self._pause_s

    # --- Secrets ------------------------------------------------------------------------------

    def _require_on(self) -> bytes:
        if self._key is None:
            raise DISABLED
        return self._key

    def secret_of(self, token_id: str) -> bytes:
        """What proves a token. Raises Refusal."""
        return hmac.digest(self._require_on(), token_id.encode(), "sha512")

    def _by_secret(self, secret: bytes) -> DelegationToken:
        """Raises Refusal."""
        self._require_on()
        token = self._known.get(self._ids.get(hashlib.sha256(secret).digest(), ""))
        if token is None:
            raise NOT_FOUND
        return token

    def _made_mark(self, token_id: str) -> bytes:
        return hashlib.sha256(self.secret_of(token_id)).digest()

    def _forget(self, token_id: str) -> None:
        self._known.pop(token_id, None)
        if self.is_on:
            self._ids.pop(self._mark(token_id), None)

    def claim(self, mechanism: str, token_id: str) -> TokenClaim | None:
        """How a client proves a token, whether or not there is one of this id; None without a key. For a thread."""
        if self._key is None:
            return None
        return TokenClaim(self._credential(mechanism, token_id), self._known.get(token_id))

    def _made_credential(self, mechanism: str, token_id: str) -> ScramCredential:
        assert self._key is not None
        drawn = hmac.digest(self._key, f"salt\0{mechanism}\0{token_id}".encode(), "sha512")
        salt = drawn_salt(drawn)
        password = base64.b64encode(self.secret_of(token_id)).decode()
        salted = salted_of(mechanism, password, salt, ITERATIONS_MIN)
        return credential_of_salted(mechanism, salt, salted, ITERATIONS_MIN)


def _new_id() -> str:
    """An id in the form of Kafka's, which its tools take for a word: no dash in front."""
    return secrets.token_urlsafe(ID_BYTES).replace("-", "_")


def _ended(token_ids: Iterable[str], before_ms: int, stored: Settings) -> SettingChanges:
    """What removes those of these tokens that have ended, or of which only a renewal is there."""
    tokens = {token_id: token_of(stored, token_id) for token_id in token_ids}
    gone = [token_id for token_id, token in tokens.items() if token is None or token.has_ended(before_ms)]
    return {key: None for token_id in gone for key in removal_of(token_id) if key in stored}


def _within(asked_ms: int, most_ms: int) -> int:
    """A time that was asked for, within the one that is configured; that one, if none was asked for."""
    return min(asked_ms, most_ms) if asked_ms > 0 else most_ms
