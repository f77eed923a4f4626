"""The listeners that encrypt or ask who is there, made from their keys.

Invariant: a listener's security is complete before it listens: a fault in a key or file ends the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.config.loading import Config
from gateway.config.security import ListenerSecurity, TransportKeys
from gateway.security.sasl_listener import SaslListener
from gateway.security.tls import ListenerTls

if TYPE_CHECKING:
    from gateway.security.oauth import KeySet

logger = logging.getLogger(__name__)

HTTP: Final = "http"
"""The HTTP server, where listeners are named; theirs are in upper case."""
RENEWED_EVERY_S: Final = 10.0
"""Pause between two looks whether files of keys and certificates have changed."""


@dataclass(frozen=True, slots=True)
class SecuredListener:
    """How one listener is secured."""

    name: str
    tls: ListenerTls | None = None
    sasl: SaslListener | None = None
    keys: KeySet | None = None
    """Those of signed tokens, at the HTTP server; a Kafka listener's are in `sasl`."""

    def close(self) -> None:
        if self.sasl is not None:
            self.sasl.close()

    def renew(self) -> None:
        """Take up changed files. Waits for the disk: for a thread."""
        if self.tls is not None:
            self.tls.renew()
        if self.sasl is not None:
            self.sasl.renew()
        if self.keys is not None:
            self.keys.renew()


def secured_listeners(config: Config) -> Mapping[str, SecuredListener]:
    """The listeners that are not PLAINTEXT, by name. Reads files. Raises ConfigError."""
    found: dict[str, SecuredListener] = {}
    for name in sorted({address.name for address in config.listeners}):
        protocol = config.protocol_of(name)
        if protocol is None or not (protocol.has_tls or protocol.has_sasl):
            continue
        keys = config.security_of(name)
        tls = ListenerTls(name, keys) if protocol.has_tls else None
        sasl = SaslListener(name, keys) if protocol.has_sasl else None
        found[name] = SecuredListener(name, tls, sasl)
    return found


def http_security(config: Config) -> SecuredListener:
    """How the HTTP server is secured. Reads files. Raises ConfigError."""
    if config.http_listen is None:
        return SecuredListener(HTTP)
    keys = None
    if "bearer" in config.http_auth:
        from gateway.security.oauth import KeySet  # its libraries take time to load

        rules = http_token_rules(config)
        url = str(rules.sasl_oauthbearer_jwks_endpoint_url)
        keys = KeySet(HTTP, url, rules.sasl_oauthbearer_jwks_endpoint_refresh_ms)
    if config.http_tls_keystore_location is None:
        return SecuredListener(HTTP, keys=keys)
    own: dict[str, Any] = {
        "ssl.keystore.location": config.http_tls_keystore_location,
        "ssl.key.password": config.http_tls_key_password,
        "ssl.enabled.protocols": config.ssl_enabled_protocols,
        "ssl.cipher.suites": config.ssl_cipher_suites,
    }
    if "mtls" in config.http_auth:
        own["ssl.client.auth"] = "requested"
        own["ssl.truststore.location"] = config.http_tls_truststore_location
        own["ssl.principal.mapping.rules"] = config.ssl_principal_mapping_rules
    tls = ListenerTls(HTTP, ListenerSecurity.of(TransportKeys.model_validate({}), own))
    return SecuredListener(HTTP, tls, keys=keys)


def http_token_rules(config: Config) -> ListenerSecurity:
    """What signed tokens must be over HTTP: the keys that hold for all listeners."""
    return ListenerSecurity.of(config, {})


async def renew_for_ever(secured: Sequence[SecuredListener], every_s: float = RENEWED_EVERY_S) -> None:
    """Take up changed files as they come; ends by cancellation."""
    while True:
        for listener in secured:
            try:
                await asyncio.to_thread(listener.renew)
            except Exception:
                logger.exception("a listener's files could not be looked at", extra={"listener": listener.name})
        await asyncio.sleep(every_s)
