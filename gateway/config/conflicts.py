"""Checks for keys that are valid alone but not together.

Keeps: a configuration that cannot work, or cannot serve any client, ends the start with the keys, their values and
their sources; no such fault is left for the first client to find.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from gateway.config.addresses import PORT_MAX, UNNAMED, ListenAddress, check_dialable, host_port, overlap, places
from gateway.config.cluster import parse_cluster
from gateway.config.fields import allowed
from gateway.config.groups import BOUNDED_GROUP_KEYS
from gateway.config.listeners import IDLE_MS_MIN
from gateway.config.model import Config
from gateway.config.places import CACHE_DIRECTORY, RECOVERING_DIRECTORY, STORE_DIRECTORY, TIER2_DIRECTORY
from gateway.config.security import MECHANISMS, SecurityProtocol
from gateway.config.tiering import Bucket, Directory

LOG_FILES_MIN: Final = 4
"""Fewest files in `log.max.bytes`: one is being written, one is prepared, and the log is cut by whole files."""
RETENTION_KEYS: Final = ("log.retention.ms", "log.retention.minutes", "log.retention.hours")
"""The first of these keys that has a value decides."""
Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Origins:
    """The text and the source of each key's value."""

    sources: Mapping[str, str]
    text: Callable[[str], str]

    def source(self, key: str) -> str:
        return self.sources.get(key, "default")

    def said(self, key: str) -> str:
        """A key with its value and the value's source."""
        return f"{self.text(key)} ({self.source(key)})"


def conflicts(config: Config, origins: Origins) -> Iterator[str]:
    """Every conflict, as a message."""
    yield from _addresses(config, origins)
    yield from _connections(config, origins)
    yield from _http_users(config, origins)
    low, high = config.group_min_session_timeout_ms, config.group_max_session_timeout_ms
    if low > high:
        key = "group.min.session.timeout.ms"
        yield f"{origins.said(key)}: allowed: at most group.max.session.timeout.ms, which is {high}"
    yield from _group_bounds(config, origins)
    if not config.retention_ms:
        key = next(key for key in RETENTION_KEYS if getattr(config, key.replace(".", "_")) is not None)
        yield f"{origins.said(key)}: allowed: {_allowed(key)}; records would go as they come"
    if 0 <= config.connections_max_idle_ms < IDLE_MS_MIN:
        key = "connections.max.idle.ms"
        yield f"{origins.said(key)}: allowed: {_allowed(key)}"
    yield from _directories(config, origins)
    if config.tier2 != "off":
        yield from _sizes_of_tiers(config, origins)
    yield from _place_of_tier2(config, origins)
    if config.log_store == "object":
        yield from _log_in_objects(config, origins)
    elif config.cluster:
        yield f"{origins.said('cluster')}: {origins.said('log.store')}: allowed: log.store = object"
    yield from way_to_etcd(config, origins)


def way_to_etcd(config: Config, origins: Origins) -> Iterator[str]:
    """Nothing that is meant to protect it is left out silently."""
    if (config.etcd_cert_file is None) != (config.etcd_key_file is None):
        yield f"{origins.said('etcd.cert.file')}, {origins.said('etcd.key.file')}: one needs the other"
    if config.etcd_key_password is not None and config.etcd_key_file is None:
        yield "etcd.key.password is set, and there is no key: allowed: with etcd.key.file"
    if config.etcd_user and config.etcd_password is None:
        yield f"{origins.said('etcd.user')}: it needs a password: set etcd.password.file"
    if config.etcd_password is not None and not config.etcd_user:
        yield "etcd.password is set, and there is no user: set etcd.user"
    if config.cluster and not parse_cluster(config.cluster).tls:
        for key in ("etcd.ca.file", "etcd.cert.file"):
            if getattr(config, key.replace(".", "_")) is not None:
                yield f"{origins.said(key)}: {origins.said('cluster')}: without TLS: allowed: etcds://"


def _log_in_objects(config: Config, origins: Origins) -> Iterator[str]:
    """A data directory that may vanish holds nothing that is not in long-term storage as well."""
    said, place = origins.said("log.store"), config.tier2
    data = _real(config.data_dir)
    if not isinstance(place, Bucket | Directory):
        yield f"{said}: it needs long-term storage: set tier2"
    elif isinstance(place, Directory) and _real(place.below(config.data_dir)).is_relative_to(data):
        yield f"{said}: {origins.said('tier2')} lies in the data directory: allowed: a place that outlives it"
    if config.workers != 1:
        yield f"{said}: {origins.said('workers')}: what workers share is on this disk: allowed: workers = 1"
    for listener in config.kafka_listeners:
        protocol = config.protocol_of(listener.name)
        if protocol is None or "SASL" not in protocol.value or config.cluster:  # which keeps them in etcd
            continue
        scram = [one for one in config.security_of(listener.name).sasl_enabled_mechanisms if one.startswith("SCRAM")]
        if scram:
            yield f"{said}: {', '.join(scram)} keeps credentials in the log, which must not leave the data directory"


