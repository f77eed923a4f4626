"""The configuration keys of a cluster of machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, PlainValidator, SecretStr, field_validator

from gateway.config.addresses import ListenAddress, check_dialable

CLUSTER_CONTAINERS_MAX: Final = 256
LEASE_MS_MIN: Final = 2_000
DRAIN_MS: Final = 20_000
ENDPOINTS_MAX: Final = 16
ETCD_PORT: Final = 2379
ETCD_USER_CHARS_MAX: Final = 200
SETTINGS_KEY_CHARS_MIN: Final = 32


class EtcdPlace(NamedTuple):
    """A cluster in etcd."""

    endpoints: tuple[tuple[str, int], ...]
    name: str
    tls: bool


def parse_cluster(text: str) -> EtcdPlace:
    """Raises ValueError with what is allowed."""
    scheme, separator, rest = text.partition("://")
    hosts, slash, name = rest.partition("/")
    if scheme not in ("etcd", "etcds") or not separator or not slash or not name or "/" in name:
        raise ValueError("allowed: etcd://HOST:PORT,HOST:PORT/NAME, or etcds:// for TLS")
    endpoints: list[tuple[str, int]] = []
    for one in hosts.split(","):
        parts = urlsplit(f"//{one}")
        if not parts.hostname or parts.path or parts.username is not None:
            raise ValueError(f"{one[:100]!r} is no HOST:PORT")
        endpoints.append((parts.hostname, parts.port or ETCD_PORT))
    if len(endpoints) > ENDPOINTS_MAX:
        raise ValueError(f"{len(endpoints)} members of etcd: allowed are {ENDPOINTS_MAX}")
    return EtcdPlace(tuple(endpoints), name, scheme == "etcds")


def _inner_address(value: object) -> ListenAddress | None:
    if value is None or isinstance(value, ListenAddress):
        return value
    if "://" in (text := str(value)):
        raise ValueError(f"{text[:100]!r} has a name, and other nodes need none")
    address = ListenAddress.parse(text)
    check_dialable(address, text)
    return address


InnerAddress = Annotated[ListenAddress | None, PlainValidator(_inner_address)]


class ClusterKeys(BaseModel):
    """Part of `Config`."""

    cluster: str = Field(
        "",
        description="etcd://HOST:PORT,HOST:PORT/NAME: this node is one of the cluster of that name, whose members meet "
        "in etcd; etcds:// for TLS. The log lies in long-term storage then, and each node needs a node.id of its own. "
        "Not set: this gateway is alone.",
    )
    cluster_listen: InnerAddress = Field(
        None,
        description="Address for other nodes of the cluster, HOST:PORT[=ADVERTISED_HOST[:PORT]]: whoever comes there "
        "must have a certificate of the cluster's own authority, whose key lies in etcd. Not set: a free port on the "
        "address from which etcd is reached.",
        json_schema_extra={"allowed": "HOST:PORT[=ADVERTISED_HOST[:PORT]]"},
    )
    cluster_http_listen: InnerAddress = Field(
        None,
        description="Address at which other nodes ask this one's REST API for their consoles, as cluster.listen; only "
        "where http is on. Not set: a free port on the host of cluster.listen, or on the address from which etcd is "
        "reached.",
        json_schema_extra={"allowed": "HOST:PORT[=ADVERTISED_HOST[:PORT]]"},
    )
    cluster_pulse_listen: InnerAddress = Field(
        None,
        description="Address at which other nodes notice this process' end, as cluster.listen; it tells nothing and "
        "takes nothing. Not set: a free port on the host of cluster.listen, or on the address from which etcd is "
        "reached.",
        json_schema_extra={"allowed": "HOST:PORT[=ADVERTISED_HOST[:PORT]]"},
    )
    cluster_containers: int = Field(
        16,
        ge=1,
        le=CLUSTER_CONTAINERS_MAX,
        description="Containers of the cluster, each with a log and one owner. Decided by the first node for ever.",
    )
    cluster_lease_ms: int = Field(
        4_000,
        ge=LEASE_MS_MIN,
        le=60_000,
        description="A node that etcd has not heard of for so long loses its containers to others; in whole seconds.",
    )
    cluster_fence: Literal["both", "conditional", "verify"] = Field(
        "both",
        description="What keeps a node that was replaced from acknowledging writes. conditional: long-term storage "
        "refuses its puts. verify: etcd is asked before each acknowledgement, for a store that ignores conditions. "
        "both: both.",
    )
    cluster_rebalance: Literal["auto", "off"] = Field(
        "auto",
        description="auto: containers go from busy nodes to others, and to those that join, and so do partitions "
        "where one container is too much for a node. off: only a node that stops gives containers away.",
    )
    cluster_settings_key: SecretStr | None = Field(
        None,
        description="The key that seals credentials in the bucket's copy of the cluster's settings, at least 32 "
        "characters: as hard to guess as 32 random bytes, the same on all nodes. Not set: users of SCRAM and "
        "delegation tokens are not in that copy, and are gone when etcd is.",
    )
    shutdown_drain_ms: int = Field(
        DRAIN_MS,
        ge=0,
        le=600_000,
        description="How long a node of a cluster that stops hands its containers over; what is left is taken by "
        "others as from a node that died.",
    )
    etcd_ca_file: Path | None = Field(
        None, description="Certificates that vouch for etcd's, PEM. Not set: the system's."
    )
    etcd_cert_file: Path | None = Field(None, description="This node's certificate for etcd, PEM, with etcd.key.file.")
    etcd_key_file: Path | None = Field(None, description="The certificate's key, PEM.")
    etcd_key_password: SecretStr | None = Field(None, description="Password of that key, if it is encrypted.")
    etcd_user: str = Field(
        "",
        max_length=ETCD_USER_CHARS_MAX,
        description="etcd's user that this node is, with etcd.password, where etcd has users. It reads and writes all "
        "keys below penstock/NAME/, and leases.",
    )
    etcd_password: SecretStr | None = Field(None, description="That user's password.")

    @field_validator("cluster_settings_key")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SETTINGS_KEY_CHARS_MIN:
            raise ValueError(f"allowed: at least {SETTINGS_KEY_CHARS_MIN} characters, as of `openssl rand -base64 32`")
        return value

    @field_validator("cluster")
    @classmethod
    def _is_place(cls, value: str) -> str:
        if value:
            parse_cluster(value)
        return value
