"""An authorizer on a table in memory, and short ways to write ACLs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from core.applied.tables import Put, Table
from core.store import Store
from gateway.broker import Broker
from gateway.config.loading import Config, load
from gateway.security.acl_format import TABLE, encode_key
from gateway.security.acls import Acl, Operation, PatternType, Permission, ResourceType
from gateway.security.audit import Audit
from gateway.security.authorizer import Authorizer
from gateway.security.principal import Principal

ALICE: Final = Principal("User", "alice")
BOB: Final = Principal("User", "bob")
HOST: Final = "10.0.0.7"
SILENT: Final = Audit(None, tells_allowed=False)


class Rows:
    """A store of which only the table is there: for tests of decisions, which change nothing."""

    def __init__(self, acls: Iterable[Acl]) -> None:
        self._table = Table(TABLE)
        for acl in acls:
            self._table.apply(Put(TABLE, encode_key(acl), b""))

    @property
    def registry(self) -> Rows:
        return self

    def settings(self, kind: str) -> Mapping[bytes, bytes]:
        assert kind == TABLE
        return self._table.entries

    async def catch_up(self) -> None:
        """Nobody else changes them."""


def authorizer_with(config: Config | None = None, acls: Iterable[Acl] = (), audit: Audit = SILENT) -> Authorizer:
    """An authorizer with ACLs that are in its table already."""
    return Authorizer(config or load(environ={}), cast(Store, Rows(acls)), audit)


def acl(name: str, operation: Operation, **parts: Any) -> Acl:
    """An allowance of a topic for alice from everywhere, but for the parts that are named."""
    made = Acl(ResourceType.TOPIC, name, PatternType.LITERAL, str(ALICE), "*", operation, Permission.ALLOW)
    return made._replace(**parts)


ADMIN: Final = Principal("User", "admin")
STANDARD: Final = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
WITH_RIGHTS: Final = (STANDARD, "super.users=User:admin", "audit.log=")


def come_as(broker: Broker, port: int, principal: Principal) -> None:
    """Give the connection of a client at `port` a principal, as an authentication would."""
    assert broker._server is not None
    (connection,) = [one for one in broker._server.connections if one.peer_port == port]
    connection.principal = principal
