"""The configuration keys of secured listeners: TLS and SASL, with Kafka's names.

Keeps: each key in `TransportKeys` may be set for one listener, as `listener.name.NAME.KEY` (NAME in lower case); what
is set so is stronger than the key alone. A text that is a secret is a `SecretStr`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from gateway.config.addresses import ListenAddress
from gateway.config.fields import INT_MAX, LONG_MAX, from_text

OVERRIDE: Final = "listener.name."
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
TLS_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")
_LISTENER_NAME: Final = re.compile(r"[A-Z0-9_.-]{1,100}")


class SecurityProtocol(enum.StrEnum):
    """Kafka's four: whether a listener encrypts, and whether it asks who is there."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def has_tls(self) -> bool:
        return self in (SecurityProtocol.SSL, SecurityProtocol.SASL_SSL)

    @property
    def has_sasl(self) -> bool:
        return self in (SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL)


def parse_protocols(text: str) -> dict[str, SecurityProtocol]:
    """`NAME:PROTOCOL,NAME:PROTOCOL` by name. Raises ValueError."""
    found: dict[str, SecurityProtocol] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, protocol = (piece.strip().upper() for piece in part.partition(":"))
        if not colon or _LISTENER_NAME.fullmatch(name) is None or protocol not in SecurityProtocol.__members__:
            raise ValueError(f"{part!r} is not NAME:PROTOCOL")
        if name in found:
            raise ValueError(f"{name} stands there twice")
        found[name] = SecurityProtocol[protocol]
    return found


def _advertised(value: object) -> ListenAddress:
    if isinstance(value, ListenAddress):
        return value
    text = str(value)
    if "://" not in text or "=" in text:
        raise ValueError(f"{text!r} is not NAME://HOST:PORT")
    address = ListenAddress.parse(text)
    if address.wildcard or not address.port:
        raise ValueError(f"{text!r} is an address that no client can dial")
    return address


def _pem_type(value: object) -> object:
    text = str(value).upper()
    if text in ("JKS", "PKCS12"):
        raise ValueError(
            f"Penstock reads PEM: convert it once, with keytool -importkeystore to PKCS12 if it is JKS, then with "
            f"`openssl pkcs12 -in STORE -out STORE.pem`, not {text}"
        )
    return text


def _upper(value: object) -> object:
    return [str(item).upper() for item in value] if isinstance(value, list | tuple) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Advertised = Annotated[ListenAddress, BeforeValidator(_advertised)]
