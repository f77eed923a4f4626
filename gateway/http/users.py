"""Who sends a request over HTTP, where `http.auth` asks for that: by a password, a signed token, or a certificate.

Keeps: a refusal is the same for an unknown user and a wrong password, takes as long, and comes after
`connection.failed.authentication.delay.ms`; the reason is for the log. Passwords are judged in one thread, for which at
most `WAITING_MAX` requests wait. A judgement is remembered only while the user's credentials are what they were.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import secrets
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.datastructures import Headers

from gateway.http.problems import Problem
from gateway.security.exchange import Refused
from gateway.security.principal import USER, Principal
from gateway.security.scram import HASHES, NAME_CHARS_MAX, ScramCredential

logger = logging.getLogger(__name__)

BASIC, BEARER, TOKEN, CERTIFICATE = "basic", "bearer", "token", "mtls"
WAYS: Final = (BASIC, BEARER, TOKEN, CERTIFICATE)
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/", "/api"})
"""Probes, and pages that are the same for everybody."""
OPEN_BELOW: Final = "/console/"
METRICS: Final = "/metrics"
WAITING_MAX: Final = 32
REMEMBERED_MAX: Final = 1_000
PASSWORD_BYTES_MAX: Final = 4_096

_Known = tuple[ScramCredential, bool]


class Passwords(Protocol):
    """The users of SCRAM."""

    def find(self, mechanism: str, user: str) -> _Known: ...


class SignedTokens(Protocol):
    """What a signed token must be to count."""

    def check(self, token: str) -> tuple[str, int]:
        """The user, and when the token ends. Raises Refused."""
        ...


Failed = Callable[[str, str, str, str], None]
"""Hears of a failure: the way, the client's address, the user that it claims, the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What counts as a proof."""

    allowed: Collection[str]
    passwords: Callable[[], Passwords | None]
    """None until the store is open."""
    tokens: SignedTokens | None = None
    token: str | None = None
    token_user: str = ""
    delay_s: float = 0.0
    has_open_metrics: bool = True


class HttpUsers:
    """See the module."""

    def __init__(self, ways: Ways, failed: Failed) -> None:
        self._ways = ways
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, "http-authentication")
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._judged: dict[bytes, tuple[Principal, Mapping[str, ScramCredential]]] = {}
        self.failures = 0

    def __repr__(self) -> str:
        return f"<HttpUsers by {', '.join(self._ways.allowed)}>"

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    def are_asked_for(self, path: str) -> bool:
        """Does a path need a user?"""
        if path == METRICS:
            return not self._ways.has_open_metrics
        return path not in OPEN_PATHS and not path.startswith(OPEN_BELOW)

    async def principal_of(self, headers: Headers, host: str, certified: Principal | None) -> Principal:
        """Who sends a request. Raises Problem."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        way = self._way(scheme.lower(), given.strip())
        if way is None:
            if certified is not None and CERTIFICATE in self._ways.allowed:
                return certified
            raise self._unknown()
        try:
            return await self._by_password(given.strip()) if way == BASIC else self._by_bearer(way, given.strip())
        except Refused as refused:
            self.failures += 1
            self._failed(way, host, refused.user or "", str(refused))
            await asyncio.sleep(self._ways.delay_s)
            raise self._unknown() from None

    def _way(self, scheme: str, given: str) -> str | None:
        """How a request's header proves something; None if it has none that may."""
        allowed = self._ways.allowed
        if scheme == BASIC and BASIC in allowed:
            return BASIC
        if scheme != BEARER or not given:
            return None
        token = self._ways.token
        if TOKEN in allowed and token and hmac.compare_digest(given.encode(), token.encode()):
            return TOKEN
        return BEARER if BEARER in allowed else TOKEN if TOKEN in allowed else None

    def _by_bearer(self, way: str, given: str) -> Principal:
        """Raises Refused."""
        if way == TOKEN:
            if not hmac.compare_digest(given.encode(), (self._ways.token or "").encode()):
                raise Refused("a token that is not http.token")
            return Principal(USER, self._ways.token_user)
        assert self._ways.tokens is not None
        user, _ = self._ways.tokens.check(given)
        return Principal(USER, user)

    async def _by_password(self, given: str) -> Principal:
        """Raises Refused, Problem."""
        passwords = self._ways.passwords()
        if passwords is None:
            raise Problem(503, "Not ready", "the gateway does not know its users yet; try again", {"Retry-After": "1"})
        user, password = _user_and_password(given)
        known = {mechanism: passwords.find(mechanism, user) for mechanism in HASHES}
        own = {mechanism: credential for mechanism, (credential, exists) in known.items() if exists}
        mark = hmac.digest(self._key, given.encode(), "sha256")
        judged = self._judged.get(mark)
        if judged is not None and judged[1] == own:
            return judged[0]
        if self._waiting >= WAITING_MAX:
            raise Problem(503, "Busy", "too many passwords at once; try again", {"Retry-After": "1"})
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(self._thread, _proves, known, password)
        finally:
            self._waiting -= 1
        if not is_right:
            raise Refused("an unknown user or a wrong password", user)
        if len(self._judged) >= REMEMBERED_MAX:
            self._judged.clear()
        principal = Principal(USER, user)
        self._judged[mark] = (principal, own)
        return principal

    def _unknown(self) -> Problem:
        allowed = self._ways.allowed
        challenges = ['Basic realm="penstock", charset="UTF-8"'] if BASIC in allowed else []
        if BEARER in allowed or TOKEN in allowed:
            challenges.append("Bearer")
        headers = {"WWW-Authenticate": ", ".join(challenges)} if challenges else {}
        return Problem(401, "Who are you?", f"http.auth asks for a user, by {' or '.join(sorted(allowed))}", headers)


def _user_and_password(given: str) -> tuple[str, str]:
    """Raises Refused."""
    try:
        user, colon, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise Refused("credentials that are no base64 of UTF-8") from None
    if not (user and colon and password) or len(user) > NAME_CHARS_MAX or len(password) > PASSWORD_BYTES_MAX:
        raise Refused("credentials that are no NAME:PASSWORD")
    return user, password


def _proves(known: Mapping[str, _Known], password: str) -> bool:
    """Each mechanism is tried, whether the user has it or not: all users take the same time."""
    tried = [(credential.proves(password), exists) for credential, exists in known.values()]
    return (True, True) in tried
