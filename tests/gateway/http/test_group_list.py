"""The list of groups: it keeps nobody from the loop, whatever a group has read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

from core import turns
from gateway.groups.lag import GroupLag, TopicLag
from gateway.http.access import Access
from gateway.http.desk import Desk
from gateway.http.group_list import GroupListPage
from gateway.http.models import GroupList
from gateway.security.acls import Operation, ResourceType
from tests.core.support import run
from tests.gateway.security.harness import acl, authorizer_with

TOPICS = 10_000


def test_a_group_of_many_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether each of its topics may be seen is asked in turns, and only those that may are told."""
    monkeypatch.setattr(turns, "TURN_S", -1.0)  # each turn is over at once, however fast the machine
    request = Request({"type": "http", "client": ("127.0.0.1", 1), "query_string": b"", "headers": []})
    rights = [acl("t-1", Operation.DESCRIBE, principal="User:ANONYMOUS")]
    rights.append(acl("g", Operation.DESCRIBE, principal="User:ANONYMOUS", type=ResourceType.GROUP))
    access = Access(authorizer_with(acls=rights), request)
    group = GroupLag("g", "classic", "Empty", 0, {f"t-{number}": TopicLag(1, 2) for number in range(TOPICS)})

    class Lags:
        measured_ms = 0
        nodes = SimpleNamespace(me=0)

        async def refresh(self) -> list[GroupLag]:
            return [group]

    loads, rests = SimpleNamespace(are_loading=True), SimpleNamespace(are_loading=False)
    services = SimpleNamespace(groups=rests, share=SimpleNamespace(coordinators=loads))
    desk: Any = SimpleNamespace(ready=lambda: SimpleNamespace(lags=Lags(), services=services), access=lambda _: access)

    async def scenario() -> None:
        rounds = 0

        async def others() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                await asyncio.sleep(0)

        running = asyncio.create_task(others())
        answer = await GroupListPage(cast(Desk, desk))._list(request)
        running.cancel()
        whole = GroupList.model_validate_json(bytes(answer.body))
        (told,) = whole.groups
        assert (told.topics_total, told.lag) == (1, 2)
        assert whole.loading
        assert rounds > TOPICS

    run(scenario())
