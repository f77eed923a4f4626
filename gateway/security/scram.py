"""SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677): credentials, and the server's side of the exchange.

A credential proves a password without holding it. As in Kafka, names and passwords are their UTF-8 bytes; channel
binding is not offered.

Invariants:
- A user who does not exist goes through the same exchange, with a salt that stays the same, and fails at its end;
  nothing that a client sees before tells that user from another with a wrong password.
- A proof counts for the server's nonce of this exchange only, so a recorded one is of no use. librdkafka before 2.6.1
  puts the client's part in front of it a second time; that form counts, and no other (decision 0090).
- With `tokenauth=true` the name is a delegation token's id and the password its secret; the client is then the token's
  owner. A user's password never does for a token, nor a token's secret for a user.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.security.delegation_rows import DelegationToken
from gateway.security.exchange import Done, More, Refused, Step

HASHES: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ITERATIONS_MIN: Final = 4_096
ITERATIONS_MAX: Final = 16_384
NAME_CHARS_MAX: Final = 1_024
NONCE_CHARS_MAX: Final = 256
_SALT_BITS: Final = 130
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_NAME: Final = r"(?:[^,=\0]|=2C|=3D)+"
_BY_TOKEN: Final = re.compile(r",tokenauth=true(?:,|$)", re.I)
_PRINTABLE: Final = r"[\x21-\x2b\x2d-\x7e]+"
_FIRST: Final = re.compile(
    rf"(?P<binding>[ny]),(?:a=(?P<authzid>{_NAME}))?,(?P<bare>n=(?P<user>{_NAME}),r=(?P<nonce>{_PRINTABLE})"
    rf"(?P<extensions>(?:,[A-Za-z]+=[^,\0]+)*))",
    re.S,
)
_FINAL: Final = re.compile(
    rf"(?P<unproved>c=(?P<binding>[A-Za-z0-9+/=]+),r=(?P<nonce>{_PRINTABLE})(?:,[A-Za-z]=[^,\0]+)*),p=(?P<proof>[A-Za-z0-9+/=]+)",
    re.S,
)
_TEXT: Final = re.compile(r"(SCRAM-SHA-(?:256|512))\$(\d{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class ScramCredential:
    """What the server keeps of a password."""

    mechanism: str
    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def proves(self, password: str) -> bool:
        """Is it this password's? Takes `iterations` hashes, a millisecond or more: for a thread."""
        salted = salt_password(self.mechanism, password, self.salt, self.iterations)
        return secrets.compare_digest(_keys(self.mechanism, salted)[0], self.stored_key)

    def to_text(self) -> str:
        """One line, in the form in which PostgreSQL writes such credentials."""
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{self.mechanism}${self.iterations}:{salt}${stored}:{server}"

    @classmethod
    def from_text(cls, text: str) -> ScramCredential:
        """The inverse of `to_text`. Raises ValueError, whose message does not show the text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("it is not MECHANISM$ITERATIONS:SALT$STORED_KEY:SERVER_KEY")
        try:
            salt, stored, server = (base64.b64decode(part, validate=True) for part in match.group(3, 4, 5))
        except binascii.Error:
            raise ValueError("its salt or keys are not base64") from None
        size = hashlib.new(HASHES[match[1]]).digest_size
        if len(stored) != size or len(server) != size or not 1 <= int(match[2]) <= ITERATIONS_MAX:
            raise ValueError(f"its keys do not have {size} bytes, or its iterations are more than {ITERATIONS_MAX}")
        return cls(match[1], int(match[2]), salt, stored, server)


def credential(mechanism: str, password: str, iterations: int = ITERATIONS_MIN) -> ScramCredential:
    """A new credential of a password. Takes `iterations` hashes."""
    salt = _in_base_36(secrets.randbits(_SALT_BITS))
    return credential_of_salted(mechanism, salt, salt_password(mechanism, password, salt, iterations), iterations)


def credential_of_salted(mechanism: str, salt: bytes, salted: bytes, iterations: int) -> ScramCredential:
    """The credential of a salted password, as AlterUserScramCredentials brings it."""
    stored_key, server_key = _keys(mechanism, salted)
    return ScramCredential(mechanism, iterations, salt, stored_key, server_key)


def salt_password(mechanism: str, password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac(HASHES[mechanism], password.encode(), salt, iterations)


def unknown_credential(mechanism: str, user: str, secret: bytes, iterations: int) -> ScramCredential:
    """A credential for a user who does not exist: always the same for one name, and no password is its own."""
    drawn = hmac.digest(secret, f"{mechanism}\0{user}".encode(), "sha512")
    salt = drawn_salt(drawn)
    size = hashlib.new(HASHES[mechanism]).digest_size
    return ScramCredential(mechanism, iterations, salt, secrets.token_bytes(size), secrets.token_bytes(size))


Lookup = Callable[[str], tuple[ScramCredential, bool]]
"""The credential of a user, and whether that user exists."""


class TokenClaim(NamedTuple):
    """How a delegation token is proved, and the token, if there is one."""

    credential: ScramCredential
    token: DelegationToken | None


Claims = Callable[[str], TokenClaim | None]
"""By a token's id; None where there are no tokens."""


