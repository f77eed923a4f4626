"""Nobody learns which users exist, by the time that a refusal takes either.

Times are compared by the work that is done, which no machine's load changes: hashes, and their rounds.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from core.clock import ManualClock
from core.store import Store
from gateway.http.problems import Problem
from gateway.http.users import BASIC, HttpUsers, Ways
from gateway.security.exchange import More, Refused
from gateway.security.plain import PlainExchange, PlainUsers
from gateway.security.scram import HASHES, ScramExchange, credential
from gateway.security.scram_users import ScramUsers
from tests.core.cluster.several import FOUR, placed_policy
from tests.gateway.security.scram_client import ScramClient

Work = Counter[tuple[str, object]]
"""Calls by kind and cost."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Work]:
    """The hashing that a call does, whether it is refused or not."""
    done: Work = Counter()

    def counted(kind: str, function: Callable[..., Any], cost: Callable[..., object]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            done[kind, cost(*given)] += 1
            return function(*given)

        return call

    pbkdf2 = counted("pbkdf2", hashlib.pbkdf2_hmac, lambda name, password, salt, rounds: (name, rounds))
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2)
    monkeypatch.setattr(hmac, "digest", counted("hmac", hmac.digest, lambda key, message, name: name))

    def of(call: Callable[[], object]) -> Work:
        done.clear()
        with contextlib.suppress(Refused, Problem):
            call()
        return Counter(done)

    return of


def plain(users: PlainUsers, user: str, password: str) -> Callable[[], object]:
    return lambda: PlainExchange(users).step(f"\0{user}\0{password}".encode(), 0)


def test_plain(tmp_path: Path, work: Callable[[Callable[[], object]], Work]) -> None:
    """A file's hashes cost differently. Names that nobody has cost what users cost, each always the same, and as much
    in every process that has the file; a wrong password costs what the right one does."""
    costs = {"cheap": ("SCRAM-SHA-256", 4_096), "usual": ("SCRAM-SHA-512", 4_096), "dear": ("SCRAM-SHA-512", 8_192)}
    hashes = {user: credential(mechanism, "right", rounds) for user, (mechanism, rounds) in costs.items()}
    (tmp_path / "users").write_text("".join(f"{user}:{one.to_text()}\n" for user, one in hashes.items()))
    users, elsewhere = (PlainUsers("L", None, tmp_path / "users") for _ in range(2))

    real = {user: work(plain(users, user, "wrong")) for user in costs}
    strangers = {f"nobody-{number}": work(plain(users, f"nobody-{number}", "x")) for number in range(40)}

    assert real == {user: work(plain(users, user, "right")) for user in costs}
    pbkdf2 = [{key for key in one if key[0] == "pbkdf2"} for one in real.values()]
    assert all({key for key in one if key[0] == "pbkdf2"} in pbkdf2 for one in strangers.values())
    assert len({frozenset(one) for one in strangers.values()}) == len(costs)
    assert strangers == {user: work(plain(elsewhere, user, "another")) for user in strangers}


@pytest.fixture(scope="module")
def scram_users(tmp_path_factory: pytest.TempPathFactory) -> ScramUsers:
    """Alice, with more rounds than Kafka's tools take."""

    async def made() -> ScramUsers:
        store = await Store.open(tmp_path_factory.mktemp("store"), FOUR, placed_policy, ManualClock())
        users = ScramUsers(store)
        await users.change([("alice", mechanism, credential(mechanism, "right", 8_192)) for mechanism in HASHES])
        await store.close()
        return users

    return asyncio.run(made())


@pytest.mark.parametrize("mechanism", HASHES)
def test_scram(scram_users: ScramUsers, mechanism: str, work: Callable[[Callable[[], object]], Work]) -> None:
    """Both messages of the exchange cost the server the same, and the first answer has the same rounds."""

    def refused(user: str) -> tuple[Work, Work, bytes]:
        server = ScramExchange(mechanism, lambda name: scram_users.find(mechanism, name), lambda token: None)
        client = ScramClient(mechanism, user, "wrong")
        steps: list[bytes] = []

        def first() -> None:
            step = server.step(client.first(), 0)
            assert isinstance(step, More)
            steps.append(step.token)

        begun = work(first)
        final = client.final(steps[0])
        ended = work(lambda: server.step(final, 0))
        return begun, ended, steps[0].rpartition(b",i=")[2]

    assert refused("alice") == refused("nobody")
    assert refused("alice")[2] == b"8192"


def test_passwords_over_http(scram_users: ScramUsers, work: Callable[[Callable[[], object]], Work]) -> None:
    """The same of `http.auth = basic`."""
    users = HttpUsers(Ways(allowed={BASIC}, passwords=lambda: scram_users), lambda *facts: logging.debug("%s", facts))

    def asked(user: str) -> Callable[[], object]:
        given = base64.b64encode(f"{user}:wrong".encode()).decode()
        return lambda: asyncio.run(users.principal_of(Headers({"Authorization": f"Basic {given}"}), "h", None))

    assert work(asked("alice")) == work(asked("nobody"))
    users.close()
