"""Where a tool's cluster is and how to get in: flags over a profile over the default.

Keeps: a secret is read from a file when a connection is made; it is in no flag, profile, message or repr.
"""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from gateway.cli.refused import Refused
from gateway.exits import ExitCode

DEFAULT_BOOTSTRAP: Final = "localhost:9092"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
SECRET_BYTES_MAX: Final = 64 * 1024
CONNECT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Connection:
    """The settings of a connection, by the names that flags and profiles have. None: not given."""

    bootstrap: str | None = None
    security_protocol: str | None = None
    sasl_mechanism: str | None = None
    user: str | None = None
    password_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    url: str | None = None
    """Of the gateway's HTTP server, for the tools that ask it."""

    def over(self, weaker: Connection) -> Connection:
        """These settings, and the weaker ones where nothing is given here."""
        return replace(weaker, **{name: value for name, value in asdict(self).items() if value is not None})

    def checked(self) -> Connection:
        """With every setting decided. Raises Refused for settings that contradict one another."""
        protocol = (self.security_protocol or self._likely_protocol()).upper()
        _check("--security-protocol", protocol, PROTOCOLS)
        mechanism = (self.sasl_mechanism or "SCRAM-SHA-512").upper() if protocol.startswith("SASL") else None
        if mechanism is not None:
            _check("--sasl-mechanism", mechanism, MECHANISMS)
            if self.user is None or self.password_file is None:
                raise Refused(f"{protocol} needs --user and --password-file", ExitCode.CONFIGURATION)
        if self.cert is None and self.key is not None:
            raise Refused("--key belongs to a certificate: give --cert as well", ExitCode.CONFIGURATION)
        bootstrap = self.bootstrap or DEFAULT_BOOTSTRAP
        for address in bootstrap.split(","):
            split_address(address)
        return replace(self, bootstrap=bootstrap, security_protocol=protocol, sasl_mechanism=mechanism)

    def _likely_protocol(self) -> str:
        encrypted = self.ca is not None or self.cert is not None
        if self.user is not None:
            return "SASL_SSL" if encrypted else "SASL_PLAINTEXT"
        return "SSL" if encrypted else "PLAINTEXT"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [split_address(address) for address in (self.bootstrap or DEFAULT_BOOTSTRAP).split(",")]

    def password(self) -> str:
        """The first line of the password's file. Raises Refused if it cannot be read."""
        assert self.password_file is not None
        return secret_in(Path(self.password_file))


NAMES: Final = tuple(one.name for one in fields(Connection))


def secret_in(path: Path) -> str:
    """The first line of a file that holds a secret. Raises Refused if there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            secret = file.read(SECRET_BYTES_MAX).partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refused(f"{path}: cannot be read: {why}", ExitCode.CONFIGURATION) from None
    if not secret:
        raise Refused(f"{path}: its first line is empty, and should be the password", ExitCode.CONFIGURATION)
    return secret


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST[:PORT]`; an IPv6 address stands in brackets. Raises Refused."""
    text = address.strip()
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, "9092"
    host = host.removeprefix("[").removesuffix("]")
    if not host or "/" in host or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise Refused(
            f"--bootstrap {address[:200]!r}: allowed: HOST[:PORT], separated by commas", ExitCode.CONFIGURATION
        )
    return host, int(port)


def _check(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise Refused(f"{flag} {value[:100]}: allowed: {', '.join(allowed)}", ExitCode.CONFIGURATION)


def check_authorities(file: str) -> None:
    """Raises Refused for a file that vouches for nobody: on contact, no broker would be the reason to look at it."""
    import ssl

    why = "it has no certificate (-----BEGIN CERTIFICATE-----)"
    try:
        if ssl.create_default_context(cafile=file).cert_store_stats()["x509"]:
            return
    except OSError as error:
        if not isinstance(error, ssl.SSLError):
            why = f"cannot be read: {error.strerror}"
    raise Refused(f"--ca {file}: {why}", ExitCode.CONFIGURATION)


def reach(connection: Connection) -> None:
    """Refuse at once, and with the system's reason, what the library would try again for long."""
    reasons = []
    for host, port in connection.addresses:
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
        except OSError as error:
            reasons.append(f"{host}:{port} ({error.strerror or error})")
        else:
            return
    where = "say where one is with --bootstrap, or in a profile"
    raise Refused(f"no broker answers at {', '.join(reasons)[:500]}; {where}", ExitCode.UNEXPECTED)
