"""The door in front of all nodes: who needs a user here gets none of what other nodes would tell a stranger."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from gateway.http.access import PRINCIPAL
from gateway.http.entrance import Certified, Entrance, nobody_certified
from gateway.http.guard import Guard
from gateway.http.users import BASIC, CERTIFICATE, HttpUsers, Ways
from gateway.security.principal import USER, Principal
from gateway.security.scram import HASHES
from tests.gateway.http.test_passwords import Table, headers

CAROL = Principal(USER, "carol")


class Behind:
    """The nodes: they see what passes, and ask for nobody."""

    def __init__(self) -> None:
        self.users: list[Principal | None] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.users.append(scope.get(PRINCIPAL))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def status(behind: Behind, authorization: bytes | None, certified: Certified = nobody_certified) -> int:
    table = Table()
    table.add("alice", "secret", *HASHES)
    users = HttpUsers(Ways(allowed={BASIC, CERTIFICATE}, passwords=lambda: table), lambda *_: None)
    door = Entrance(behind, Guard(loopback=True), users, certified, is_front=True)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    given = [(b"host", b"localhost"), *([(b"authorization", authorization)] if authorization else [])]
    asyncio.run(door({"type": "http", "path": "/api/v1/topics/t/records", "headers": given}, receive, send))
    found: int = sent[0]["status"]
    return found


@pytest.mark.parametrize("given", [None, headers("alice", "wrong")["authorization"].encode()])
def test_a_stranger_reaches_no_node(given: bytes | None) -> None:
    """Another node may ask for no users: its `http.auth` is its own."""
    behind = Behind()
    assert status(behind, given) == 401
    assert behind.users == []


def test_who_is_known_here_proves_itself_to_the_nodes_again() -> None:
    """They get the same headers. The user of a certificate they are told of: the connection ends here."""
    behind = Behind()
    assert status(behind, headers("alice", "secret")["authorization"].encode()) == 200
    assert status(behind, None, lambda _: CAROL) == 200
    assert behind.users == [None, CAROL]
