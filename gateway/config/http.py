"""The configuration keys of access to the HTTP server: the token and the names that changes need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr


def _lower(value: object) -> object:
    return [str(item).lower() for item in value] if isinstance(value, list | tuple) else value


class HttpKeys(BaseModel):
    """Part of `Config`."""

    http_auth: Annotated[tuple[Literal["basic", "bearer", "token", "mtls"], ...], BeforeValidator(_lower)] = Field(
        (),
        description="How requests over HTTP prove their user: basic (name and password of a user of SCRAM), bearer (a "
        "token for OAUTHBEARER), token (http.token, which is http.token.user), mtls (a certificate by "
        "http.tls.truststore.location). Empty: they have no user, and changes need http.token.",
        json_schema_extra={"allowed": "basic, bearer, token, mtls, separated by commas"},
    )
    http_token_user: str = Field(
        "http", min_length=1, max_length=1_000, description="The user that http.token proves, if http.auth has token."
    )
    http_metrics_open: bool = Field(True, description="With http.auth: /metrics needs no user all the same.")

    http_token: SecretStr | None = Field(
        None,
        description="Token of requests that scale or seal a stream over HTTP. Not set: such requests are allowed from "
        "this machine only, and only if http.listen is an address of this machine alone.",
    )
    http_hosts: tuple[str, ...] = Field(
        (),
        description="Further names of the HTTP server, besides localhost, its addresses and the name "
        "in http.listen. Changes that are sent to any other name are refused.",
        json_schema_extra={"allowed": "host names, separated by commas"},
    )
    http_tls_keystore_location: Path | None = Field(
        None,
        description="PEM file of the HTTP server's private key and certificate chain, which makes it speak https only. "
        "It is read again when it changes.",
    )
    http_tls_key_password: SecretStr | None = Field(
        None, description="Password of the private key in http.tls.keystore.location, if it is encrypted."
    )
    http_tls_truststore_location: Path | None = Field(
        None,
        description="PEM file of the authorities whose clients' certificates prove a user over HTTP, for http.auth = "
        "mtls. It is read again when it changes.",
    )
