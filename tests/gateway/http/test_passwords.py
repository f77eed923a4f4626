"""Passwords over HTTP: judged in bounded numbers, remembered while they hold, and alike for all who are unknown."""

from __future__ import annotations

import asyncio
import base64

import pytest
from starlette.datastructures import Headers

from gateway.http.problems import Problem
from gateway.http.users import BASIC, WAITING_MAX, HttpUsers, Ways
from gateway.security.principal import Principal
from gateway.security.scram import HASHES, ScramCredential, credential, unknown_credential

ITERATIONS = 4_096


class Table:
    """Users with one mechanism or both."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], ScramCredential] = {}
        self.asked = 0

    def add(self, user: str, password: str, *mechanisms: str) -> None:
        for mechanism in mechanisms:
            self.known[mechanism, user] = credential(mechanism, password)

    def find(self, mechanism: str, user: str) -> tuple[ScramCredential, bool]:
        self.asked += 1
        known = self.known.get((mechanism, user))
        return (known, True) if known else (unknown_credential(mechanism, user, b"s" * 32, ITERATIONS), False)


def users_with(table: Table | None, told: list[str] | None = None) -> HttpUsers:
    def failed(*facts: str) -> None:
        if told is not None:
            told.append(" ".join(facts))

    return HttpUsers(Ways(allowed={BASIC}, passwords=lambda: table), failed)


def headers(user: str, password: str) -> Headers:
    return Headers({"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"})


def status(users: HttpUsers, user: str, password: str) -> int:
    """200, or that of the refusal."""
    try:
        assert asyncio.run(users.principal_of(headers(user, password), "h", None)) == Principal("User", user)
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("mechanisms", [*((one,) for one in HASHES), tuple(HASHES)])
def test_any_mechanism(mechanisms: tuple[str, ...]) -> None:
    """A user needs one mechanism; the password of none but this user does."""
    table = Table()
    table.add("alice", "right", *mechanisms)
    users = users_with(table)
    assert [status(users, *who) for who in (("alice", "right"), ("alice", "wrong"), ("bob", "right"))] == [
        200,
        401,
        401,
    ]


def test_a_changed_password() -> None:
    """What was remembered counts no longer once the user has another password, or none."""
    table = Table()
    table.add("alice", "first", "SCRAM-SHA-256")
    users = users_with(table)
    assert [status(users, "alice", "first") for _ in range(2)] == [200, 200]
    table.add("alice", "second", "SCRAM-SHA-256")
    assert [status(users, "alice", "first"), status(users, "alice", "second")] == [401, 200]
    table.known.clear()
    assert status(users, "alice", "second") == 401


def test_failures_are_told() -> None:
    """With the user that was claimed, and without the password."""
    told: list[str] = []
    assert status(users_with(Table(), told), "alice", "my-password") == 401
    assert told == ["basic h alice an unknown user or a wrong password"]


def test_a_crowd() -> None:
    """Beyond the bound on those that wait, a request is refused at once: 503."""

    async def crowd() -> list[int]:
        async def one(number: int) -> int:
            try:
                await users.principal_of(headers("alice", f"guess {number}"), "h", None)
            except Problem as problem:
                return problem.status
            return 200

        return await asyncio.gather(*map(one, range(2 * WAITING_MAX)))

    users = users_with(Table())
    assert sorted(asyncio.run(crowd())) == [401] * WAITING_MAX + [503] * WAITING_MAX


def test_before_users_are_known() -> None:
    """503: the store is not open yet."""
    assert status(users_with(None), "alice", "x") == 503
