"""OAUTHBEARER (RFC 7628, KIP-255, KIP-768): a signed token (JWT) says who the client is.

Invariants:
- A token counts only if a key of the configured set signed it, with an algorithm that is made for that key; never
  without a signature, and never with a shared secret. Nothing that a token names (`jku`, `x5u`, `jwk`) is read.
- It must end (`exp`), name its user, and be meant for us (`aud`); an issuer is checked if one is configured.
- A file that has no keys ends the start; an issuer that is away is asked again and again, as others may come meanwhile.
- No client makes us fetch keys: an unknown key id only has them read at the next look, as for changed files.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import jwt
import urllib3

from gateway.config.layers import ConfigError
from gateway.config.security import ListenerSecurity
from gateway.security.exchange import Done, More, Refused, Step

logger = logging.getLogger(__name__)

TOKEN_BYTES_MAX: Final = 16 * 1024
USER_CHARS_MAX: Final = 1_024
KEYS_BYTES_MAX: Final = 1024 * 1024
KEYS_MAX: Final = 100
FETCH_S_MAX: Final = 10.0
_ALGORITHMS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
"""By a key's type and curve: what may be signed with it. `none` and HMAC are nowhere."""
_FIRST: Final = re.compile(
    rb"[ny],(?:a=(?P<authzid>[^,\x01]*))?,\x01(?:[A-Za-z]+=[^\x01]*\x01)*?"
    rb"auth=[Bb]earer +(?P<token>[A-Za-z0-9._~+/=-]+)\x01(?:[A-Za-z]+=[^\x01]*\x01)*\x01"
)
INVALID: Final = b'{"status":"invalid_token"}'


class BadKeys(ValueError):
    """The set of keys cannot be used."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the set, with the algorithms that it may be used with."""

    id: str | None
    key: Any
    algorithms: Sequence[str]


