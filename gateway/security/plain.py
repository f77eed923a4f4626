"""PLAIN (RFC 4616): a name and a password in one message; users from `sasl.jaas.config` and from a file of hashes.

Invariants: a client cannot become another than it proves (authzid and authcid agree). A wrong name takes as long as a
wrong password: hashes of the file differ in cost, so a name that nobody has costs what one of the users costs, always
the same. Passwords are kept as hashes only, those of the configuration too.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.layers import ConfigError
from gateway.security.exchange import Done, Refused, Step
from gateway.security.scram import ScramCredential, credential

logger = logging.getLogger(__name__)

PASSWORD_BYTES_MAX: Final = 4_096
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
_MODULE: Final = re.compile(r"\s*(?:[\w.]+\.)?PlainLoginModule\s+required\b(?P<options>.*);\s*", re.S)
_OPTION: Final = re.compile(r'\s*([\w.@-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";]+))')
_LINE: Final = re.compile(r"(.+?):(SCRAM-SHA-\d+\$.*)")
_NOBODY: Final = credential("SCRAM-SHA-256", secrets.token_hex(16))
"""Whoever does not exist is compared with this where there are no users."""


def users_of_jaas(text: str) -> dict[str, str]:
    """Passwords by user of `PlainLoginModule required user_NAME="PASSWORD" ...;`. Raises ValueError; the message shows
    nothing of the text."""
    match = _MODULE.fullmatch(text)
    if match is None:
        raise ValueError('allowed: PlainLoginModule required user_NAME="PASSWORD" ...; and nothing else')
    users: dict[str, str] = {}
    options, position = match["options"], 0
    while position < len(options.rstrip()):
        option = _OPTION.match(options, position)
        if option is None:
            raise ValueError(f'its option number {len(users) + 1} is not NAME="VALUE"')
        if option[1].startswith("user_"):
            quoted = option[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else option[3]
            users[option[1].removeprefix("user_")] = value
        position = option.end()
    return users


class PlainUsers:
    """The users of one listener. Raises ConfigError when made, if the text or the file cannot be used."""

    def __init__(self, listener: str, jaas: str | None, file: Path | None) -> None:
        self._listener = listener
        self._file = file
        try:
            given = users_of_jaas(jaas) if jaas is not None else {}
        except ValueError as wrong:
            raise ConfigError([f"sasl.jaas.config of listener {listener}: {wrong}"]) from wrong
        self._given = {user: credential("SCRAM-SHA-256", password) for user, password in given.items()}
        self._state = self._file_state()
        try:
            self._use(self._read())
        except (OSError, ValueError) as wrong:
            raise ConfigError([f"sasl.plain.users.file of listener {listener}, {file}: {_told(wrong)}"]) from wrong

    def check(self, user: str, password: str) -> bool:
        """Computes for a millisecond or more: for a thread."""
        known = self._given.get(user) or self._hashes.get(user)
        return (known or self._stand_in(user)).proves(password) and known is not None

    def _use(self, hashes: Mapping[str, ScramCredential]) -> None:
        self._hashes = hashes
        self._everyone = (*self._given.values(), *hashes.values()) or (_NOBODY,)
        # The same in all processes that have the file, and nobody outside knows it.
        self._key = hashlib.sha256(b"".join(one.stored_key for one in hashes.values())).digest()

    def _stand_in(self, user: str) -> ScramCredential:
        """The credential that a name is compared with if nobody has it."""
        drawn = hmac.digest(self._key, user.encode(), "sha256")
        return self._everyone[int.from_bytes(drawn, "big") % len(self._everyone)]

    def renew(self) -> bool:
        """Read a changed file again; a broken one is not used. Waits for the disk: for a thread."""
        state = self._file_state()
        if state == self._state:
            return False
        self._state = state
        try:
            self._use(self._read())
        except (OSError, ValueError) as wrong:
            extra = {"listener": self._listener, "file": str(self._file), "error": _told(wrong)}
            logger.error("changed users of PLAIN are not used, the former ones still are", extra=extra)
            return False
        logger.info("changed users of PLAIN are used from now on", extra={"listener": self._listener})
        return True

    def _file_state(self) -> tuple[int, int, int] | None:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size)

    def _read(self) -> Mapping[str, ScramCredential]:
        """Raises OSError, ValueError."""
        if self._file is None:
            return {}
        with self._file.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes")
        return parse_users(content.decode())


def parse_users(text: str) -> dict[str, ScramCredential]:
    """Credentials by user of lines `NAME:CREDENTIAL`; empty lines and those that begin with # do not count.

    Raises ValueError with the line's number; the message shows nothing of the line."""
    users: dict[str, ScramCredential] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"line {number} is not NAME:MECHANISM$ITERATIONS:SALT$STORED_KEY:SERVER_KEY")
        try:
            users[match[1]] = ScramCredential.from_text(match[2])
        except ValueError as wrong:
            raise ValueError(f"line {number}: {wrong}") from None
    return users


class PlainExchange:
    """The server's side of PLAIN."""

    def __init__(self, users: PlainUsers) -> None:
        self._users = users

    def is_slow(self, token: bytes) -> bool:
        return True

    def step(self, token: bytes, now_ms: int) -> Step:
        """Take the only message. Raises Refused."""
        parts = token.split(b"\0")
        if len(parts) != 3 or not parts[1] or not parts[2] or len(parts[2]) > PASSWORD_BYTES_MAX:
            raise Refused("a message that is none of PLAIN's")
        try:
            authzid, user, password = (part.decode() for part in parts)
        except UnicodeDecodeError:
            raise Refused("a message that is no UTF-8") from None
        if authzid and authzid != user:
            raise Refused("it asks to be another than it proves", user)
        if not self._users.check(user, password):
            raise Refused("an unknown user or a wrong password", user)
        return Done(b"", user)


def _told(wrong: Exception) -> str:
    if isinstance(wrong, UnicodeDecodeError):  # its own words quote the file
        return "it is not UTF-8 text"
    return wrong.strerror or str(wrong) if isinstance(wrong, OSError) else str(wrong)