class ScramExchange:
    """The server's side of one exchange."""

    def __init__(self, mechanism: str, lookup: Lookup, claims: Claims) -> None:
        self._mechanism = mechanism
        self._hash = HASHES[mechanism]
        self._lookup = lookup
        self._claims = claims
        self._token: DelegationToken | None = None
        self._user: str | None = None
        self._exists = False
        self._header = b""
        self._nonces: tuple[str, ...] = ()  # that the final message may have
        self._begun = ""  # client-first-bare and server-first
        self._credential: ScramCredential | None = None

    def is_slow(self, token: bytes) -> bool:
        return b"tokenauth=" in token.lower()

    def step(self, token: bytes, now_ms: int) -> Step:
        """Take the client's next message. Raises Refused."""
        try:
            text = token.decode()
        except UnicodeDecodeError:
            raise Refused("a message that is no UTF-8") from None
        return self._first(text) if self._credential is None else self._final(text)

    def _first(self, text: str) -> Step:
        match = _FIRST.fullmatch(text)
        if match is None:
            binds = text.startswith("p=")
            raise Refused("it asks for channel binding" if binds else "a first message that is none of SCRAM's")
        user = _unescaped(match["user"])
        if len(user) > NAME_CHARS_MAX or len(match["nonce"]) > NONCE_CHARS_MAX:
            raise Refused(f"a name of {len(user)} or a nonce of {len(match['nonce'])} characters")
        if match["authzid"] is not None and _unescaped(match["authzid"]) != user:
            raise Refused("it asks to be another than it proves", user)
        self._user = user
        claim = self._claims(user) if _BY_TOKEN.search(match["extensions"]) else None
        if claim is not None:
            self._credential, self._token = claim
            self._exists = self._token is not None
        else:
            self._credential, self._exists = self._lookup(user)
            self._exists &= not _BY_TOKEN.search(match["extensions"])
        self._header = text[: match.start("bare")].encode()
        nonce = match["nonce"] + secrets.token_urlsafe(24)
        self._nonces = (nonce, match["nonce"] + nonce)
        salt = base64.b64encode(self._credential.salt).decode()
        answer = f"r={nonce},s={salt},i={self._credential.iterations}"
        self._begun = f"{match['bare']},{answer}"
        return More(answer.encode())

    def _final(self, text: str) -> Step:
        own = self._credential
        assert own is not None
        match = _FINAL.fullmatch(text)
        if match is None:
            raise Refused("a final message that is none of SCRAM's", self._user)
        proof, header = _decoded(match["proof"]), _decoded(match["binding"])
        if not any(secrets.compare_digest(match["nonce"].encode(), nonce.encode()) for nonce in self._nonces):
            raise Refused("a nonce that is not this exchange's", self._user)
        if header != self._header:
            raise Refused("channel binding that differs from its first message", self._user)
        message = f"{self._begun},{match['unproved']}".encode()
        signature = hmac.digest(own.stored_key, message, self._hash)
        if proof is None or len(proof) != len(signature):
            raise Refused("a proof of another length", self._user)
        client_key = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
        proved = secrets.compare_digest(hashlib.new(self._hash, client_key).digest(), own.stored_key)
        if not (proved and self._exists):
            raise Refused("a wrong password" if self._exists else "an unknown user or token", self._user)
        verifier = base64.b64encode(hmac.digest(own.server_key, message, self._hash)).decode()
        assert self._user is not None
        self._nonces = ()  # of no further use
        if self._token is not None:
            return Done(f"v={verifier}".encode(), self._token.owner.name, self._token.ends_ms, by_token=True)
        return Done(f"v={verifier}".encode(), self._user)


def _keys(mechanism: str, salted: bytes) -> tuple[bytes, bytes]:
    name = HASHES[mechanism]
    client_key = hmac.digest(salted, b"Client Key", name)
    return hashlib.new(name, client_key).digest(), hmac.digest(salted, b"Server Key", name)


def _unescaped(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def drawn_salt(drawn: bytes) -> bytes:
    """A salt from random bytes."""
    return _in_base_36(int.from_bytes(drawn[:17], "big") >> 6)


def _in_base_36(number: int) -> bytes:
    """Salts as Kafka's tools make them: if ours had another form, it would tell which users do not exist."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits.encode() or b"0"
