"""A classic group that is made over for a member of the consumer protocol, whose coordinator goes meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kio.schema.errors import ErrorCode

from gateway.groups import migrating
from gateway.groups.consumer.messages import Heartbeat
from gateway.refusals import Refusal
from tests.gateway.groups.harness import RANGE
from tests.gateway.groups.services import run, serving

pytestmark = pytest.mark.slow

JOINING = Heartbeat(member_id="m", epoch=0, names=frozenset({"t"}), rebalance_timeout_ms=60_000, owned={})


def test_nothing_begins_in_a_coordinator_that_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member looks for the next coordinator, and holds no memory here."""
    upgrade, is_made, go_on = migrating.upgrade, asyncio.Event(), asyncio.Event()

    async def held(*args: Any) -> bool:
        is_as_it_was = await upgrade(*args)
        is_made.set()
        await go_on.wait()
        return is_as_it_was

    monkeypatch.setattr(migrating, "upgrade", held)

    async def scenario() -> None:
        async with serving(tmp_path) as services:
            await services.create("t")
            joined = await services.join("g", protocols=RANGE)
            await services.sync("g", joined.member_id, joined.generation, {joined.member_id: b""})
            joining = asyncio.create_task(services.groups.consumer_heartbeat("g", JOINING))
            await is_made.wait()
            await services.groups.stop()
            go_on.set()
            with pytest.raises(Refusal) as refused:
                await joining
            assert refused.value.code is ErrorCode.coordinator_not_available
            assert services.groups.get("g") is None
            assert services.groups.consumer._rules.allowance.used == 0

    run(scenario())
