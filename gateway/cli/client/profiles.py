"""Named connections in a file of the user.

`$XDG_CONFIG_HOME/penstock/profiles.toml`, or `~/.config/penstock/profiles.toml`:

    current = "prod"
    [profile.prod]
    bootstrap = "kafka.example:9092"
    user = "ann"
    password_file = "/home/ann/.kafka-password"

Keeps: a profile names the files of secrets and holds none. The file is replaced as a whole; its owner alone reads it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gateway.cli.client.connection import NAMES, Connection
from gateway.cli.refused import Refused
from gateway.exits import ExitCode

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(slots=True)
class Profiles:
    """The file's content."""

    path: Path
    current: str | None
    named: dict[str, Connection]

    @classmethod
    def read(cls) -> Profiles:
        """The user's file; empty if there is none. Raises Refused if it cannot be used."""
        path = _path()
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path, None, {})
        except (OSError, ValueError) as error:
            raise Refused(f"{path}: cannot be read: {error}", ExitCode.CONFIGURATION) from None
        named = {name: _connection(path, name, given) for name, given in content.get("profile", {}).items()}
        current = content.get("current")
        return cls(path, current if isinstance(current, str) else None, named)

    def of(self, name: str | None) -> Connection:
        """A profile by name, or the current one; without any, nothing is given. Raises Refused for an unknown name."""
        wanted = name or self.current
        if wanted is None:
            return Connection()
        if wanted not in self.named:
            there = ", ".join(sorted(self.named)) or "none yet"
            raise Refused(f"no profile {wanted[:100]!r} in {self.path}; there are: {there}", ExitCode.CONFIGURATION)
        return self.named[wanted]

    def write(self) -> None:
        """Replace the file."""
        lines = [f"current = {json.dumps(self.current)}"] if self.current is not None else []
        for name, connection in sorted(self.named.items()):
            lines.append(f"\n[profile.{json.dumps(name)}]")
            given = {key: value for key, value in asdict(connection).items() if value is not None}
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
            os.replace(temporary, self.path)
        except OSError as error:
            raise Refused(f"{self.path}: cannot be written: {error.strerror}", ExitCode.CONFIGURATION) from None


def check_name(name: str) -> None:
    """Raises Refused for a name that a profile cannot have."""
    if _NAME.fullmatch(name) is None:
        raise Refused(
            f"{name[:100]!r} cannot name a profile: allowed are 1 to 100 letters, digits, dots, dashes, underscores",
            ExitCode.CONFIGURATION,
        )


def _path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        home = Path.home()
    except RuntimeError:  # a container's user whom nobody knows; Docker gives such a one the root
        home = Path("/")
    return (Path(base) if base.startswith("/") else home / ".config") / "penstock" / "profiles.toml"


def _connection(path: Path, name: str, given: object) -> Connection:
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise Refused(f"{path}: profile {name[:100]!r}: every setting is a text in quotes", ExitCode.CONFIGURATION)
    if unknown := sorted(set(given) - set(NAMES)):
        allowed = ", ".join(NAMES)
        raise Refused(f"{path}: profile {name[:100]!r}: unknown setting {unknown[0][:100]!r}; allowed: {allowed}")
    return Connection(**given)
