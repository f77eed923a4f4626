"""Secrets that lie in files: for each secret key `KEY` there is `KEY.file`.

Keeps: a secret's text is in no message, and neither is a file's content; a secret that was written on the command line,
where every user of the machine can read it, is reported by its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, Field

from gateway.config.layers import ConfigError, Given

SUFFIX: Final = ".file"
SECRET_BYTES_MAX: Final = 16 * 1024
SECRET_KEYS: Final = (
    "http.token",
    "tier2.access.key",
    "tier2.secret.key",
    "ssl.key.password",
    "http.tls.key.password",
    "delegation.token.secret.key",
    "etcd.password",
    "etcd.key.password",
    "cluster.settings.key",
)
IN_FILES_OF_KAFKAS: Final = {
    "ssl.keystore.key": "ssl.keystore.location",
    "ssl.keystore.certificate.chain": "ssl.keystore.location",
    "ssl.truststore.certificates": "ssl.truststore.location",
    "sasl.jaas.config": "sasl.plain.users.file",
}
"""Secret keys for which another key, Kafka's own where it has one, names a file with the same content."""
COMMAND_LINE: Final = "--set"
"""The source of a value from the command line."""


class Sourced(Protocol):
    """A configuration that knows the source of each value."""

    def source_of(self, key: str) -> str: ...


class SecretFileKeys(BaseModel):
    """Part of `Config`."""

    http_token_file: Path | None = Field(
        None, description="File that holds http.token alone; a final line break is dropped. Read at the start."
    )
    tier2_access_key_file: Path | None = Field(
        None,
        description="File that holds tier2.access.key alone; a final line break is dropped. Read at the start.",
    )
    tier2_secret_key_file: Path | None = Field(
        None,
        description="File that holds tier2.secret.key alone; a final line break is dropped. Read at the start.",
    )
    http_tls_key_password_file: Path | None = Field(
        None,
        description="File that holds http.tls.key.password alone; a final line break is dropped. Read at the start.",
    )
    ssl_key_password_file: Path | None = Field(
        None,
        description="File that holds ssl.key.password alone; a final line break is dropped. Read at the start.",
    )
    delegation_token_secret_key_file: Path | None = Field(
        None,
        description="File that holds delegation.token.secret.key alone; a final line break is dropped. Read at the "
        "start.",
    )
    etcd_password_file: Path | None = Field(
        None, description="File that holds etcd.password alone; a final line break is dropped. Read at the start."
    )
    etcd_key_password_file: Path | None = Field(
        None, description="File that holds etcd.key.password alone; a final line break is dropped. Read at the start."
    )
    cluster_settings_key_file: Path | None = Field(
        None,
        description="File that holds cluster.settings.key alone; a final line break is dropped. Read at the start.",
    )


def with_files(given: Mapping[str, Given]) -> dict[str, Given]:
    """The values, including those in files. Raises ConfigError."""
    problems: list[str] = []
    found = dict(given)
    for key in SECRET_KEYS:
        named = given.get(key + SUFFIX)
        if named is None:
            continue
        if key in given:
            problems.append(
                f"{key}{SUFFIX} is set ({named.source}) and {key} too ({given[key].source}): allowed: one of them"
            )
            continue
        try:
            found[key] = Given(read_secret(Path(str(named.value))), f"{key}{SUFFIX} ({named.source})")
        except ValueError as exc:
            problems.append(f"{key}{SUFFIX} = {str(named.value)!r} ({named.source}): {exc}")
    if problems:
        raise ConfigError(problems)
    return found


def read_secret(path: Path) -> str:
    """A file's content without a final line break. Raises ValueError, whose message does not show the content."""
    try:
        with path.open("rb") as stream:
            content = stream.read(SECRET_BYTES_MAX + 1)
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}") from exc
    if len(content) > SECRET_BYTES_MAX:
        raise ValueError(f"holds more than {SECRET_BYTES_MAX} bytes, which is no secret")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not text.strip():
        raise ValueError("is empty")
    if "\n" in text or "\r" in text:
        raise ValueError("has more than one line")
    return text


def on_command_line(config: Sourced) -> Iterator[str]:
    """Secret keys that were set on the command line."""
    return (key for key in SECRET_KEYS if config.source_of(key) == COMMAND_LINE)