def _http_users(config: Config, origins: Origins) -> Iterator[str]:
    """Ways of `http.auth` that lack what they need."""
    asked = config.http_auth
    needs = {
        "bearer": ("sasl.oauthbearer.jwks.endpoint.url", "sasl.oauthbearer.expected.audience"),
        "token": ("http.token",),
        "mtls": ("http.tls.keystore.location", "http.tls.truststore.location"),
    }
    for way in asked:
        for key in needs.get(way, ()):
            if not getattr(config, key.replace(".", "_")):
                yield f"{origins.said('http.auth')}: {way} needs {key}, which is not set"
    if asked and config.http_token is not None and "token" not in asked:
        yield f"{origins.said('http.auth')}: http.token is set and would have no effect: allowed: token among the ways"


def _group_bounds(config: Config, origins: Origins) -> Iterator[str]:
    """The settings of groups lie within the bounds for those of single groups."""
    for protocol, keys in BOUNDED_GROUP_KEYS.items():
        for what in keys:
            at, low, high = (
                getattr(config, f"group_{protocol}_{part}{what}".replace(".", "_")) for part in ("", "min_", "max_")
            )
            key = f"group.{protocol}.{what}"
            if at < low:
                yield f"{origins.said(key)}: allowed: at least group.{protocol}.min.{what}, which is {low}"
            if at > high:
                yield f"{origins.said(key)}: allowed: at most group.{protocol}.max.{what}, which is {high}"
        heartbeat_ms = getattr(config, f"group_{protocol}_heartbeat_interval_ms")
        session_ms = getattr(config, f"group_{protocol}_session_timeout_ms")
        if heartbeat_ms >= session_ms:
            key = f"group.{protocol}.heartbeat.interval.ms"
            yield f"{origins.said(key)}: allowed: less than group.{protocol}.session.timeout.ms, which is {session_ms}"
    most = config.group_streams_max_standby_replicas
    if config.group_streams_num_standby_replicas > most:
        said = origins.said("group.streams.num.standby.replicas")
        yield f"{said}: allowed: at most group.streams.max.standby.replicas, which is {most}"
    if config.group_share_max_share_sessions < config.group_share_max_size:
        said = origins.said("group.share.max.share.sessions")
        yield f"{said}: allowed: at least group.share.max.size, which is {config.group_share_max_size}"


def _directories(config: Config, origins: Origins) -> Iterator[str]:
    """The directories of the disks are all different, none lies in another, and `data.dir` is the first."""
    places = [_real(path) for path in config.data_dirs]
    if not places:
        return
    said = f"data.dirs ({origins.source('data.dirs')})"
    if places[0] != _real(config.data_dir):
        yield f"{said} begins with {config.data_dirs[0]}: allowed: {origins.said('data.dir')} as the first"
    for (n, one), (m, other) in itertools.permutations(enumerate(places), 2):
        if (n < m and one == other) or one in other.parents:
            yield f"{said}: {config.data_dirs[m]} lies in {config.data_dirs[n]}: allowed: a place of its own for each"
    containers = config.containers
    if 0 < containers < len(places):
        yield (
            f"{said} names {len(places)} directories for {origins.said('containers')}: allowed: a container or more "
            "for each"
        )


def _allowed(key: str) -> str:
    return allowed(Config.model_fields[key.replace(".", "_")])


def _connections(config: Config, origins: Origins) -> Iterator[str]:
    if config.max_connections_per_ip == 0 and not config.max_connections_per_ip_overrides:
        yield (
            f"{origins.said('max.connections.per.ip')}: nobody could connect: allowed: 0 only together with "
            "max.connections.per.ip.overrides"
        )


# Addresses


def _addresses(config: Config, origins: Origins) -> Iterator[str]:
    """Two servers on one port: the kernel may let both bind, and one of them is never reached."""
    yield from _named(config, origins)
    named = [_Bound("listeners", worker, address) for worker, address in _of_workers(config)]
    for key, other in (
        ("http.listen", config.http_listen),
        ("cluster.listen", config.cluster_listen),
        ("cluster.http.listen", config.cluster_http_listen),
        ("cluster.pulse.listen", config.cluster_pulse_listen),
    ):
        if other is not None:
            named.append(_Bound(key, 0, other))
    for bound in named:
        if bound.address.port > PORT_MAX:
            yield f"{bound.beside(bound, origins)}: {bound}: ports end at {PORT_MAX}"
    for port, several in _grouped((bound.address.port, bound) for bound in named):
        for one, another in itertools.combinations(several, 2) if port else ():
            if overlap(one.address.host, another.address.host):
                where, both = one.beside(another, origins), f"{one} and {another}"
                yield f"{where}: {both} are one port of this machine: allowed: a port of its own for each"
    yield from _advertised(config, origins)


