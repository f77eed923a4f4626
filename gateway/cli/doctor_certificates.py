"""Measures the certificates of TLS listeners, and the one by which etcd knows this node.

Keeps: no key and no password is in a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates

from gateway.cli.doctor_facts import CertificateFacts
from gateway.config.layers import ConfigError
from gateway.config.model import Config
from gateway.security.listeners import http_security
from gateway.security.tls import ListenerTls


def certificates(config: Config) -> Iterator[CertificateFacts]:
    """The facts of each listener that has TLS, and of the HTTP server if it has."""
    for name in sorted({one.name for one in config.listeners}):
        protocol = config.protocol_of(name)
        if protocol is not None and protocol.has_tls:
            keys = config.security_of(name)
            yield _facts(name, partial(ListenerTls, name, keys))
    if config.http_listen is not None and config.http_tls_keystore_location is not None:
        yield _facts("HTTP", lambda: http_security(config).tls)
    if config.cluster and config.etcd_cert_file is not None:
        yield _dates("etcd", config.etcd_cert_file)


def _dates(name: str, file: Path) -> CertificateFacts:
    """Of all certificates in a file."""
    try:
        chain = load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        return CertificateFacts(name, error=f"{file}: {getattr(error, 'strerror', None) or 'it is no certificate'}")
    begins_s = max(one.not_valid_before_utc.timestamp() for one in chain)
    return CertificateFacts(name, begins_s, min(one.not_valid_after_utc.timestamp() for one in chain))


def _facts(name: str, read: Callable[[], ListenerTls | None]) -> CertificateFacts:
    try:
        tls = read()
    except ConfigError as error:
        return CertificateFacts(name, error="; ".join(error.problems)[:1000])
    assert tls is not None
    return CertificateFacts(name, tls.begins_s, tls.expires_s)
