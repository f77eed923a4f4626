"""A step of a connection's SASL exchange: the state machine decides, this does what follows.

Invariants: a step that computes for long does so in a thread. A refused client learns of it after
`connection.failed.authentication.delay.ms`, meanwhile it is not read, and then the connection closes; the log and the
counters know at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from gateway.security.audit import AUTHENTICATION_FAILED
from gateway.security.sasl import Accepted, Denied, Outcome

if TYPE_CHECKING:
    from gateway.network.connection import Connection
    from gateway.services import Services

logger = logging.getLogger(__name__)

USER_CHARS_MAX: Final = 100


async def authenticate(connection: Connection, token: bytes, services: Services) -> Outcome:
    """Take the client's next token. The caller sends the answer."""
    session, sasl = connection.sasl_session, connection.sasl
    assert session is not None
    assert sasl is not None
    mechanism, was = str(session.mechanism), session.principal
    now_ms = services.clock.wall_ms()
    if session.is_slow(token):
        loop = asyncio.get_running_loop()
        outcome = await loop.run_in_executor(sasl.slow, session.authenticate, token, now_ms)
    else:
        outcome = session.authenticate(token, now_ms)
    if connection.closed:
        return outcome
    if isinstance(outcome, Accepted):
        sasl.succeeded[mechanism] += 1
        sasl.reauthenticated += was is not None
        connection.authenticated(outcome.principal, ends=session.has_an_end)
        _tell(connection, services, "authenticated", str(outcome.principal), mechanism, None)
    elif isinstance(outcome, Denied):
        sasl.failed[mechanism] += 1
        _tell(connection, services, AUTHENTICATION_FAILED, outcome.user, mechanism, outcome.why)
        await asyncio.sleep(services.config.connection_failed_authentication_delay_ms / 1000)
        connection.end_after_answers()
    return outcome


def _tell(
    connection: Connection, services: Services, event: str, user: str | None, mechanism: str, why: str | None
) -> None:
    """A failure stands in the log; both stand in the audit log, if there is one."""
    if why is not None:
        logger.warning(
            "authentication failed: %s",
            why,
            extra={
                "peer": f"{connection.peer_host}:{connection.peer_port}",
                "listener": connection.listener.name,
                "mechanism": mechanism,
                "user": None if user is None else user[:USER_CHARS_MAX],
            },
        )
    if services.authorizer is not None:
        facts = {"mechanism": mechanism, "listener": connection.listener.name}
        facts |= {} if why is None else {"why": why, "claimed": str(user)}
        services.authorizer.audit.tell(event, connection.principal, connection.peer_host, **facts)