@dataclass(frozen=True, slots=True)
class _Bound:
    """An address that a key says, of a worker if it is a listener."""

    key: str
    worker: int
    address: ListenAddress

    def beside(self, other: _Bound, origins: Origins) -> str:
        """Where both come from, for the beginning of a message."""
        keys = dict.fromkeys((self.key, other.key))
        counted = [bound.worker for bound in (self, other) if bound.worker]
        workers = f", with the ports of worker {counted[-1]} of {origins.said('workers')}" if counted else ""
        return " and ".join(f"{key} ({origins.source(key)})" for key in keys) + workers

    def __str__(self) -> str:
        return host_port(self.address.host, self.address.port)


def _of_workers(config: Config) -> Iterator[tuple[int, ListenAddress]]:
    """The listeners of each worker; those of the first one, if their number is known at the start only."""
    for worker in range(max(1, config.workers)):
        for address in config.listeners_of(worker):
            yield worker, address


def _grouped(keyed: Iterable[tuple[Key, Item]]) -> Iterator[tuple[Key, list[Item]]]:
    """The items of each key, in their order."""
    groups: dict[Key, list[Item]] = {}
    for key, item in keyed:
        groups.setdefault(key, []).append(item)
    yield from groups.items()


def _named(config: Config, origins: Origins) -> Iterator[str]:
    """Listeners' names: each once and with a meaning, and each with an address that a client can dial."""
    where = f"listeners ({origins.source('listeners')})"
    names = [address.name for address in config.listeners if address.name != UNNAMED]
    yield from (f"{where}: {name} is the name of two listeners" for name in sorted(set(names)) if names.count(name) > 1)
    for address in config.kafka_listeners:
        if config.protocol_of(address.name) is None:
            yield (
                f"{where}: nothing says how {address.name} is secured: allowed: {', '.join(SecurityProtocol)}, or a "
                f"name in listener.security.protocol.map, as {address.name}:SASL_SSL"
            )
        try:
            check_dialable(address, str(address))
        except ValueError as wrong:
            yield f"{where}: {wrong}, or name it in advertised.listeners, as {address.name}://HOST:PORT"
    for told in config.advertised_listeners:
        if told.name not in {address.name for address in config.listeners}:
            yield f"{origins.said('advertised.listeners')}: listeners has no {told.name}"
    for name in sorted({address.name for address in config.listeners}):
        yield from _secured(config, name)


def _secured(config: Config, name: str) -> Iterator[str]:
    """What a listener's protocol needs."""
    protocol, keys = config.protocol_of(name), config.security_of(name)
    one = f"listener {name} is {protocol}"
    if protocol is not None and protocol.has_tls:
        texts = keys.ssl_keystore_key is not None and keys.ssl_keystore_certificate_chain is not None
        if keys.ssl_keystore_location is None and not texts:
            yield f"{one}: it needs ssl.keystore.location, or ssl.keystore.key and ssl.keystore.certificate.chain"
        if keys.ssl_client_auth != "none" and not (keys.ssl_truststore_location or keys.ssl_truststore_certificates):
            yield (
                f"{one} with ssl.client.auth = {keys.ssl_client_auth}: it needs ssl.truststore.location, the "
                "authorities whose client certificates are accepted"
            )
    if protocol is None or not protocol.has_sasl:
        return
    mechanisms = keys.sasl_enabled_mechanisms
    if not mechanisms:
        yield f"{one}: it needs sasl.enabled.mechanisms: {', '.join(MECHANISMS)}"
    if "PLAIN" in mechanisms and keys.sasl_jaas_config is None and keys.sasl_plain_users_file is None:
        yield f"{one} with PLAIN: it needs its users, in sasl.plain.users.file or sasl.jaas.config"
    if "OAUTHBEARER" in mechanisms and not (
        keys.sasl_oauthbearer_jwks_endpoint_url and keys.sasl_oauthbearer_expected_audience
    ):
        yield (
            f"{one} with OAUTHBEARER: it needs sasl.oauthbearer.jwks.endpoint.url and "
            "sasl.oauthbearer.expected.audience, or a token for somebody else would do here"
        )


