"""How clients come in: by an open door, or by one with TLS and passwords behind which ACLs hold.

Keeps: keys and passwords are made for one demo, in its directory, and go with it.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.demo.servers import PENSTOCK, REPOSITORY, CannotStart

MAKE_S_MAX: Final = 60.0
ADMIN: Final = "admin"
CLIENT: Final = "demo"
"""The user of the clients, who may do what ACLs allow."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The nodes' protocol and keys, and what clients say: the administrator, and the others."""

    protocol: str = "PLAINTEXT"
    keys: Sequence[str] = ()  # KEY=VALUE
    admin: Mapping[str, str | int] = field(default_factory=dict)
    client: Mapping[str, str | int] = field(default_factory=dict)


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

    def said(user: str) -> dict[str, str | int]:
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": user,
            "sasl.password": passwords[user].read_text().strip(),
            "ssl.ca.location": str(place / "ca.pem"),
        }

    return Doors("SASL_SSL", keys, said(ADMIN), said(CLIENT))


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_S_MAX, check=False)
    if done.returncode:
        raise CannotStart(f"{shlex.join(command[:2])} ended with {done.returncode}:\n{done.stderr[-1_000:]}")
    return done.stdout
