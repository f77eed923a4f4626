"""OAUTHBEARER: tokens that count, and forged ones (the cases of Kafka's BrokerJwtValidatorTest, and of CVEs)."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.config.layers import ConfigError
from gateway.config.security import ListenerSecurity, TransportKeys
from gateway.security.exchange import Done, More, Refused
from gateway.security.oauth import (
    INVALID,
    KEYS_BYTES_MAX,
    TOKEN_BYTES_MAX,
    BadKeys,
    KeySet,
    OAuthBearerExchange,
    Tokens,
    parse_keys,
)

RSA = rsa.generate_private_key(65_537, 2_048)
OTHER = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())


def now() -> int:
    return int(time.time())


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | more  # type: ignore[no-any-return]


SET = {"keys": [jwk(RSA, "rsa"), jwk(EC, "ec"), {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}]}
PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path: Path) -> KeySet:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(SET))
    made = KeySet("L", file.as_uri(), 3_600_000)
    assert made.renew()
    return made


@pytest.fixture
def tokens(keys: KeySet) -> Tokens:
    own = {
        "sasl.oauthbearer.expected.audience": ["penstock"],
        "sasl.oauthbearer.expected.issuer": "https://idp",
        "sasl.oauthbearer.clock.skew.seconds": 30,
    }
    return Tokens(keys, ListenerSecurity.of(TransportKeys(), own))


def claims(**changes: Any) -> dict[str, Any]:
    usual = {"sub": "alice", "aud": "penstock", "iss": "https://idp", "exp": now() + 300, "iat": now()}
    return {name: value for name, value in (usual | changes).items() if value is not None}


def token(
    key: Any = RSA,
    algorithm: str = "RS256",
    kid: str | None = "rsa",
    head: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    headers = ({"kid": kid} if kid else {}) | (head or {})
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def raw(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def hmac_with(secret: bytes) -> str:
    """RS256 turned into HS256, with the public key as the secret (CVE-2022-29217, CVE-2024-33663)."""
    head = raw({"alg": "HS256", "kid": "rsa"}, claims()).rsplit(".", 1)[0]
    signed = hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(signed).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "made",
    [
        token,
        lambda: token(algorithm="PS384"),
        lambda: token(EC, "ES256", "ec"),
        lambda: token(EC, "ES256", None),  # the only key for that algorithm
        lambda: token(aud=["other", "penstock"]),
        lambda: token(exp=now() - 20),  # within the skew
        lambda: token(nbf=now() + 20),
    ],
)
def test_tokens_that_count(tokens: Tokens, made: Callable[[], str]) -> None:
    """Signed by a known key with an algorithm of its own, not ended, for us, by the issuer."""
    user, _ = tokens.check(made())
    assert user == "alice"


FORGED = {
    "no signature": lambda: raw({"alg": "none"}, claims()),
    "no signature, other letters": lambda: raw({"alg": "nOnE", "kid": "rsa"}, claims()),
    "signature cut off": lambda: token().rsplit(".", 1)[0] + ".",
    "another key": lambda: token(OTHER),
    "changed claims": lambda: ".".join(
        [token().split(".")[0], raw({}, claims(sub="root")).split(".")[1], token().split(".")[2]]
    ),
    "HMAC with the public key": lambda: hmac_with(PUBLIC_PEM),
    "HMAC with a key of the set": lambda: jwt.encode(claims(), "secret" * 10, "HS256", headers={"kid": "oct"}),
    "an algorithm of another key": lambda: token(EC, "ES256", "rsa"),
    "unknown key": lambda: token(kid="../../dev/null"),
    "key id of another type": lambda: raw({"alg": "RS256", "kid": {"a": 1}}, claims(), b"x"),
    "a key in the token": lambda: token(OTHER, kid=None, head={"jwk": jwk(OTHER, "own")}),
    "an address of keys": lambda: token(OTHER, kid="own", head={"jku": "https://127.0.0.1:1/keys", "x5u": "file:///k"}),
    "extensions": lambda: token(head={"crit": ["exp"]}),
    "ended": lambda: token(exp=now() - 60),
    "never ends": lambda: token(exp=None),
    "an end that is no number": lambda: token(exp="soon"),
    "not yet": lambda: token(nbf=now() + 120),
    "made in the future": lambda: token(iat=now() + 120),
    "no audience": lambda: token(aud=None),
    "another audience": lambda: token(aud="other"),
    "another issuer": lambda: token(iss="https://evil"),
    "no issuer": lambda: token(iss=None),
    "no user": lambda: token(sub=None),
    "an empty user": lambda: token(sub=" "),
    "a user that is no text": lambda: raw({"alg": "RS256", "kid": "rsa"}, claims(sub=["alice"]), b"x"),
    "five parts": lambda: token() + ".a.b",
    "too long": lambda: token(junk="x" * TOKEN_BYTES_MAX),
    "no JWT": lambda: "abc",
    "deep": lambda: base64.urlsafe_b64encode(b"[" * 9_000).decode() + ".e30.AA",
}


@pytest.mark.parametrize("fault", FORGED)
def test_forged_tokens(tokens: Tokens, fault: str) -> None:
    """None of them counts."""
    with pytest.raises(Refused):
        tokens.check(FORGED[fault]())


class TestExchange:
    @staticmethod
    def message(token: str, header: str = "n,,", more: str = "") -> bytes:
        return f"{header}\x01auth=Bearer {token}\x01{more}\x01".encode()

    @pytest.mark.parametrize(("header", "more"), [("n,,", ""), ("n,a=alice,", ""), ("n,,", "traceId=1\x01")])
    def test_a_token(self, tokens: Tokens, header: str, more: str) -> None:
        """The user and the token's end."""
        done = OAuthBearerExchange(tokens).step(self.message(token(), header, more), 0)
        assert isinstance(done, Done)
        assert (done.token, done.user) == (b"", "alice")
        assert done.ends_ms == pytest.approx((now() + 300) * 1000, abs=60_000)

    @pytest.mark.parametrize("fault", ["token", "identity"])
    def test_a_refusal(self, tokens: Tokens, fault: str) -> None:
        """RFC 7628: the client is told by JSON, acknowledges, and is refused."""
        header = "n,a=root," if fault == "identity" else "n,,"
        exchange = OAuthBearerExchange(tokens)
        assert exchange.step(self.message(token(OTHER if fault == "token" else RSA), header), 0) == More(INVALID)
        with pytest.raises(Refused):
            exchange.step(b"\x01", 0)
        with pytest.raises(Refused):
            exchange.step(self.message(token()), 0)  # a right one comes too late

    @pytest.mark.parametrize("message", [b"", b"n,,", b"n,,\x01auth=Basic abc\x01\x01", b"\x01" * 70_000])
    def test_messages_that_are_none(self, tokens: Tokens, message: bytes) -> None:
        """Refused at once."""
        with pytest.raises(Refused):
            OAuthBearerExchange(tokens).step(message, 0)


