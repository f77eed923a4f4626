"""Delegation tokens over the wire: how long they let in, what restarts leave, bounds, and what the audit log hears.

Who may do what is compared with Kafka in tests/likeness/test_tokens.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.broker import Broker
from gateway.security import delegation_tokens
from gateway.wire.message import Message
from tests.gateway.apis.test_sasl import SHA_256, SHA_512, driven, guarded, login
from tests.gateway.harness import Client
from tests.gateway.security.harness import STANDARD
from tests.gateway.security.scram_client import ScramClient

pytestmark = pytest.mark.slow

CREATE, RENEW, EXPIRE, DESCRIBE = 38, 39, 40, 41
HANDSHAKE, AUTHENTICATE, METADATA = 17, 36, 3
KEY: Final = "delegation.token.secret.key=a key of tests"
NONE: Final[dict[str, Any]] = {
    "owner_principal_type": None,
    "owner_principal_name": None,
    "renewers": [],
    "max_lifetime": -1,
}
NOT_FOUND, EXPIRED, POLICY_VIOLATION, AUTH_DISABLED = 62, 66, 44, 61


async def alice(broker: Broker) -> Client:
    client = await Client.connect(broker)
    assert (await login(client)).error_code == 0
    return client


async def made(client: Client, **changes: Any) -> Message:
    return await client.ask(CREATE, 3, NONE | changes)


async def come(
    broker: Broker, token: Message, mechanism: str = SHA_512, secret: bytes | None = None, client: Client | None = None
) -> tuple[Client, Message]:
    """Come in by a token; the client, and the last answer."""
    client = client or await Client.connect(broker)
    password = base64.b64encode(secret or bytes(token.hmac)).decode()
    scram = ScramClient(mechanism, token.token_id, password, extensions=",tokenauth=true")
    assert (await client.ask(HANDSHAKE, 1, {"mechanism": mechanism})).error_code == 0
    first = await client.ask(AUTHENTICATE, 2, {"auth_bytes": scram.first()})
    last = await client.ask(AUTHENTICATE, 2, {"auth_bytes": scram.final(bytes(first.auth_bytes))})
    assert last.error_code or scram.accepts(bytes(last.auth_bytes))
    return client, last


async def principals(broker: Broker) -> set[str]:
    assert broker._server is not None
    return {str(connection.principal) for connection in broker._server.connections}


@driven
async def test_by_either_mechanism(tmp_path: Path) -> None:
    """Who comes by a token is its owner, for no longer than the token lasts."""
    async with guarded(tmp_path, KEY) as broker:
        token = await made(await alice(broker), max_lifetime=600_000)
        for mechanism in (SHA_256, SHA_512):
            client, last = await come(broker, token, mechanism)
            assert last.error_code == 0
            assert 0 < last.session_lifetime <= 600_000
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers
        assert await principals(broker) == {"User:alice"}


@driven
async def test_who_came_by_a_token_that_ends(tmp_path: Path) -> None:
    """After its end the connection closes, and the token lets nobody in; nor can it be renewed."""
    async with guarded(tmp_path, KEY, "connection.failed.authentication.delay.ms=1") as broker:
        owner = await alice(broker)
        token = await made(owner, max_lifetime=1_500)
        client, last = await come(broker, token)
        assert last.error_code == 0
        while await _answers(client):
            pass
        assert (await come(broker, token))[1].error_code == 58
        renewed = await owner.ask(RENEW, 2, {"hmac": bytes(token.hmac), "renew_period": -1})
        assert renewed.error_code == EXPIRED


async def _answers(client: Client) -> bool:
    try:
        return bool((await client.ask(METADATA, 12, {"topics": []})).brokers)
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


@driven
async def test_over_restarts(tmp_path: Path) -> None:
    """A token lasts, with its renewals; one that was ended does not; with another key none lets in."""
    async with guarded(tmp_path, KEY) as broker:
        owner = await alice(broker)
        token, gone = await made(owner), await made(owner)
        shorter = await owner.ask(RENEW, 2, {"hmac": bytes(token.hmac), "renew_period": 60_000})
        await owner.ask(EXPIRE, 2, {"hmac": bytes(gone.hmac), "expiry_time_period": -1})
    async with guarded(tmp_path, KEY, "connection.failed.authentication.delay.ms=1") as broker:
        assert (await come(broker, token))[1].error_code == 0
        assert (await come(broker, gone))[1].error_code == 58
        (seen,) = (await (await alice(broker)).ask(DESCRIBE, 3, {"owners": None})).tokens
        assert (seen.token_id, seen.expiry_timestamp) == (token.token_id, shorter.expiry_timestamp)
        assert bytes(seen.hmac) == bytes(token.hmac)
    async with guarded(tmp_path, f"{KEY}, another", "connection.failed.authentication.delay.ms=1") as broker:
        assert (await come(broker, token))[1].error_code == 58


@driven
async def test_without_a_key(tmp_path: Path) -> None:
    """DELEGATION_TOKEN_AUTH_DISABLED, and nobody comes by a token."""
    async with guarded(tmp_path, "connection.failed.authentication.delay.ms=1") as broker:
        owner = await alice(broker)
        assert (await made(owner)).error_code == AUTH_DISABLED
        assert (await owner.ask(RENEW, 2, {"hmac": b"x", "renew_period": -1})).error_code == AUTH_DISABLED
        assert (await owner.ask(EXPIRE, 2, {"hmac": b"x", "expiry_time_period": -1})).error_code == AUTH_DISABLED
        assert (await owner.ask(DESCRIBE, 3, {"owners": None})).error_code == AUTH_DISABLED
        client = await Client.connect(broker)
        scram = ScramClient(SHA_512, "alice", "wonder-land", extensions=",tokenauth=true")
        await client.ask(HANDSHAKE, 1, {"mechanism": SHA_512})
        first = await client.ask(AUTHENTICATE, 2, {"auth_bytes": scram.first()})
        last = await client.ask(AUTHENTICATE, 2, {"auth_bytes": scram.final(bytes(first.auth_bytes))})
        assert last.error_code == 58


@driven
async def test_who_exists_is_not_told(tmp_path: Path) -> None:
    """Ids of tokens and ids of none get challenges of one form, and each its own salt, which stays."""
    async with guarded(tmp_path, KEY) as broker:
        token = await made(await alice(broker))
        salts: dict[str, set[bytes]] = {}
        for token_id in (token.token_id, "none-of-them") * 2:
            client = await Client.connect(broker)
            await client.ask(HANDSHAKE, 1, {"mechanism": SHA_512})
            first = ScramClient(SHA_512, token_id, "x", extensions=",tokenauth=true").first()
            answer = bytes((await client.ask(AUTHENTICATE, 2, {"auth_bytes": first})).auth_bytes)
            _, salt, iterations = answer.split(b",")
            assert iterations == b"i=4096"
            salts.setdefault(token_id, set()).add(salt)
        assert [len(some) for some in salts.values()] == [1, 1]
        assert len(set.union(*salts.values())) == 2


@driven
async def test_bounds(tmp_path: Path) -> None:
    """Too many tokens of one principal, and too many characters, are POLICY_VIOLATION."""
    async with guarded(tmp_path, KEY) as broker:
        owner = await alice(broker)
        long = [{"principal_type": "User", "principal_name": "x" * delegation_tokens.RENEWERS_CHARS_MAX}]
        assert (await made(owner, renewers=long)).error_code == POLICY_VIOLATION
        asked = [owner.send(CREATE, 3, NONE) for _ in range(delegation_tokens.TOKENS_OF_ONE_MAX + 1)]
        codes = [(await owner.receive(one)).error_code for one in asked]
        assert codes == [0] * delegation_tokens.TOKENS_OF_ONE_MAX + [POLICY_VIOLATION]


@driven
async def test_what_has_ended_is_removed(tmp_path: Path) -> None:
    """From the table, by the search of `delegation.token.expiry.check.interval.ms`."""
    settings = (KEY, "delegation.token.expiry.check.interval.ms=50")
    async with guarded(tmp_path, *settings) as broker:
        tokens = broker.delegation_tokens
        owner = await alice(broker)
        await made(owner, max_lifetime=1)
        assert (await made(owner)).error_code == 0
        wall_ms = broker.clock.wall_ms() + delegation_tokens.STAYS_MS + 2
        broker.clock.wall_ms = lambda: wall_ms  # type: ignore[method-assign]
        while len(tokens) > 1:
            await owner.ask(METADATA, 12, {"topics": []})
        assert len(broker.store.registry.settings("delegationtokens")) == 2


@driven
async def test_the_audit_log(tmp_path: Path) -> None:
    """It hears who made, renewed and ended which token, and never the secret."""
    path = tmp_path.parent / f"{tmp_path.name}.audit"
    rights = (STANDARD, "super.users=User:alice", f"audit.log={path}")
    async with guarded(tmp_path, KEY, *rights) as broker:
        owner = await alice(broker)
        token = await made(owner)
        await owner.ask(RENEW, 2, {"hmac": bytes(token.hmac), "renew_period": -1})
        await owner.ask(EXPIRE, 2, {"hmac": bytes(token.hmac), "expiry_time_period": -1})
    text = path.read_text()
    told = [line for line in map(json.loads, text.splitlines()) if "token" in line]
    assert [line["event"] for line in told] == [
        "delegation token created",
        "delegation token renewed",
        "delegation token expired",
    ]
    assert {line["token"] for line in told} == {token.token_id}
    assert {line["principal"] for line in told} == {"User:alice"}
    assert bytes(token.hmac).hex() not in text
    assert base64.b64encode(bytes(token.hmac)).decode() not in text
