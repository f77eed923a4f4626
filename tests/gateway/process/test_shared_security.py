"""Rights, users, tokens and quotas of several workers: what was changed at one holds at the other, in an instant."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import pytest

from tests.gateway.apis.test_sasl import PASSWORD, SASL_AUTHENTICATE, SASL_HANDSHAKE, SHA_256, alter, login, upsertion
from tests.gateway.forking import serving
from tests.gateway.harness import PRODUCE, Client, batch, produce_body
from tests.gateway.launching import PENSTOCK, free_ports
from tests.gateway.security.scram_client import ScramClient

pytestmark = pytest.mark.slow

METADATA, CREATE_ACLS, DELETE_ACLS, CREATE_TOKEN, EXPIRE_TOKEN, ALTER_QUOTAS = 3, 30, 31, 38, 40, 49
WITHIN_S: Final = 60.0
"""Far longer than the second that it may take, for a machine with other work."""
TOPIC, LIMITED, DENIED = "orders", "limited", 29
SETTINGS: Final = (
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:alice",
    "containers=2",
    "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512",
    "delegation.token.secret.key=a key of tests",
)
Connect = Callable[[int], Awaitable[Client]]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the first worker; the second one's is the next."""
    directory = tmp_path_factory.mktemp("workers")
    (directory / "password").write_text(f"{PASSWORD}\n")
    data = ("--data-dir", str(directory / "data"))
    add = ("users", "add", "alice", "--password-file", str(directory / "password"), *data)
    subprocess.run([PENSTOCK, *add], check=True, timeout=30)
    first = free_ports(2)
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    with serving(directory, "--workers", "2", "--listen", f"SASL_PLAINTEXT://127.0.0.1:{first}", *sets) as running:
        running.ready()
        yield first


def connected(test: Callable[[Connect], Coroutine[Any, Any, None]]) -> Callable[[int], None]:
    """Run a test with what connects to a worker by number."""

    def run(port: int) -> None:
        opened: list[Client] = []

        async def connect(worker: int) -> Client:
            opened.append(Client(*await asyncio.open_connection("127.0.0.1", port + worker)))
            return opened[-1]

        async def main() -> None:
            await asyncio.wait_for(test(connect), 3 * WITHIN_S)
            for client in opened:
                client.close()

        asyncio.run(main())

    run.__doc__ = test.__doc__
    return run


async def until(found: Callable[[], Awaitable[bool]], what: str) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not await found():
        assert time.monotonic() < ends_at, what
        await asyncio.sleep(0.02)


async def logged_in(connect: Connect, worker: int, user: str = "alice") -> Client:
    client = await connect(worker)
    mechanism = {} if user == "alice" else {"mechanism": SHA_256}
    assert (await login(client, user=user, **mechanism)).error_code == 0
    return client


async def lets_in(connect: Connect, worker: int, user: str) -> bool:
    return (await login(await connect(worker), SHA_256, user)).error_code == 0


@connected
async def test_users_and_rights(connect: Connect) -> None:
    """A user that one worker was told of comes in at the other one, with the rights that the first was told of, for as
    long as there are these; so does one who is connected already."""
    admin = await logged_in(connect, 0)
    await admin.create(TOPIC)
    assert await alter(admin, upsertion("bob", PASSWORD)) == {"bob": 0}
    await until(lambda: lets_in(connect, 1, "bob"), "bob comes in")
    bob = await logged_in(connect, 1, "bob")

    async def answer() -> int:
        (topic,) = (await bob.ask(METADATA, 8, {"topics": [{"name": TOPIC}]})).topics
        return int(topic.error_code)

    async def has(code: int) -> bool:
        return await answer() == code

    assert await answer() == DENIED
    right = {"resource_type": 2, "resource_name": TOPIC, "resource_pattern_type": 3, "principal": "User:bob"}
    whole = {**right, "host": "*", "operation": 8, "permission_type": 3}
    assert (await admin.ask(CREATE_ACLS, 2, {"creations": [whole]})).results[0].error_code == 0
    await until(lambda: has(0), "bob may describe it")
    names = {"resource_name": "resource_name_filter", "principal": "principal_filter", "host": "host_filter"}
    every = {"resource_type": "resource_type_filter", "resource_pattern_type": "pattern_type_filter", **names}
    filters = [{every.get(key, key): value for key, value in whole.items()}]
    assert (await admin.ask(DELETE_ACLS, 2, {"filters": filters})).filter_results[0].error_code == 0
    await until(lambda: has(DENIED), "bob may no more")

    assert await alter(admin, deletions=(("bob", SHA_256),)) == {"bob": 0}

    async def is_kept_out() -> bool:
        return not await lets_in(connect, 1, "bob")

    await until(is_kept_out, "bob does not come in")


@connected
async def test_delegation_tokens(connect: Connect) -> None:
    """A token that one worker has made lets its holder in at the other one, until it is ended."""
    admin = await logged_in(connect, 0)
    asked = {"owner_principal_type": None, "owner_principal_name": None, "renewers": [], "max_lifetime": -1}
    token = await admin.ask(CREATE_TOKEN, 3, asked)
    secret = bytes(token.hmac)

    async def holder_comes_in() -> bool:
        client = await connect(1)
        proof = ScramClient(SHA_256, token.token_id, base64.b64encode(secret).decode(), extensions=",tokenauth=true")
        assert (await client.ask(SASL_HANDSHAKE, 1, {"mechanism": SHA_256})).error_code == 0
        first = await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": proof.first()})
        if first.error_code:
            return False
        last = await client.ask(SASL_AUTHENTICATE, 2, {"auth_bytes": proof.final(bytes(first.auth_bytes))})
        return int(last.error_code) == 0

    async def holder_is_kept_out() -> bool:
        return not await holder_comes_in()

    assert token.error_code == 0
    await until(holder_comes_in, "the token counts")
    ended = await admin.ask(EXPIRE_TOKEN, 2, {"hmac": secret, "expiry_time_period": -1})
    assert ended.error_code == 0
    await until(holder_is_kept_out, "the token has ended")


@connected
async def test_quotas(connect: Connect) -> None:
    """A quota that was set at one worker holds at the other one, and so does its end."""
    admin = await logged_in(connect, 0)
    await admin.create(LIMITED, 2)

    async def set_quota(value: float | None) -> None:
        entity = [{"entity_type": "user", "entity_name": "alice"}]
        change = {"key": "producer_byte_rate", "value": value or 0.0, "remove": value is None}
        answer = await admin.ask(ALTER_QUOTAS, 1, {"entries": [{"entity": entity, "ops": [change]}]})
        assert answer.entries[0].error_code == 0

    async def pause_ms() -> int:
        """A client of its own each time, as one that must pause is not read."""
        client = await logged_in(connect, 1)
        pieces = [(number, batch(bytes(60_000))) for number in range(2)]
        return int((await client.ask(PRODUCE, 8, produce_body(LIMITED, pieces))).throttle_time)

    async def must_pause() -> bool:
        return await pause_ms() > 10_000

    async def goes_on() -> bool:
        return await pause_ms() == 0

    assert await pause_ms() == 0
    await set_quota(1_000.0)
    await until(must_pause, "the quota holds")
    await set_quota(None)
    await until(goes_on, "it is gone")
