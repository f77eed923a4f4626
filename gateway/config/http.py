"""The configuration keys of access to the HTTP server: the token and the names that changes need."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, SecretStr


class HttpKeys(BaseModel):
    """Part of `Config`."""

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
