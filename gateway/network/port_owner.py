"""Whose port it is: the process that listens on one, for a message.

Keeps: looks at Linux's /proc and changes nothing; a process that we may not look at is not named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
LISTEN: Final = "0A"
COMMAND_CHARS_MAX: Final = 80


def owner_of(port: int) -> str | None:
    """`pid 12 (redis-server)`, or None if it cannot be found out."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process / "fd", sockets):
            return f"pid {process.name} ({_command(process)})"
    return None


def is_held_by(port: int, pid: str) -> bool:
    """Whether this process has a socket that listens on a port, perhaps with others that have inherited it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    return bool(sockets) and pid.isdecimal() and _holds(Path("/proc") / pid / "fd", sockets)


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on a port."""
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _holds(descriptors: Path, sockets: set[str]) -> bool:
    try:
        return any(_target(one) in sockets for one in descriptors.iterdir())
    except OSError:
        return False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    # Only the program and what it runs: further arguments may be secrets.
    text = " ".join(word.decode(errors="replace") for word in words[:2] if word and not word.startswith(b"-"))
    return "".join(char if char.isprintable() else "?" for char in text)[:COMMAND_CHARS_MAX] or "?"