def _advertised(config: Config, origins: Origins) -> Iterator[str]:
    key = "listeners"
    told_by = ((_told(address), address) for _, address in _of_workers(config))
    for place, addresses in _grouped((place, address) for place, address in told_by if place is not None):
        for one, other in itertools.combinations(addresses, 2):
            yield (
                f"{key} ({origins.source(key)}): clients of {host_port(one.host, one.port)} and of "
                f"{host_port(other.host, other.port)} are told the same address, {host_port(*place)}: allowed: an "
                "advertised address of its own for each"
            )
    http = config.http_listen
    for one in config.kafka_listeners:
        told = _told(one)
        # A wildcard is never advertised: outside of a container its ports may differ.
        if http and told and one.advertised_host and told[1] == http.port and places(told[0]) & places(http.host):
            yield (
                f"{key} ({origins.source(key)}): clients of {host_port(one.host, one.port)} are told to connect to "
                f"{origins.said('http.listen')}: allowed: an address at which this listener is reached"
            )


def _told(address: ListenAddress) -> tuple[str, int] | None:
    """The address that a listener gives to its clients; None while the kernel has not chosen the port."""
    port = address.advertised_port or address.port
    return ((address.advertised_host or address.host).lower(), port) if port else None


# Long-term storage


def _sizes_of_tiers(config: Config, origins: Origins) -> Iterator[str]:
    if config.log_max_bytes < LOG_FILES_MIN * config.log_file_bytes:
        yield (
            f"{origins.said('log.max.bytes')}: allowed: at least {LOG_FILES_MIN} times log.file.bytes, "
            f"which is {config.log_file_bytes}: the log is cut by whole files"
        )
    if config.chunk_bytes > config.log_max_bytes // 2:
        yield (
            f"{origins.said('chunk.bytes')}: allowed: at most half of log.max.bytes, which is {config.log_max_bytes}: "
            "the log must have room for more while a chunk is made"
        )
    if config.tier2_read_ahead_bytes > config.tier2_cache_bytes:
        yield (
            f"{origins.said('tier2.read.ahead.bytes')}: allowed: at most tier2.cache.bytes, "
            f"which is {config.tier2_cache_bytes}: bytes that were read ahead wait there"
        )


def _place_of_tier2(config: Config, origins: Origins) -> Iterator[str]:
    if config.tier2_sse_kms_key_id is not None and config.tier2_sse != "kms":
        yield f"tier2.sse.kms.key.id has a meaning with tier2.sse = kms only: here {origins.said('tier2.sse')}"
    if config.tier2_sse != "none" and not isinstance(config.tier2, Bucket):
        yield f"{origins.said('tier2.sse')}: an S3 store encrypts, and here {origins.said('tier2')}"
    if (config.tier2_access_key is None) != (config.tier2_secret_key is None):
        there, missing = "tier2.access.key", "tier2.secret.key"
        if config.tier2_access_key is None:
            there, missing = missing, there
        yield f"{there} is set ({origins.source(there)}) and {missing} is not: they belong together"
    match config.tier2:
        case Directory() as place:
            yield from _directory(config, origins, place)
        case Bucket():
            yield from _endpoint(config, origins)
            return
    if config.tier2_endpoint is not None:
        yield (
            f"tier2.endpoint is set ({origins.source('tier2.endpoint')}), which has a meaning with "
            f"tier2 = s3://BUCKET/PREFIX only: here {origins.said('tier2')}"
        )


def _directory(config: Config, origins: Origins, place: Directory) -> Iterator[str]:
    """Neither directory may hold the other, except one in `data.dir` that serves no other purpose."""
    data = _real(config.data_dir)
    path = _real(place.below(config.data_dir))
    ours = [data / name for name in (STORE_DIRECTORY, RECOVERING_DIRECTORY, CACHE_DIRECTORY)]
    if path == data or any(path == own or own in path.parents for own in ours):
        yield f"{origins.said('tier2')}: allowed: no directory that Penstock uses for something else"
    elif path in data.parents:
        yield (
            f"{origins.said('tier2')}: data.dir = {config.data_dir} ({origins.source('data.dir')}) lies in it: "
            f"allowed: a directory beside data.dir, or one in it, as {TIER2_DIRECTORY}"
        )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _endpoint(config: Config, origins: Origins) -> Iterator[str]:
    if config.tier2_endpoint is None:
        return
    source = origins.source("tier2.endpoint")
    try:
        url = urlsplit(config.tier2_endpoint)
        known = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # an invalid port
        known = False
    if not known or url.path.strip("/") or url.query or url.fragment or url.username is not None:
        # The value is not quoted: the part before an @ is a secret.
        yield (
            f"tier2.endpoint ({source}) is no address of an S3 store: allowed: http://HOST[:PORT], "
            "https://HOST[:PORT], without a path or credentials in it"
        )
    elif url.scheme == "http" and config.tier2_ca_file is not None:
        yield (
            f"{origins.said('tier2.ca.file')}: tier2.endpoint ({source}) begins with http://, where nothing is "
            "encrypted and no certificate is shown: allowed: https://HOST[:PORT]"
        )
