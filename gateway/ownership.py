"""Which copy of a data directory owns a prefix of long-term storage: a second copy is found out.

The identity object says which cluster a prefix belongs to; two copies of one data directory are the same cluster. So
each start leaves a token of its own in the object ``owner.json``, and the data directory remembers it in
``tier2.owner``:

    {"token": "<32 hex digits>", "since_ms": 0, "host": "…", "pid": 1}

A start finds the token that its directory has left, or else another copy has been started since: then it refuses. A
gateway that runs looks again and again, and ends when somebody else has taken over.

Keeps: a token is on this disk before it is in long-term storage, so a crash between the two locks nobody out.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.datadir import OWNER_FILE, write_atomically
from tier2.storage import Corrupt, ObjectNotFound, Storage

OWNER_KEY: Final = "owner.json"
OWNER_BYTES_MAX: Final = 4096
TOKENS_KEPT: Final = 2
"""The token that was found and the one that takes its place: either may be there after a crash."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has started on a prefix last."""

    token: str
    since_ms: int
    host: str
    pid: int

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self.since_ms / 1000))
        return f"process {self.pid} on {self.host} since {since}"

    def encode(self) -> bytes:
        fields = {"token": self.token, "since_ms": self.since_ms, "host": self.host, "pid": self.pid}
        return json.dumps(fields).encode() + b"\n"


async def read_owner(storage: Storage) -> Owner | None:
    """None when there is none, or nothing that could be one. Raises StorageError."""
    try:
        found = await storage.stat(OWNER_KEY)
        if found is None or not 0 < found.size <= OWNER_BYTES_MAX:
            return None
        fields = json.loads(await storage.get_range(OWNER_KEY, 0, found.size))
        return Owner(str(fields["token"]), int(fields["since_ms"]), str(fields["host"]), int(fields["pid"]))
    except (ObjectNotFound, Corrupt, ValueError, KeyError, TypeError):
        return None  # replaced while it was read, or written by nobody that we know


def known_tokens(data_dir: Path) -> list[str]:
    """What this data directory has left there, or was made from."""
    try:
        return (data_dir / OWNER_FILE).read_text().split()
    except FileNotFoundError:
        return []


def remember(data_dir: Path, *tokens: str) -> None:
    """Go on from these. Blocks."""
    write_atomically(data_dir / OWNER_FILE, "".join(f"{token}\n" for token in tokens[-TOKENS_KEPT:]).encode())


def is_ours(data_dir: Path, found: Owner | None) -> bool:
    """Whether nobody has started there since this data directory was used."""
    return found is None or found.token in known_tokens(data_dir)


async def take(storage: Storage, data_dir: Path, found: Owner | None) -> str:
    """Become the owner; returns the token. Raises StorageError, OSError."""
    token = secrets.token_hex(16)
    before = () if found is None else (found.token,)
    remember(data_dir, *before, token)
    owner = Owner(token, time.time_ns() // 1_000_000, socket.gethostname(), os.getpid())
    await storage.put(OWNER_KEY, owner.encode())
    return token