def parse_keys(text: bytes) -> tuple[Key, ...]:
    """The keys of a JWKS that verify signatures; others are left out. Raises BadKeys."""
    try:
        listed = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadKeys("it is no JWKS: a JSON object with `keys`") from None
    found: list[Key] = []
    for jwk in listed[:KEYS_MAX] if isinstance(listed, list) else ():
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            continue
        kind = str(jwk.get("kty"))
        algorithms = _ALGORITHMS.get((kind, "" if kind == "RSA" else str(jwk.get("crv"))), ())
        if "alg" in jwk:
            algorithms = tuple(one for one in algorithms if one == jwk["alg"])
        if not algorithms:
            continue
        public = {name: value for name, value in jwk.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
        try:
            key = jwt.PyJWK(public, algorithms[0]).key
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        kid = jwk.get("kid")
        found.append(Key(kid if isinstance(kid, str) else None, key, algorithms))
    if not found:
        raise BadKeys("it has no public key that verifies signatures (RSA, EC or OKP)")
    return tuple(found)


class KeySet:
    """The keys of one address, as they were read last."""

    def __init__(self, listener: str, url: str, refresh_ms: int) -> None:
        """Looks into a file, not at another address. Raises ConfigError."""
        self._listener = listener
        self._url = url
        self._refresh_s = refresh_ms / 1000
        self._read_s = float("-inf")
        self._is_wanted = True
        self._file_state: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.keys: tuple[Key, ...] = ()
        self.failures = 0
        if self._path() is not None:
            self._check_file()

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that may have signed this. An unknown id has the keys read again at the next look."""
        fitting = [key for key in self.keys if algorithm in key.algorithms and kid in (None, key.id)]
        if not fitting and kid is not None:
            self._is_wanted = True
        return fitting[0] if len(fitting) == 1 else None

    def renew(self) -> bool:
        """Read the keys if it is time to. Waits for disk and network: for a thread."""
        with self._lock:
            has_changed = self._has_changed()
            is_old = time.monotonic() - self._read_s >= self._refresh_s
            if not (self._is_wanted or is_old or has_changed):
                return False
            self._is_wanted, self._read_s = False, time.monotonic()
            try:
                self.keys = parse_keys(self._read())
            except (OSError, BadKeys, urllib3.exceptions.HTTPError) as error:
                self.failures += 1
                self._is_wanted = True
                extra = {"listener": self._listener, "url": self._url[:300], "error": str(error)[:300]}
                logger.error("the keys of tokens could not be read, will be tried again", extra=extra)
                return False
            return True

    def _path(self) -> Path | None:
        parts = urlsplit(self._url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def _check_file(self) -> None:
        try:
            parse_keys(self._read())
        except (OSError, ValueError) as wrong:
            why = f"cannot be read: {wrong.strerror}" if isinstance(wrong, OSError) else str(wrong)
            key = f"sasl.oauthbearer.jwks.endpoint.url of listener {self._listener}"
            raise ConfigError([f"{key}, {self._url[:300]}: {why}"]) from wrong

    def _has_changed(self) -> bool:
        path = self._path()
        if path is None:
            return False
        try:
            found = path.stat()
        except OSError:
            return False
        state = (found.st_mtime_ns, found.st_ino)
        changed, self._file_state = state != self._file_state, state
        return changed

    def _read(self) -> bytes:
        """Raises OSError, BadKeys, urllib3's errors."""
        path = self._path()
        if path is not None:
            with path.open("rb") as stream:
                content = stream.read(KEYS_BYTES_MAX + 1)
        else:
            with urllib3.PoolManager(cert_reqs="CERT_REQUIRED", retries=False) as pool:
                answer = pool.request("GET", self._url, redirect=False, timeout=FETCH_S_MAX, preload_content=False)
                if answer.status != 200:
                    raise BadKeys(f"the answer has status {answer.status}")
                content = answer.read(KEYS_BYTES_MAX + 1)
        if len(content) > KEYS_BYTES_MAX:
            raise BadKeys(f"it has more than {KEYS_BYTES_MAX} bytes")
        return content


class Tokens:
    """What a token must be to count on one listener."""

    def __init__(self, keys: KeySet, security: ListenerSecurity) -> None:
        self._keys = keys
        self._audience = list(security.sasl_oauthbearer_expected_audience)
        self._issuer = security.sasl_oauthbearer_expected_issuer
        self._skew_s = security.sasl_oauthbearer_clock_skew_seconds
        self._user_claim = security.sasl_oauthbearer_sub_claim_name

    def check(self, token: str) -> tuple[str, int]:
        """The user, and when the token ends in ms since 1970. Raises Refused."""
        if len(token) > TOKEN_BYTES_MAX:
            raise Refused(f"a token of {len(token)} bytes, at most {TOKEN_BYTES_MAX} are read")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Refused("a token that is no JWT") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if "crit" in header:
            raise Refused("a token with extensions that must be understood")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None):
            raise Refused("a token whose header names no algorithm")
        key = self._keys.find(kid, algorithm)
        if key is None:
            raise Refused(f"a token by no known key: algorithm {algorithm[:20]!r}, key id {str(kid)[:60]!r}")
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._skew_s,
                options={"require": ["exp", "aud", self._user_claim], "verify_sub": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Refused(f"a token that does not hold: {str(error)[:200]}") from None
        user = claims.get(self._user_claim)
        if not isinstance(user, str) or not user.strip() or len(user) > USER_CHARS_MAX:
            raise Refused(f"a token whose claim {self._user_claim} is no user's name")
        return user, int(claims["exp"]) * 1000


class OAuthBearerExchange:
    """The server's side of one exchange."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._refused: Refused | None = None

    def is_slow(self, token: bytes) -> bool:
        return False  # a signature takes a tenth of a millisecond

    def step(self, token: bytes, now_ms: int) -> Step:
        """Take the client's next message. Raises Refused, in the second step: the first tells the client that its
        token is none, which it has to acknowledge (RFC 7628, section 3.2.3)."""
        if self._refused is not None:
            raise self._refused
        match = _FIRST.fullmatch(token) if len(token) <= 2 * TOKEN_BYTES_MAX else None
        if match is None:
            raise Refused("a message that is none of OAUTHBEARER's")
        try:
            user, ends_ms = self._tokens.check(match["token"].decode())
            if match["authzid"] and match["authzid"] != user.encode():
                raise Refused("it asks to be another than it proves", user)
        except Refused as refused:
            self._refused = refused
            return More(INVALID)
        return Done(b"", user, ends_ms)
