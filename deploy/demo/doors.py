"""How clients come in: by an open door, or by one with TLS and passwords behind which ACLs hold.

Keeps: keys, passwords and the token are made for one demo, in its directory, and go with it.
"""

from __future__ import annotations

import secrets
import shlex
import socket
import ssl
import struct
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from deploy.demo.servers import PENSTOCK, REPOSITORY, CannotStart

MAKE_S_MAX: Final = 60.0
ANSWER_S_MAX: Final = 30.0
ADMIN: Final = "admin"
CLIENT: Final = "demo"
"""The user of the clients, who may do what ACLs allow."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The nodes' protocol and keys, and what clients say: the administrator, and the others; by HTTP, too."""

    protocol: str = "PLAINTEXT"
    keys: Sequence[str] = ()  # KEY=VALUE
    http_keys: Sequence[str] = ()
    admin: Mapping[str, str | int] = field(default_factory=dict)
    client: Mapping[str, str | int] = field(default_factory=dict)
    context: ssl.SSLContext | None = None
    token_file: Path | None = None

    @property
    def scheme(self) -> str:
        return "http" if self.context is None else "https"

    def get(self, server: str, path: str) -> bytes:
        """What an HTTP server answers to its administrator."""
        request = urllib.request.Request(f"{self.scheme}://{server}{path}")
        if self.token_file is not None:
            request.add_header("Authorization", f"Bearer {self.token_file.read_text().strip()}")
        with urllib.request.urlopen(request, timeout=ANSWER_S_MAX, context=self.context) as answer:
            content: bytes = answer.read()
        return content

    @contextmanager
    def entered(self, server: str) -> Iterator[socket.socket]:
        """A connection for Kafka's frames, by which the administrator has come in."""
        host, _, port = server.rpartition(":")
        with socket.create_connection((host, int(port)), ANSWER_S_MAX) as plain:
            if self.context is None:
                yield plain
                return
            with self.context.wrap_socket(plain, server_hostname=host) as sealed:
                password = f"\0{self.admin['sasl.username']}\0{self.admin['sasl.password']}".encode()
                # SaslHandshake v1 for PLAIN, then SaslAuthenticate v0 (KIP-152), of a client without a name.
                asked(sealed, struct.pack(">hhihh5s", 17, 1, 1, -1, 5, b"PLAIN"))
                asked(sealed, struct.pack(">hhihi", 36, 0, 2, -1, len(password)) + password)
                yield sealed

    def let_in(self, admin: AdminClient, topic: str, *groups: str) -> None:
        """Let the clients write a topic, and read it in these groups."""
        if not self.client:
            return
        may: list[tuple[Any, str, Any]] = [
            (ResourceType.TOPIC, topic, AclOperation.WRITE),
            (ResourceType.TOPIC, topic, AclOperation.READ),
            *((ResourceType.GROUP, group, AclOperation.READ) for group in groups),
        ]
        literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
        acls = [
            AclBinding(kind, name, literal, f"User:{CLIENT}", "*", operation, allow) for kind, name, operation in may
        ]
        for made in admin.create_acls(acls).values():
            made.result(ANSWER_S_MAX)


OPEN: Final = Doors()


def secured(directory: Path) -> Doors:
    """Doors of a demo whose directory this is. Raises CannotStart."""
    place = directory / "secrets"
    _output([str(REPOSITORY / "deploy" / "compose" / "make-secrets"), str(place), "127.0.0.1"])
    passwords = {ADMIN: place / "admin.password", CLIENT: place / "demo.password"}
    passwords[CLIENT].write_text(_output(["openssl", "rand", "-hex", "16"]))
    passwords[CLIENT].chmod(0o600)
    users = place / "users"
    users.touch(0o600)
    users.write_text(
        "".join(
            _output([PENSTOCK, "users", "hash", user, "--password-file", str(file)]) for user, file in passwords.items()
        )
    )
    keys = (
        f"ssl.keystore.location={place / 'server.pem'}",
        "sasl.enabled.mechanisms=PLAIN",
        f"sasl.plain.users.file={users}",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        f"super.users=User:{ADMIN}",
        "audit.log=",
    )
    token = place / "http.token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(16))
    http_keys = (
        f"http.tls.keystore.location={place / 'server.pem'}",
        "http.auth=token",
        f"http.token.file={token}",
        f"http.token.user={ADMIN}",
    )

    def said(user: str) -> dict[str, str | int]:
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": passwords[user].read_text().strip(),
            "ssl.ca.location": str(place / "ca.pem"),
        }

    context = ssl.create_default_context(cafile=str(place / "ca.pem"))
    return Doors("SASL_SSL", keys, http_keys, said(ADMIN), said(CLIENT), context, token)


def asked(connection: socket.socket, request: bytes) -> bytes:
    """The answer to a frame, without its length."""
    connection.sendall(struct.pack(">i", len(request)) + request)
    with connection.makefile("rb") as stream:
        (size,) = struct.unpack(">i", stream.read(4))
        return stream.read(size)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_S_MAX, check=False)
    if done.returncode:
        raise CannotStart(f"{shlex.join(command[:2])} ended with {done.returncode}:\n{done.stderr[-1_000:]}")
    return done.stdout