Pem = Annotated[Literal["PEM"], BeforeValidator(_pem_type)]
Mechanisms = Annotated[
    tuple[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"], ...], BeforeValidator(_upper)
]
ClientAuth = Annotated[Literal["none", "requested", "required"], BeforeValidator(_lower)]


class TransportKeys(BaseModel):
    """Part of `Config`, and of each listener's own."""

    ssl_keystore_type: Pem = Field("PEM", description="Format of the server's key and certificates.")
    ssl_keystore_location: Path | None = Field(
        None,
        description="PEM file of the server's private key (PKCS#8, encrypted or not) and its certificate chain, its "
        "own certificate first. It is read again when it changes.",
    )
    ssl_keystore_certificate_chain: SecretStr | None = Field(
        None, description="The certificate chain as PEM text, instead of ssl.keystore.location."
    )
    ssl_keystore_key: SecretStr | None = Field(
        None, description="The private key as PEM text, instead of ssl.keystore.location."
    )
    ssl_key_password: SecretStr | None = Field(None, description="Password of an encrypted private key.")
    ssl_truststore_type: Pem = Field("PEM", description="Format of the authorities' certificates.")
    ssl_truststore_location: Path | None = Field(
        None,
        description="PEM file of the authorities whose client certificates are accepted. It is read again when it "
        "changes.",
    )
    ssl_truststore_certificates: SecretStr | None = Field(
        None, description="The authorities' certificates as PEM text, instead of ssl.truststore.location."
    )
    ssl_client_auth: ClientAuth = Field(
        "none",
        description="Whether clients must show a certificate. On an SSL listener it makes them who they are.",
    )
    ssl_enabled_protocols: tuple[Literal["TLSv1.2", "TLSv1.3"], ...] = Field(
        TLS_VERSIONS,
        min_length=1,
        description="Versions of TLS.",
        json_schema_extra={"allowed": "TLSv1.2, TLSv1.3 or both, separated by commas"},
    )
    ssl_cipher_suites: tuple[str, ...] = Field(
        (),
        description="Cipher suites of TLS 1.2, by Java's or OpenSSL's names; empty: OpenSSL's choice. Those of TLS 1.3 "
        "are always allowed.",
        json_schema_extra={"allowed": "names of cipher suites, separated by commas"},
    )
    ssl_principal_mapping_rules: str = Field(
        "DEFAULT",
        description="From a client certificate's distinguished name to a user; the first rule that matches decides.",
        json_schema_extra={"allowed": "DEFAULT or RULE:PATTERN/REPLACEMENT/[LU], separated by commas"},
    )
    ssl_allow_dn_changes: bool = Field(
        False, description="A certificate that is read again may have another distinguished name."
    )
    ssl_allow_san_changes: bool = Field(
        False, description="A certificate that is read again may lack names (SAN) of the former one."
    )
    sasl_enabled_mechanisms: Mechanisms = Field(
        (),
        description="SASL mechanisms of listeners with SASL_PLAINTEXT or SASL_SSL.",
        json_schema_extra={"allowed": f"{', '.join(MECHANISMS)}, separated by commas"},
    )
    sasl_jaas_config: SecretStr | None = Field(
        None,
        description="Users of PLAIN in Kafka's form: org.apache.kafka.common.security.plain.PlainLoginModule required "
        'user_NAME="PASSWORD" ...; No class is loaded.',
    )
    sasl_plain_users_file: Path | None = Field(
        None,
        description="File of the users of PLAIN, a NAME:SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY in a line, "
        "as `penstock users hash` prints it. It is read again when it changes.",
    )
    sasl_server_max_receive_size: int = Field(
        524_288,
        ge=1_024,
        le=16 * 1024 * 1024,
        description="Largest request, in bytes, of a client that has not yet proved who it is.",
    )
    connections_max_reauth_ms: int = Field(
        0,
        ge=0,
        le=LONG_MAX,
        description="Time after which a client of SASL must prove again who it is; 0: when its token ends, if ever.",
    )
    sasl_oauthbearer_jwks_endpoint_url: str | None = Field(
        None, description="Keys (JWKS) that sign tokens: an https:// or file:/// address, read by the gateway itself."
    )
    sasl_oauthbearer_jwks_endpoint_refresh_ms: int = Field(
        3_600_000, ge=1_000, le=LONG_MAX, description="Time after which the keys are read again."
    )
    sasl_oauthbearer_expected_audience: tuple[str, ...] = Field(
        (), description="Audiences of which a token must name one. OAUTHBEARER needs at least one."
    )
    sasl_oauthbearer_expected_issuer: str | None = Field(None, description="The issuer that a token must name.")
    sasl_oauthbearer_clock_skew_seconds: int = Field(
        30, ge=0, le=3_600, description="Difference of clocks that a token's times may have."
    )
    sasl_oauthbearer_sub_claim_name: str = Field("sub", min_length=1, description="The claim that names the user.")

    @field_validator("sasl_oauthbearer_jwks_endpoint_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "file:///")):
            raise ValueError("allowed: an address that begins with https:// or file:///")
        return value


class SecurityKeys(TransportKeys):
    """Part of `Config`: the keys of a listener, and those of all."""

    listener_security_protocol_map: str = Field(
        "SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
        description="What the names of listeners mean; PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL mean themselves.",
        json_schema_extra={"allowed": f"NAME:PROTOCOL, separated by commas; {', '.join(SecurityProtocol)}"},
    )
    advertised_listeners: tuple[Advertised, ...] = Field(
        (),
        description="Addresses that clients of a listener are told, by its name; if it has none here, its own.",
        json_schema_extra={"allowed": "NAME://HOST:PORT, separated by commas"},
    )
    connection_failed_authentication_delay_ms: int = Field(
        100, ge=0, le=10_000, description="Delay of the answer to a failed authentication."
    )

    @field_validator("listener_security_protocol_map")
    @classmethod
    def _names_and_protocols(cls, value: str) -> str:
        parse_protocols(value)
        return value


class ListenerSecurity(TransportKeys):
    """One listener's own keys: those set for it, else those set for all; its bounds on connections have no others."""

    model_config = ConfigDict(
        alias_generator=lambda attribute: attribute.replace("_", "."),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    max_connections: int = Field(INT_MAX, ge=0, le=INT_MAX, description="Connections at a time at this listener.")
    max_connection_creation_rate: int = Field(
        INT_MAX, ge=0, le=INT_MAX, description="Connections accepted per second at this listener."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        return from_text(info.field_name, cls.model_fields[info.field_name], value)

    @classmethod
    def of(cls, common: TransportKeys, own: Mapping[str, Any]) -> ListenerSecurity:
        """`own`: values by key. Raises pydantic's ValidationError."""
        values: dict[str, Any] = {name.replace("_", "."): getattr(common, name) for name in TransportKeys.model_fields}
        return cls(**(values | dict(own)))


OVERRIDABLE: Final = frozenset(name.replace("_", ".") for name in ListenerSecurity.model_fields)
"""Keys that may be set for one listener."""
