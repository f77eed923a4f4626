"""SASL over the wire: handshakes, exchanges, users that Kafka's tools make, and what strangers may do before."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
import uvloop

from gateway.broker import Broker
from gateway.config.addresses import parse_kafka_listener
from gateway.config.loading import load
from gateway.data_directory import SCRAM_USERS_FILE, DataDirectory
from gateway.network.binding import bind_all
from gateway.security.scram import credential
from gateway.security.scram_users import TABLE, decode_credential, encode_credential, pending_text
from gateway.wire.message import Message
from tests.gateway.harness import SETTINGS as DATA_SETTINGS
from tests.gateway.harness import Client, running_broker
from tests.gateway.security.scram_client import ScramClient

pytestmark = pytest.mark.slow

METADATA, API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE, DESCRIBE, ALTER = 3, 18, 17, 36, 50, 51
SHA_256, SHA_512 = "SCRAM-SHA-256", "SCRAM-SHA-512"
NUMBERS: Final = {SHA_256: 1, SHA_512: 2}
PASSWORD: Final = "wonder-land"
SETTINGS: Final = (
    "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN",
    f'sasl.jaas.config=PlainLoginModule required user_paul="{PASSWORD}";',
)


def driven(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test's coroutine on the loop that the gateway runs on."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        uvloop.run(asyncio.wait_for(test(*arguments, **named), 60))

    return run


@contextlib.asynccontextmanager
async def guarded(directory: Path, *settings: str) -> AsyncIterator[Broker]:
    """A broker whose listener asks for SASL; alice is a user of SCRAM-SHA-512."""
    if not (directory / "store").exists():
        alice = ("alice", SHA_512, credential(SHA_512, PASSWORD))
        (directory / SCRAM_USERS_FILE).write_text(pending_text([alice]))
    async with running_broker(directory, *SETTINGS, *settings) as broker:
        yield broker


async def login(
    client: Client, mechanism: str = SHA_512, user: str = "alice", password: str = PASSWORD, version: int = 2
) -> Message:
    """The last answer of an exchange by SCRAM."""
    scram = ScramClient(mechanism, user, password)
    shaken = await client.ask(SASL_HANDSHAKE, 1, {"mechanism": mechanism})
    assert shaken.error_code == 0
    first = await client.ask(SASL_AUTHENTICATE, version, {"auth_bytes": scram.first()})
    assert (first.error_code, first.error_message) == (0, None)
    last = await client.ask(SASL_AUTHENTICATE, version, {"auth_bytes": scram.final(bytes(first.auth_bytes))})
    assert last.error_code != 0 or scram.accepts(bytes(last.auth_bytes))
    return last


async def plain(client: Client, user: str, password: str) -> Message:
    await client.ask(SASL_HANDSHAKE, 1, {"mechanism": "PLAIN"})
    return await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": f"\0{user}\0{password}".encode()})


def upsertion(user: str, password: str, mechanism: str = SHA_256, iterations: int = 4096) -> dict[str, Any]:
    salt = b"salt-of-the-client"
    name = {SHA_256: "sha256", SHA_512: "sha512"}[mechanism]
    salted = hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations)
    return {
        "name": user,
        "mechanism": NUMBERS[mechanism],
        "iterations": iterations,
        "salt": salt,
        "salted_password": salted,
    }


async def alter(
    client: Client, *upsertions: dict[str, Any], deletions: tuple[tuple[str, str], ...] = ()
) -> dict[str, int]:
    gone = [{"name": user, "mechanism": NUMBERS[mechanism]} for user, mechanism in deletions]
    answer = await client.ask(ALTER, 0, {"deletions": gone, "upsertions": list(upsertions)})
    return {result.user: result.error_code for result in answer.results}


class TestExchanges:
    @pytest.mark.parametrize("version", [0, 1, 2])
    @driven
    async def test_scram(self, tmp_path: Path, version: int) -> None:
        """The client is in, and is the user that it proved."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            assert (
                await client.ask(API_VERSIONS, 3, {"client_software_name": "a", "client_software_version": "1"})
            ).api_keys
            assert (await login(client, version=version)).error_code == 0
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers
            (connection,) = broker._server.connections  # type: ignore[union-attr]
            assert str(connection.principal) == "User:alice"

    @driven
    async def test_plain(self, tmp_path: Path) -> None:
        """A user of `sasl.jaas.config`."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            assert (await plain(client, "paul", PASSWORD)).error_code == 0
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers

    @driven
    async def test_bare_tokens(self, tmp_path: Path) -> None:
        """SaslHandshake v0: tokens with a length in front, without requests around them."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            scram = ScramClient(SHA_512, "alice", PASSWORD)
            shaken = await client.ask(SASL_HANDSHAKE, 0, {"mechanism": SHA_512})
            assert set(shaken.mechanisms) == {SHA_256, SHA_512, "PLAIN"}

            async def token(token: bytes) -> bytes:
                client._writer.write(struct.pack(">i", len(token)) + token)
                (size,) = struct.unpack(">i", await client._reader.readexactly(4))
                return await client._reader.readexactly(size)

            assert scram.accepts(await token(scram.final(await token(scram.first()))))
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers

    @pytest.mark.parametrize(
        ("mechanism", "user", "password"),
        [(SHA_512, "alice", "wrong"), (SHA_512, "nobody", "wrong"), (SHA_256, "alice", PASSWORD)],
    )
    @driven
    async def test_a_failure(
        self, tmp_path: Path, lines: Callable[[], list[str]], mechanism: str, user: str, password: str
    ) -> None:
        """SASL_AUTHENTICATION_FAILED with one message for every reason, one log line, and the connection closes."""
        async with guarded(tmp_path, "connection.failed.authentication.delay.ms=1") as broker:
            client = await Client.connect(broker)
            denied = await login(client, mechanism, user, password)
            assert denied.error_code == 58
            what = "Authentication failed during authentication due to invalid credentials"
            assert denied.error_message == f"{what} with SASL mechanism {mechanism}"
            assert await client.closed()
            assert len([line for line in lines() if "authentication failed" in line]) == 1

    @driven
    async def test_bare_tokens_that_fail(self, tmp_path: Path) -> None:
        """The connection closes without an answer: the form has no place for an error."""
        async with guarded(tmp_path, "connection.failed.authentication.delay.ms=1") as broker:
            client = await Client.connect(broker)
            await client.ask(SASL_HANDSHAKE, 0, {"mechanism": "PLAIN"})
            client._writer.write(struct.pack(">i", 6) + b"\0a\0bcd")
            assert await client.closed()

    @driven
    async def test_an_unknown_mechanism(self, tmp_path: Path) -> None:
        """UNSUPPORTED_SASL_MECHANISM with those that there are, then the end."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            answer = await client.ask(SASL_HANDSHAKE, 1, {"mechanism": "GSSAPI"})
            assert answer.error_code == 33
            assert set(answer.mechanisms) == {SHA_256, SHA_512, "PLAIN"}
            assert await client.closed()

    @driven
    async def test_a_token_too_late(self, tmp_path: Path) -> None:
        """After the exchange a token is ILLEGAL_SASL_STATE, and the connection goes on."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            await login(client)
            assert (await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": b"more"})).error_code == 34
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers


class TestAgain:
    @driven
    async def test_in_place(self, tmp_path: Path) -> None:
        """KIP-368: the lifetime is told; who authenticates again goes on."""
        async with guarded(tmp_path, "connections.max.reauth.ms=60000") as broker:
            client = await Client.connect(broker)
            assert (await login(client)).session_lifetime == 60_000
            scram = ScramClient(SHA_512, "alice", PASSWORD)
            while (await client.ask(SASL_HANDSHAKE, 1, {"mechanism": SHA_512})).error_code == 34:
                assert (await client.ask(METADATA, 12, {"topics": []})).brokers  # one authentication a second
            first = await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": scram.first()})
            last = await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": scram.final(bytes(first.auth_bytes))})
            assert (last.error_code, last.session_lifetime) == (0, 60_000)
            assert (await client.ask(METADATA, 12, {"topics": []})).brokers

    @driven
    async def test_who_does_not_is_closed(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """After the lifetime the next request ends the connection, with a line."""
        async with guarded(tmp_path, "connections.max.reauth.ms=50") as broker:
            client = await Client.connect(broker)
            assert (await login(client)).session_lifetime == 50
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await client.ask(METADATA, 12, {"topics": []})
            assert any("its session has ended" in line for line in lines())


class TestStrangers:
    """Before authentication: little memory, one request at a time, nothing else."""

    @pytest.mark.parametrize("key", [METADATA, 0, 1, SASL_AUTHENTICATE])
    @driven
    async def test_other_requests_close(self, tmp_path: Path, lines: Callable[[], list[str]], key: int) -> None:
        """With a line that names the API."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            client.send_encoded(key, {METADATA: 12, 0: 9, 1: 12, SASL_AUTHENTICATE: 1}[key], b"\0" * 20)
            assert await client.closed()
            assert any(f"API key {key} before it has authenticated" in line for line in lines())

    @driven
    async def test_large_requests_close(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """Kind of CVE-2022-34917: nobody makes us hold more than `sasl.server.max.receive.size`."""
        async with guarded(tmp_path) as broker:
            for size, key in ((524_289, 17), (100_000_000, 0), (2**31 - 1, 36)):
                client = await Client.connect(broker)
                client._writer.write(struct.pack(">ihh", size, key, 1) + b"\0" * 50_000)
                assert await client.closed()
            host = broker._server.host  # type: ignore[union-attr]
            assert host.receive_budget.used == 0
            assert any("524289 bytes before it has authenticated" in line for line in lines())

    @driven
    async def test_who_does_not_authenticate_is_closed(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """Whoever only asks for versions has as long as one who asks for nothing."""
        async with guarded(tmp_path, "connections.first.request.timeout.ms=50") as broker:
            client = await Client.connect(broker)
            await client.ask(API_VERSIONS, 0, {})
            assert await client.closed()
            assert any("it does not authenticate within 50 ms" in line for line in lines())

    @driven
    async def test_who_asks_for_versions_for_ever_is_closed(
        self, tmp_path: Path, lines: Callable[[], list[str]]
    ) -> None:
        """Requests that prove nothing are no progress."""
        async with guarded(tmp_path, "connections.first.request.timeout.ms=300") as broker:
            client = await Client.connect(broker)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await client.ask(API_VERSIONS, 0, {})
            assert any("it does not authenticate within 300 ms" in line for line in lines())

    @driven
    async def test_a_small_bound_holds(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """`sasl.server.max.receive.size` counts for requests that arrive whole, too."""
        async with guarded(tmp_path, "sasl.server.max.receive.size=1024") as broker:
            client = await Client.connect(broker)
            names = {"client_software_name": "a" * 2_000, "client_software_version": "1"}
            client.send(API_VERSIONS, 3, names)
            assert await client.closed()
            assert any("before it has authenticated, at most 1024 are read" in line for line in lines())

    @driven
    async def test_the_bound_holds_again(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """Whoever authenticates again is a stranger for so long: a token is no larger than the first."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            await login(client)
            while (await client.ask(SASL_HANDSHAKE, 1, {"mechanism": SHA_512})).error_code == 34:
                assert (await client.ask(METADATA, 12, {"topics": []})).brokers
            client._writer.write(struct.pack(">ihh", 524_289, SASL_AUTHENTICATE, 2) + b"\0" * 50_000)
            assert await client.closed()
            assert any("524289 bytes before it has authenticated" in line for line in lines())

    @driven
    async def test_one_request_at_a_time(self, tmp_path: Path) -> None:
        """What is pipelined waits: the second handshake is not looked at before the first is answered."""
        async with guarded(tmp_path) as broker:
            client = await Client.connect(broker)
            sent = [client.send(API_VERSIONS, 0, {}) for _ in range(50)]
            await client.receive(sent[0])
            (connection,) = broker._server.connections  # type: ignore[union-attr]
            assert connection.in_flight <= 1
            for one in sent[1:]:
                await client.receive(one)

    @driven
    async def test_who_exists_is_not_told(self, tmp_path: Path) -> None:
        """Known and unknown users get challenges of one form; an unknown one's salt stays, over restarts too."""
        seen = []
        for _ in range(2):
            async with guarded(tmp_path) as broker:
                for user in ("alice", "nobody"):
                    client = await Client.connect(broker)
                    await client.ask(SASL_HANDSHAKE, 1, {"mechanism": SHA_512})
                    first = ScramClient(SHA_512, user, "x").first()
                    answer = await client.ask(SASL_AUTHENTICATE, 1, {"auth_bytes": first})
                    seen.append((user, bytes(answer.auth_bytes).split(b",", 1)[1]))
        assert len(set(seen)) == 2
        assert [salt.split(b",")[1] for _, salt in seen] == [b"i=4096"] * 4


class TestUsers:
    @driven
    async def test_made_and_used_and_deleted(self, tmp_path: Path) -> None:
        """kafka-configs.sh's way: a new user logs in at once, over restarts too; a deleted one no more."""
        async with guarded(tmp_path) as broker:
            admin = await Client.connect(broker)
            await login(admin)
            assert await alter(admin, upsertion("bob", "b-secret")) == {"bob": 0}
            assert (await login(await Client.connect(broker), SHA_256, "bob", "b-secret")).error_code == 0
        async with guarded(tmp_path) as broker:
            admin = await Client.connect(broker)
            assert (await login(admin, SHA_256, "bob", "b-secret")).error_code == 0
            assert await alter(admin, upsertion("bob", "c-secret", SHA_512, 8192)) == {"bob": 0}
            described = await admin.ask(DESCRIBE, 0, {"users": None})
            found = {
                result.user: [(info.mechanism, info.iterations) for info in result.credential_infos]
                for result in described.results
            }
            assert found == {"alice": [(2, 4096)], "bob": [(1, 4096), (2, 8192)]}
            assert await alter(admin, deletions=(("bob", SHA_256),)) == {"bob": 0}
            assert (await login(await Client.connect(broker), SHA_256, "bob", "b-secret")).error_code == 58
            assert (await login(await Client.connect(broker), SHA_512, "bob", "c-secret")).error_code == 0

    @driven
    async def test_refusals(self, tmp_path: Path) -> None:
        """Kafka's codes; a user's other change is not made, other users' are."""
        async with guarded(tmp_path) as broker:
            admin = await Client.connect(broker)
            await login(admin)
            refused = await alter(
                admin,
                upsertion("", "x"),
                upsertion("few", "x", iterations=4095),
                upsertion("many", "x", iterations=16_385),
                upsertion("twice", "x"),
                upsertion("twice", "x", SHA_512),
                upsertion("strange", "x") | {"mechanism": 7},
                upsertion("alice", "x"),
                upsertion("long" * 300, "x"),
                upsertion("good", "x"),
                deletions=(("gone", SHA_256), ("alice", SHA_512)),
            )
            assert refused == {
                "": 93,
                "few": 93,
                "many": 93,
                "twice": 92,
                "strange": 33,
                "alice": 92,
                "long" * 300: 93,
                "gone": 91,
                "good": 0,
            }
            asked = [{"name": "good"}, {"name": "twice"}, {"name": "alice"}, {"name": "alice"}]
            described = await admin.ask(DESCRIBE, 0, {"users": asked})
            assert {result.user: result.error_code for result in described.results} == {
                "good": 0,
                "twice": 91,
                "alice": 92,
            }

    @driven
    async def test_nothing_shows_credentials(self, tmp_path: Path, lines: Callable[[], list[str]]) -> None:
        """No log line and no described config holds a password, a salt or a key."""
        async with guarded(tmp_path) as broker:
            admin = await Client.connect(broker)
            await login(admin)
            await alter(admin, upsertion("bob", "b-secret"))
            resource = {"resource_type": 4, "resource_name": "1", "configuration_keys": None}
            configs = await admin.ask(32, 4, {"resources": [resource]})
            values = {config.name: config.value for config in configs.results[0].configs}
            assert values["sasl.jaas.config"] is None
            assert values["sasl.enabled.mechanisms"] == "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN"
            told = "\n".join([*lines(), *map(str, values.values()), repr(broker.scram_users)])
            for secret in (PASSWORD, "b-secret", "salt-of-the-client"):
                assert secret not in told

    @driven
    async def test_no_snapshot_has_them(self, tmp_path: Path) -> None:
        """The table of credentials stays in the data directory: a snapshot in long-term storage has no row of it."""
        async with guarded(tmp_path):
            pass  # alice is stored
        data = DataDirectory.acquire(tmp_path, "0.1.0")
        listening = bind_all([parse_kafka_listener("127.0.0.1:0")])
        settings = [*DATA_SETTINGS, *SETTINGS, f"data.dir={tmp_path}"]
        broker = Broker(load(environ={}, assignments=settings), data, listening, None)
        await broker.open_long_term()
        await broker.start()
        try:
            (hosted,) = broker.store.containers.values()
            tier = hosted.container.tier
            assert tier is not None
            assert len(hosted.container.tables[TABLE]) == 2
            snapshot, _ = await tier.snapshots._capture()  # type: ignore[attr-defined]
            assert TABLE not in snapshot.tables
            assert snapshot.tables
        finally:
            await broker.stop()
            data.release()


def test_stored_form() -> None:
    """The bytes of version 1, which are read for ever."""
    stored = bytes.fromhex("0100001000000473616c7420" + "aa" * 32 + "bb" * 32)
    read = decode_credential(SHA_256, stored)
    assert (read.mechanism, read.iterations, read.salt) == (SHA_256, 4096, b"salt")
    assert (read.stored_key, read.server_key) == (b"\xaa" * 32, b"\xbb" * 32)
    assert encode_credential(read) == stored
    for broken in (b"", stored[:5], stored[:-1], stored + b"\0", b"\x02" + stored[1:]):
        with pytest.raises(ValueError, match="a stored credential"):
            decode_credential(SHA_256, broken)
