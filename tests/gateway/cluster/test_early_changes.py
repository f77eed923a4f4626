"""What other processes change while a broker starts: some of its services are there already, and have read what was."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.cluster.sqlite_registry import SqliteRegistry
from gateway.broker import Broker
from gateway.security import scram_users
from gateway.security.scram import unknown_credential
from gateway.security.scram_users import NUMBERS, ScramUsers, encode_credential
from tests.core.support import run
from tests.gateway.cluster.test_machines import machines_in

pytestmark = pytest.mark.slow

SHA_256 = "SCRAM-SHA-256"


def test_a_user_that_another_process_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker has followed the change before anybody there could hear of it."""
    open_users = Broker._open_users
    row = encode_credential(unknown_credential(SHA_256, "alice", b"s" * 32, 4_096))

    async def and_then_changed(broker: Broker) -> ScramUsers:
        users = await open_users(broker)
        other = await SqliteRegistry.open(tmp_path / "registry")
        await other.change_settings(scram_users.TABLE, lambda stored: {bytes([NUMBERS[SHA_256]]) + b"alice": row})
        await other.close()
        await broker.store.catch_up()
        assert users.names() == []
        return users

    monkeypatch.setattr(Broker, "_open_users", and_then_changed)

    async def scenario() -> None:
        async with machines_in(tmp_path) as machines:
            broker = await machines.join()
            assert broker.scram_users.names() == ["alice"]

    run(scenario())
