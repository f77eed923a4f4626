"""The users of the HTTP port, as the configuration asks for them.

Keeps: a failed authentication stands in the log, and in the audit log if there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.config.loading import Config
from gateway.http.access import API
from gateway.http.users import BEARER, HttpUsers, Passwords, Ways
from gateway.security.audit import AUTHENTICATION_FAILED
from gateway.security.authorizer import Authorizer
from gateway.security.listeners import http_token_rules
from gateway.security.principal import ANONYMOUS

if TYPE_CHECKING:
    from gateway.security.oauth import KeySet, Tokens

logger = logging.getLogger(__name__)

CLAIMED_CHARS_MAX = 100


def users_of(
    config: Config,
    keys: KeySet | None,
    passwords: Callable[[], Passwords | None],
    authorizer: Callable[[], Authorizer | None],
) -> HttpUsers | None:
    """None where requests have no users."""
    if not config.http_auth:
        return None

    def failed(way: str, host: str, claimed: str, why: str) -> None:
        extra = {"peer": host, "listener": API, "mechanism": way, "user": claimed[:CLAIMED_CHARS_MAX]}
        logger.warning("authentication failed: %s", why, extra=extra)
        if (known := authorizer()) is not None:
            known.audit.tell(
                AUTHENTICATION_FAILED, ANONYMOUS, host, mechanism=way, listener=API, why=why, claimed=claimed
            )

    token = config.http_token
    ways = Ways(
        allowed=frozenset(config.http_auth),
        passwords=passwords,
        tokens=None if keys is None or BEARER not in config.http_auth else _tokens(keys, config),
        token=None if token is None else token.get_secret_value(),
        token_user=config.http_token_user,
        delay_s=config.connection_failed_authentication_delay_ms / 1000,
        has_open_metrics=config.http_metrics_open,
    )
    return HttpUsers(ways, failed)


def _tokens(keys: KeySet, config: Config) -> Tokens:
    from gateway.security.oauth import Tokens  # its libraries take time to load

    return Tokens(keys, http_token_rules(config))