class TestKeys:
    def test_an_unknown_id_has_them_read_at_the_next_look(self, keys: KeySet, tokens: Tokens, tmp_path: Path) -> None:
        """A rotated key counts after it; tokens with made-up ids cause no more than one reading a look."""
        later = rsa.generate_private_key(65_537, 2_048)
        assert not keys.renew()
        for _ in range(10):
            with pytest.raises(Refused):
                tokens.check(token(later, kid="later"))
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": [*SET["keys"], jwk(later, "later")]}))
        assert keys.renew()
        assert not keys.renew()
        assert tokens.check(token(later, kid="later"))[0] == "alice"

    def test_a_broken_set_is_not_used(self, keys: KeySet, tokens: Tokens, tmp_path: Path) -> None:
        """The former goes on, and it is tried again."""
        (tmp_path / "jwks.json").write_text("{")
        assert not keys.renew()
        assert keys.failures == 1
        assert tokens.check(token())[0] == "alice"
        (tmp_path / "jwks.json").write_text(json.dumps(SET))
        assert keys.renew()

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"", "it is no JWKS"),
            (b"-----BEGIN CERTIFICATE-----", "it is no JWKS"),
            (b'{"keys": []}', "it has no public key that verifies signatures"),
            (b"x" * (KEYS_BYTES_MAX + 1), "it has more than 1048576 bytes"),
        ],
    )
    def test_a_file_without_keys_at_a_start(self, tmp_path: Path, text: bytes | None, why: str) -> None:
        """The start ends, with the key, the listener and the file: else every token would be refused, one by one."""
        file = tmp_path / "keys.json"
        if text is not None:
            file.write_bytes(text)
        with pytest.raises(ConfigError) as refused:
            KeySet("SASL_SSL", file.as_uri(), 3_600_000)
        told = f"sasl.oauthbearer.jwks.endpoint.url of listener SASL_SSL, {file.as_uri()}: {why}"
        assert str(refused.value).startswith(told)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keys": 7}',
            b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
            b'{"keys": [{"kty": "RSA"}]}',
            b"[" * 100_000,
        ],
    )
    def test_sets_without_keys(self, text: bytes) -> None:
        """Refused, as nobody could come."""
        with pytest.raises(BadKeys):
            parse_keys(text)

    def test_a_keys_own_algorithm(self) -> None:
        """`alg` of a key narrows it; keys for encryption are left out."""
        (key,) = parse_keys(json.dumps({"keys": [jwk(RSA, "a", alg="RS512"), jwk(OTHER, "b", use="enc")]}).encode())
        assert (key.id, tuple(key.algorithms)) == ("a", ("RS512",))
