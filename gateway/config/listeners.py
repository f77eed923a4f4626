"""The configuration keys of the listeners, and of their connections and requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, field_validator

from gateway.config.addresses import ListenAddress, parse_kafka_listener
from gateway.config.fields import INT_MAX, LONG_MAX, LONG_MIN
from gateway.config.units import MIB

IDLE_MS_MIN: Final = 101
"""Kafka delays the answer to a failed authentication by 100 ms, and closes no connection before it."""
COUNT_DIGITS: Final = 10
_HOST: Final = re.compile(r"[0-9A-Za-z._:%-]{1,255}")


def _listener(value: object) -> ListenAddress:
    return value if isinstance(value, ListenAddress) else parse_kafka_listener(str(value))


def _http_address(value: object) -> ListenAddress | None:
    if value is None or isinstance(value, ListenAddress):
        return value
    return None if str(value).strip().lower() == "off" else ListenAddress.parse(str(value))


def parse_overrides(text: str) -> dict[str, int]:
    """`HOST:COUNT,HOST:COUNT` by host; the last colon divides, as in Kafka. Raises ValueError."""
    overrides: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, colon, count = (piece.strip() for piece in part.rpartition(":"))
        host = host.removeprefix("[").removesuffix("]")
        if not colon or _HOST.fullmatch(host) is None:
            raise ValueError(f"{part!r} is not HOST:COUNT")
        if not (count.isascii() and count.isdigit()) or len(count) > COUNT_DIGITS or int(count) > INT_MAX:
            raise ValueError(f"{part!r}: a count is a number from 0 to {INT_MAX}")
        overrides[host] = int(count)
    return overrides


Listener = Annotated[ListenAddress, BeforeValidator(_listener)]
HttpAddress = Annotated[ListenAddress | None, PlainValidator(_http_address)]


class ListenerKeys(BaseModel):
    """Part of `Config`."""

    listeners: tuple[Listener, ...] = Field(
        (ListenAddress("localhost", 9092),),
        min_length=1,
        description="Addresses for Kafka clients, [NAME://]HOST:PORT[=ADVERTISED_HOST[:PORT]]. A client gets "
        "the advertised address of the listener that it used. The name says how it is secured: SSL, SASL_SSL or one of "
        "listener.security.protocol.map; without a name it is PLAINTEXT. Port 0 picks a free port.",
        json_schema_extra={"allowed": "[NAME://]HOST:PORT[=ADVERTISED_HOST[:PORT]], at least one, separated by commas"},
    )
    http_listen: HttpAddress = Field(
        ListenAddress("localhost", 9094),
        description="Address of the HTTP server: console, REST API, /metrics, /healthz, /readyz.",
        json_schema_extra={"allowed": "HOST:PORT, off"},
    )
    data_dir: Path = Field(Path("data"), description="Directory that holds everything Penstock keeps.")
    node_id: int = Field(1, ge=0, le=INT_MAX, description="The id of this broker, which clients see.")

    # Connections and requests
    max_connections: int = Field(
        10_000, ge=1, le=INT_MAX, description="Connections at a time; further ones are closed."
    )
    max_connections_per_ip: int = Field(
        INT_MAX,
        ge=0,
        le=INT_MAX,
        description="Connections at a time from one address. 0 only with max.connections.per.ip.overrides.",
    )
    max_connections_per_ip_overrides: str = Field(
        "",
        description="Connections at a time from single addresses or hosts, instead of max.connections.per.ip.",
        json_schema_extra={"allowed": "HOST:COUNT, separated by commas"},
    )
    max_connection_creation_rate: int = Field(
        INT_MAX,
        ge=0,
        le=INT_MAX,
        description="Connections accepted per second, over all listeners; after a quiet time ten seconds' worth at "
        "once. Further ones wait, they are not refused. 0: none is accepted.",
    )
    connections_max_idle_ms: int = Field(
        600_000,
        ge=LONG_MIN,
        le=LONG_MAX,
        json_schema_extra={"allowed": f"long from {IDLE_MS_MIN} to {LONG_MAX}, or -1"},
        description="A connection idle for this long is closed; -1 never.",
    )
    connections_first_request_timeout_ms: int = Field(
        60_000,
        ge=1,
        le=INT_MAX,
        description="A connection without a request for this long after it was made is closed.",
    )
    connections_receive_timeout_ms: int = Field(
        30_000,
        ge=1,
        le=INT_MAX,
        description="A connection is closed when the rest of a request does not come for this long.",
    )
    socket_request_max_bytes: int = Field(100 * MIB, ge=1, le=INT_MAX, description="Largest request that is read.")
    fetch_max_bytes: int = Field(
        55 * MIB, ge=1024, le=INT_MAX, description="Largest answer to a fetch, whatever the client asks for."
    )
    max_incremental_fetch_session_cache_slots: int = Field(
        1_000,
        ge=0,
        le=1_000_000,
        description="Fetch sessions kept. A new one may replace one that is idle for two minutes; a consumer without "
        "a session still fetches, but names all of its partitions each time.",
    )
    fetch_session_partitions_max: int = Field(
        500_000,
        ge=0,
        le=INT_MAX,
        description="Partitions of all fetch sessions together, up to 500 bytes each.",
    )
    queued_max_request_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Bound on the bytes of all requests being received or handled; connections are "
        "not read while it is reached.",
    )
    queued_max_response_bytes: int = Field(
        256 * MIB,
        ge=MIB,
        le=LONG_MAX,
        description="Bound on the bytes of all responses that have not left their sockets.",
    )

    @field_validator("max_connections_per_ip_overrides")
    @classmethod
    def _hosts_with_counts(cls, value: str) -> str:
        parse_overrides(value)
        return value
