"""The life of one connection's SASL, as a state machine without I/O and without a clock.

    HANDSHAKE --SaslHandshake--> TOKEN --SaslAuthenticate (v1), bare tokens (v0)--> READY --SaslHandshake--> TOKEN ...
                                   any refusal --> CLOSED

ApiVersions is answered before the handshake; everything else closes the connection. From READY a client may
authenticate again (KIP-368), with the same mechanism and as the same user: the first time at once, then once a second.

Invariants: no request but ApiVersions, SaslHandshake and SaslAuthenticate is admitted outside of READY, or in READY
after the session's end. A connection's user never changes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.security.exchange import Done, Exchange, Refused
from gateway.security.principal import Principal

SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 17, 18, 36
BARE_TOKENS: Final = 0
"""The version of SaslHandshake after which tokens come without a request around them (KIP-43)."""
REAUTHENTICATION_MS_MIN: Final = 1_000
"""Least time between two times that a connection authenticates again, as in Kafka."""


class State(enum.Enum):
    HANDSHAKE = enum.auto()
    TOKEN = enum.auto()
    READY = enum.auto()
    CLOSED = enum.auto()


@dataclass(frozen=True, slots=True)
class Challenge:
    """The exchange goes on with this token."""

    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The client is this principal, for `lifetime_ms`; 0: for as long as it is connected."""

    token: bytes = field(repr=False)
    principal: Principal
    lifetime_ms: int


@dataclass(frozen=True, slots=True)
class Denied:
    """The connection ends. `why` and `user` are for the log, `message` is for the client."""

    why: str
    user: str | None
    message: str


Outcome = Challenge | Accepted | Denied


class Handshake(enum.Enum):
    """The answer to a SaslHandshake."""

    BEGUN = enum.auto()
    UNSUPPORTED = enum.auto()
    ILLEGAL = enum.auto()


class SaslSession:
    """See the module. `mechanisms`: by name, what begins an exchange; `lifetime_ms`: 0 for no end."""

    def __init__(self, mechanisms: Mapping[str, Callable[[], Exchange]], lifetime_ms: int) -> None:
        self._mechanisms = mechanisms
        self._lifetime_ms = lifetime_ms
        self.state = State.HANDSHAKE
        self.mechanism: str | None = None
        self.principal: Principal | None = None
        self.takes_bare_tokens = False
        self.came_by_token = False
        self._exchange: Exchange | None = None
        self._ends_ms: int | None = None
        self._again_ms: int | None = None  # when the client began to authenticate again

    def __repr__(self) -> str:
        return f"<SaslSession {self.state.name} {self.mechanism} {self.principal}>"

    @property
    def mechanisms(self) -> list[str]:
        return list(self._mechanisms)

    def is_slow(self, token: bytes) -> bool:
        """Does the step with this token compute for long?"""
        return self._exchange is not None and self._exchange.is_slow(token)

    def refusal(self, api_key: int, now_ms: int) -> str | None:
        """Why a request is not admitted now, or None."""
        if self.state is State.READY:
            if self._ends_ms is not None and now_ms >= self._ends_ms and api_key != SASL_HANDSHAKE:
                return "its session has ended, and it did not authenticate again"
            return None
        if api_key in (API_VERSIONS, SASL_HANDSHAKE) and self.state is State.HANDSHAKE:
            return None
        if api_key == SASL_AUTHENTICATE and self.state is State.TOKEN:
            return None
        return f"a request with API key {api_key} before it has authenticated"

    def handshake(self, version: int, mechanism: str, now_ms: int) -> Handshake:
        """The client chooses a mechanism."""
        if self.state is State.READY:
            if self._again_ms is not None and now_ms - self._again_ms < REAUTHENTICATION_MS_MIN:
                return Handshake.ILLEGAL
            self._again_ms = now_ms
        elif self.state is not State.HANDSHAKE:
            return Handshake.ILLEGAL
        begin = self._mechanisms.get(mechanism)
        if begin is None or (self.mechanism is not None and mechanism != self.mechanism):
            self.state = State.CLOSED
            return Handshake.UNSUPPORTED
        self.mechanism = mechanism
        self._exchange = begin()
        self.takes_bare_tokens = version == BARE_TOKENS
        self.state = State.TOKEN
        return Handshake.BEGUN

    def authenticate(self, token: bytes, now_ms: int) -> Outcome:
        """The client's next token; only in TOKEN."""
        assert self._exchange is not None
        assert self.state is State.TOKEN
        try:
            step = self._exchange.step(token, now_ms)
            if not isinstance(step, Done):
                return Challenge(step.token)
            return self._accepted(step, now_ms)
        except Refused as refused:
            self.state = State.CLOSED
            self._exchange = None
            again = "re-authentication" if self.principal else "authentication"
            message = (
                f"Authentication failed during {again} due to invalid credentials with SASL mechanism {self.mechanism}"
            )
            return Denied(str(refused), refused.user, message)

    def _accepted(self, done: Done, now_ms: int) -> Accepted:
        """Raises Refused."""
        principal = Principal("User", done.user)
        if self.principal is not None and principal != self.principal:
            raise Refused(f"it was {self.principal} before, and cannot become another", done.user)
        lifetimes = [self._lifetime_ms] if self._lifetime_ms else []
        if done.ends_ms is not None:
            if done.ends_ms <= now_ms:
                raise Refused("what it proves has ended", done.user)
            lifetimes.append(done.ends_ms - now_ms)
        lifetime_ms = min(lifetimes, default=0)
        self._ends_ms = now_ms + lifetime_ms if lifetimes else None
        self.principal = principal
        self.came_by_token = done.by_token
        self._exchange = None
        self.takes_bare_tokens = False
        self.state = State.READY
        return Accepted(done.token, principal, lifetime_ms)

    @property
    def has_an_end(self) -> bool:
        """Must each request be looked at, even in READY?"""
        return self._ends_ms is not None
