"""From the configuration to the limits of the Kafka listeners, and to their gauges in /metrics."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence

from gateway.config.listeners import parse_overrides
from gateway.config.loading import Config
from gateway.metrics.counters import Metrics
from gateway.network.connection_limits import INT_MAX
from gateway.network.descriptors import Shares
from gateway.network.host import ServerLimits
from gateway.network.server import Server
from gateway.security.listeners import SecuredListener
from gateway.security.sasl_listener import SaslListener
from gateway.security.tls import ListenerTls

logger = logging.getLogger(__name__)


def server_limits(config: Config, shares: Shares) -> ServerLimits:
    """The limits. Looks up names in `max.connections.per.ip.overrides`, which may take a moment."""
    own = [(name, config.security_of(name)) for name in {address.name for address in config.listeners}]
    return ServerLimits(
        request_bytes_max=config.socket_request_max_bytes,
        queued_request_bytes_max=config.queued_max_request_bytes,
        queued_response_bytes_max=config.queued_max_response_bytes,
        connections_max=shares.kafka,
        connections_per_ip_max=config.max_connections_per_ip,
        connections_per_ip_overrides=_by_address(config.max_connections_per_ip_overrides),
        connections_of_listeners={name: keys.max_connections for name, keys in own if keys.max_connections < INT_MAX},
        connections_per_s_of_listeners={
            name: keys.max_connection_creation_rate for name, keys in own if keys.max_connection_creation_rate < INT_MAX
        },
        connections_per_s_max=config.max_connection_creation_rate,
        idle_ms=config.connections_max_idle_ms,
        receive_progress_ms=config.connections_receive_timeout_ms,
        first_request_ms=config.connections_first_request_timeout_ms,
    )


def _by_address(overrides: str) -> Mapping[str, int]:
    """Bounds by address, as sockets write it: a name stands for all addresses that it has now."""
    found: dict[str, int] = {}
    for host, most in parse_overrides(overrides).items():
        try:
            targets = {str(target[0]) for *_, target in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError) as error:  # unknown, or no name at all
            logger.warning(
                "a host of max.connections.per.ip.overrides is not known, max.connections.per.ip counts for it",
                extra={"host": host[:255], "error": str(error)},
            )
            continue
        found |= dict.fromkeys(targets, most)
    return found


def offer_connections(metrics: Metrics, server: Server) -> None:
    """Offer the counts and their bounds to `/metrics`."""
    limits, counts, acceptor = server.host.limits, server.counts, server.acceptor
    metrics.gauge("penstock_connections_limit", "Connections that may be open", lambda: limits.connections_max)
    metrics.gauge("penstock_connections_per_ip_most", "Connections of the busiest address", lambda: counts.busiest)
    metrics.gauge("penstock_connections_per_ip_limit", "max.connections.per.ip", lambda: limits.connections_per_ip_max)
    metrics.gauge(
        "penstock_connection_creation_rate_limit",
        "max.connection.creation.rate, connections a second",
        lambda: limits.connections_per_s_max if limits.connections_per_s_max < INT_MAX else float("inf"),
    )
    metrics.counter(
        "penstock_connections_held_up_seconds_total",
        "Time for which no connection was taken, as they came too fast or there was no descriptor",
        lambda: acceptor.waiting_s,
    )
    metrics.counter(
        "penstock_connections_without_descriptor_total",
        "Times when there was no descriptor, or memory, to take a connection",
        lambda: acceptor.shortages,
    )


def offer_tls(metrics: Metrics, server: Server, secured: Sequence[SecuredListener]) -> None:
    """Offer handshakes, and the ends of the listeners' certificates, to `/metrics`; nothing if no listener has TLS."""
    certificates = [listener.tls for listener in secured if listener.tls is not None]
    if not certificates:
        return
    workers = server.tls
    name, doc = "penstock_tls_handshakes_total", "Connections whose TLS handshake has ended"
    metrics.counter(name, doc, lambda: workers.handshakes - workers.resumed, outcome="full")
    metrics.counter(name, doc, lambda: workers.resumed, outcome="resumed")
    metrics.counter(name, doc, lambda: workers.failures, outcome="failed")
    metrics.gauge("penstock_tls_handshaking", "Connections in their TLS handshake", lambda: workers.handshaking)
    for tls in certificates:
        _offer_certificate(metrics, tls)


def _offer_certificate(metrics: Metrics, tls: ListenerTls) -> None:
    metrics.gauge(
        "penstock_certificate_expires_timestamp_seconds",
        "When the first certificate of a listener's chain ends",
        lambda: tls.expires_s,
        listener=tls.listener,
    )
    metrics.counter(
        "penstock_certificate_renewals_failed_total",
        "Changed certificates that could not be used",
        lambda: tls.failed_reloads,
        listener=tls.listener,
    )


def offer_sasl(metrics: Metrics, secured: Mapping[str, SecuredListener]) -> None:
    """Offer the counts of authentications, by listener, mechanism and outcome; nothing if no listener has SASL."""
    for listener in secured.values():
        if (sasl := listener.sasl) is not None:
            for mechanism in sasl.mechanisms:
                _offer_mechanism(metrics, sasl, mechanism)


def _offer_mechanism(metrics: Metrics, sasl: SaslListener, mechanism: str) -> None:
    name, doc = "penstock_authentications_total", "SASL exchanges that ended"
    where = {"listener": sasl.listener, "mechanism": mechanism}
    metrics.counter(name, doc, lambda: sasl.succeeded[mechanism], outcome="succeeded", **where)
    metrics.counter(name, doc, lambda: sasl.failed[mechanism], outcome="failed", **where)
