"""kill -9 while ACLs change: each is there or not, as it was acknowledged, and no change touches another."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.faults.client import Connection, Disconnected, string
from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.settings import SEED, scaled

KILLS: Final = scaled(6, 200)
UP_SECONDS_MAX: Final = 0.4
SETTINGS: Final = {
    **EAGER,
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
    "audit.log": "",
}
DESCRIBE_ACLS, CREATE_ACLS, DELETE_ACLS = 29, 30, 31
TOPIC, LITERAL, ANY, READ, DENY, ALLOW = 2, 3, 1, 3, 2, 3
Acl = tuple[str, str, int]
"""Topic, principal, permission."""
FIXED: Final = frozenset(
    {(f"kept-{n}", "User:alice", ALLOW) for n in range(20)} | {(f"kept-{n}", "User:mallory", DENY) for n in range(20)}
)


def _body(acl: Acl) -> bytes:
    name, principal, permission = acl
    return (
        bytes([TOPIC]) + string(name) + bytes([LITERAL]) + string(principal) + string("*") + bytes([READ, permission])
    )


def create(connection: Connection, acls: list[Acl]) -> None:
    reader = connection.call(CREATE_ACLS, 1, len(acls).to_bytes(4, "big") + b"".join(map(_body, acls)))
    reader.one("i")
    for _ in reader.times():
        assert reader.one("h") == 0
        reader.string()


def delete(connection: Connection, acl: Acl) -> None:
    reader = connection.call(DELETE_ACLS, 1, (1).to_bytes(4, "big") + _body(acl))
    reader.one("i")
    for _ in reader.times():
        assert reader.one("h") == 0


def described(connection: Connection) -> set[Acl]:
    every = bytes([ANY]) + string(None) + bytes([ANY]) + string(None) + string(None) + bytes([ANY, ANY])
    reader = connection.call(DESCRIBE_ACLS, 1, every)
    _, code = reader.take("ih")
    assert code == 0
    reader.string()
    found: set[Acl] = set()
    for _ in reader.times():
        assert reader.one("b") == TOPIC
        name = reader.string()
        reader.one("b")
        for _ in reader.times():
            principal = reader.string()
            reader.string()
            _, permission = reader.take("bb")
            found.add((name or "", principal or "", permission))
    return found


@dataclass
class Changes:
    """What a client was told of its changes, one after another, until the gateway goes away."""

    dice: random.Random
    there: set[Acl] = field(default_factory=lambda: set(FIXED))
    open: set[Acl] = field(default_factory=set)
    """ACLs whose last change has no answer."""
    made: int = 0

    def run(self, address: str) -> None:
        try:
            with Connection(address) as connection:
                while True:
                    self._change(connection)
        except (Disconnected, OSError):
            return

    def _change(self, connection: Connection) -> None:
        own = sorted(self.there - FIXED)
        if own and self.dice.random() < 0.5:
            acl = self.dice.choice(own)
            self.open = {acl}
            delete(connection, acl)
            self.there.discard(acl)
        else:
            acls = [(f"topic-{self.dice.randrange(40)}", f"User:u{self.dice.randrange(5)}", ALLOW) for _ in range(3)]
            self.open = set(acls) - self.there
            create(connection, acls)
            self.there |= set(acls)
        self.open = set()
        self.made += 1


@pytest.mark.slow
@pytest.mark.timeout(400 if KILLS == 6 else 0)
def test_killed_while_acls_change(tmp_path: Path) -> None:
    """After each kill the ACLs are those that were acknowledged; only the change under way may be there or not."""
    changes = Changes(random.Random(SEED))
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.start()
        with gateway.connect() as connection:
            create(connection, sorted(FIXED))
        for number in range(KILLS):
            running = threading.Thread(target=changes.run, args=(gateway.address,))
            running.start()
            running.join(0.1 + changes.dice.random() * UP_SECONDS_MAX)
            gateway.kill()
            running.join()
            gateway.start()
            with gateway.connect() as connection:
                found = described(connection)
            assert found >= FIXED, f"after kill {number + 1}, seed {SEED}"
            assert found - changes.open == changes.there - changes.open, f"after kill {number + 1}, seed {SEED}"
            changes.there = found
        assert gateway.stop() == 0
        gateway.start()
        with gateway.connect() as connection:
            assert described(connection) == changes.there
    assert changes.made > KILLS, "nothing was changed"
