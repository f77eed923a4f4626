"""SASL of one listener: its mechanisms, its users, and the counts of who got in and who did not.

Invariant: a mechanism that is not in `sasl.enabled.mechanisms` of this listener cannot be begun here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from gateway.config.security import ListenerSecurity
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.exchange import Exchange
from gateway.security.plain import PlainExchange, PlainUsers
from gateway.security.sasl import SaslSession
from gateway.security.scram import HASHES, ScramCredential, ScramExchange, TokenClaim
from gateway.security.scram_users import ScramUsers

if TYPE_CHECKING:
    from gateway.security.oauth import KeySet


class SaslListener:
    """See the module. Raises ConfigError when made. `use` comes before the first session."""

    def __init__(self, listener: str, keys: ListenerSecurity) -> None:
        self.listener = listener
        self.request_bytes_max = keys.sasl_server_max_receive_size
        self.slow = ThreadPoolExecutor(1, "authentication")
        self._lifetime_ms = keys.connections_max_reauth_ms
        self._scram: ScramUsers | None = None
        self._tokens: DelegationTokens | None = None
        self._plain: PlainUsers | None = None
        self._keys: KeySet | None = None
        self._mechanisms: dict[str, Callable[[], Exchange]] = {}
        for name in keys.sasl_enabled_mechanisms:
            if name in HASHES:
                self._mechanisms[name] = partial(
                    ScramExchange, name, partial(self._find, name), partial(self._claim, name)
                )
            elif name == "PLAIN":
                jaas = keys.sasl_jaas_config
                text = None if jaas is None else jaas.get_secret_value()
                self._plain = PlainUsers(listener, text, keys.sasl_plain_users_file)
                self._mechanisms[name] = partial(PlainExchange, self._plain)
            elif name == "OAUTHBEARER":
                from gateway.security.oauth import (  # its libraries take time to load
                    KeySet,
                    OAuthBearerExchange,
                    Tokens,
                )

                url = str(keys.sasl_oauthbearer_jwks_endpoint_url)
                self._keys = KeySet(listener, url, keys.sasl_oauthbearer_jwks_endpoint_refresh_ms)
                self._mechanisms[name] = partial(OAuthBearerExchange, Tokens(self._keys, keys))
        self.succeeded: dict[str, int] = dict.fromkeys(self._mechanisms, 0)
        self.failed: dict[str, int] = dict.fromkeys(self._mechanisms, 0)
        self.reauthenticated = 0
        self.expired = 0

    def __repr__(self) -> str:
        return f"<SaslListener {self.listener} with {', '.join(self._mechanisms)}>"

    @property
    def mechanisms(self) -> Mapping[str, Callable[[], Exchange]]:
        return self._mechanisms

    def use(self, scram: ScramUsers, tokens: DelegationTokens) -> None:
        """The store is open: its users may come."""
        self._scram, self._tokens = scram, tokens

    def session(self) -> SaslSession:
        """The SASL of a new connection."""
        return SaslSession(self._mechanisms, self._lifetime_ms)

    def renew(self) -> None:
        """Read changed files again. Waits for the disk: for a thread."""
        if self._plain is not None:
            self._plain.renew()
        if self._keys is not None:
            self._keys.renew()

    def close(self) -> None:
        self.slow.shutdown(wait=False)

    def _find(self, mechanism: str, user: str) -> tuple[ScramCredential, bool]:
        assert self._scram is not None, "the store is open before clients are served"
        return self._scram.find(mechanism, user)

    def _claim(self, mechanism: str, token_id: str) -> TokenClaim | None:
        assert self._tokens is not None, "the store is open before clients are served"
        return self._tokens.claim(mechanism, token_id)
