"""Users of SCRAM in a cluster: made at one node, known to all, and nowhere in the bucket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.security.scram import salt_password
from tests.core.support import run, until
from tests.gateway.cluster.test_machines import machines_in
from tests.gateway.harness import Client, batch

pytestmark = pytest.mark.slow

ALTER_CREDENTIALS = 51
MECHANISM, NUMBER = "SCRAM-SHA-256", 1
ITERATIONS = 4_096


async def alter(client: Client, **changes: list[dict[str, Any]]) -> None:
    asked: dict[str, Any] = {"deletions": [], "upsertions": [], **changes}
    (result,) = (await client.ask(ALTER_CREDENTIALS, 0, asked)).results
    assert (result.user, result.error_code) == ("alice", 0)


def test_users_are_the_clusters(tmp_path: Path) -> None:
    """Each node lets in whom another one was told of, shows strangers the same salt, and forgets whom another forgets.
    So does one that joins later."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first, second = await machines.join(), await machines.join()
            client, other = await Client.connect(first), await Client.connect(second)
            salted = salt_password(MECHANISM, "a password", b"a salt", ITERATIONS)
            made = {"name": "alice", "mechanism": NUMBER, "iterations": ITERATIONS, "salt": b"a salt"}
            await alter(client, upsertions=[made | {"salted_password": salted}])
            await until(lambda: second.scram_users.get(MECHANISM, "alice") is not None)
            third = await machines.join()
            for broker in machines.brokers:
                found = broker.scram_users.get(MECHANISM, "alice")
                assert found is not None
                assert found.proves("a password")
                stranger, is_known = broker.scram_users.find(MECHANISM, "bob")
                assert (stranger.salt, is_known) == (first.scram_users.find(MECHANISM, "bob")[0].salt, False)

            await client.create("t")
            assert (await client.produce("t", batch(b"a"))).error_code in (0, 6)
            await alter(other, deletions=[{"name": "alice", "mechanism": NUMBER}])
            for broker in (first, third):
                await until(lambda broker=broker: broker.scram_users.get(MECHANISM, "alice") is None)  # type: ignore[misc]
            assert found is not None
            stored = [path.read_bytes() for path in (tmp_path / "bucket").rglob("*") if path.is_file()]
            assert stored
            assert not any(found.stored_key in content or found.server_key in content for content in stored)

    run(scenario())


def test_a_user_is_deleted_where_nobody_has_heard_of_it_yet(tmp_path: Path) -> None:
    """Whoever made it was answered: a node whose copy is late does not say that there is no such user."""

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            first, second = await machines.join(), await machines.join()
            client, other = await Client.connect(first), await Client.connect(second)
            following = second.store._following
            assert following is not None
            await following.stop()
            salted = salt_password(MECHANISM, "a password", b"a salt", ITERATIONS)
            made = {"name": "alice", "mechanism": NUMBER, "iterations": ITERATIONS, "salt": b"a salt"}
            await alter(client, upsertions=[made | {"salted_password": salted}])
            assert second.scram_users.get(MECHANISM, "alice") is None
            await alter(other, deletions=[{"name": "alice", "mechanism": NUMBER}])
            await until(lambda: first.scram_users.get(MECHANISM, "alice") is None)

    run(scenario())
