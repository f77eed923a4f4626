"""Finds out which copy of a data directory owns a prefix of long-term storage, and so detects a second copy.

The identity object says which cluster a prefix belongs to; two copies of one data directory are the same cluster. So
each start leaves a token of its own in the object ``owner.json``, and the data directory remembers it in
``tier2.owner``:

    {"token": "<32 hex digits>", "since_ms": 0, "host": "…", "pid": 1,
     "process": "<boot> <pid namespace> <start>", "directory": "<device>:<inode>", "beat_ms": 20000}

The second line is newer than the first: an older release ignores it, and an object without it does not tell whether
its owner lives. While a gateway runs it beats, in an object of its own, ``owners/<token>.json``:

    {"token": "<32 hex digits>", "beats": 0, "seen_ms": 0, "released": false}

Only the owner of the token writes that key, so an owner that was suspended and resumes changes nothing of later
owners. A clean stop releases the token.

A start expects the token that its directory has left. Another token means that another copy has been started since:
then the start is refused. A running gateway looks at every beat, and ends when another copy has taken over.

Keeps: a token is on this disk before it is in long-term storage, so a crash between the two locks no start out.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import logging
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.data_directory import OWNER_FILE
from gateway.durable_files import write_atomically
from gateway.long_term import liveness
from tier2.storage import Corrupt, NoRoom, ObjectNotFound, Storage, StorageError

logger = logging.getLogger(__name__)

OWNER_KEY: Final = "owner.json"
BEATS_PREFIX: Final = "owners/"
OWNER_BYTES_MAX: Final = 4096
TOKEN_CHARS: Final = 32
TOKENS_KEPT: Final = 2
"""The token found there and the one that replaces it: after a crash, either may be there."""
BEAT_S: Final = 20.0
"""The longest time between two signs of life: three small puts a minute."""
BEATS_WATCHED: Final = 2
"""An owner that misses this number of its beats is dead."""
POLL_S_MAX: Final = 1.0
SHOWN_CHARS_MAX: Final = 200
BEAT_MS_MAX: Final = 600_000


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that has last started on a prefix."""

    token: str
    since_ms: int
    host: str
    pid: int
    process: str = ""
    directory: str = ""
    beat_ms: int = 0
    """0: an older release, which does not beat."""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self.since_ms / 1000))
        return f"process {self.pid} on {self.host[:SHOWN_CHARS_MAX]} since {since}"

    def encode(self) -> bytes:
        fields = {
            "token": self.token,
            "since_ms": self.since_ms,
            "host": self.host,
            "pid": self.pid,
            "process": self.process,
            "directory": self.directory,
            "beat_ms": self.beat_ms,
        }
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def starting(cls, data_dir: Path, beat_s: float) -> Owner:
        """This process as the owner."""
        return cls(
            token=secrets.token_hex(TOKEN_CHARS // 2),
            since_ms=time.time_ns() // 1_000_000,
            host=socket.gethostname(),
            pid=os.getpid(),
            process=liveness.own_mark(),
            directory=liveness.directory_mark(data_dir),
            beat_ms=round(beat_s * 1000),
        )


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life."""

    token: str
    beats: int
    seen_ms: int
    released: bool

    def encode(self) -> bytes:
        fields = {"token": self.token, "beats": self.beats, "seen_ms": self.seen_ms, "released": self.released}
        return json.dumps(fields).encode() + b"\n"


async def read_owner(storage: Storage) -> Owner | None:
    """The owner of the prefix; None if the object is missing or no owner's. Raises StorageError."""
    fields = await _read(storage, OWNER_KEY)
    try:
        return Owner(
            token=str(fields["token"]),
            since_ms=int(fields["since_ms"]),
            host=str(fields["host"]),
            pid=int(fields["pid"]),
            process=str(fields.get("process", "")),
            directory=str(fields.get("directory", "")),
            beat_ms=min(BEAT_MS_MAX, int(fields.get("beat_ms", 0))),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None  # not written by any known release


async def read_beat(storage: Storage, token: str) -> Beat | None:
    """An owner's last beat; None if there is none. Raises StorageError."""
    if not _is_token(token):
        return None
    fields = await _read(storage, _beat_key(token))
    try:
        return Beat(token, int(fields["beats"]), int(fields["seen_ms"]), fields["released"] is True)
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


async def _read(storage: Storage, key: str) -> Any:
    """The content of a small object; {} if it is missing, was replaced while it was read, or is no JSON."""
    try:
        found = await storage.stat(key)
        if found is None or not 0 < found.size <= OWNER_BYTES_MAX:
            return {}
        return json.loads(await storage.get_range(key, 0, found.size))
    except (ObjectNotFound, Corrupt, ValueError, RecursionError):
        return {}


def known_tokens(data_dir: Path) -> list[str]:
    """The tokens that this data directory has put there, or was made from."""
    try:
        return (data_dir / OWNER_FILE).read_text().split()
    except FileNotFoundError:
        return []


def remember(data_dir: Path, *tokens: str) -> None:
    """Store the newest of these tokens in the data directory. Blocks."""
    write_atomically(data_dir / OWNER_FILE, "".join(f"{token}\n" for token in tokens[-TOKENS_KEPT:]).encode())


def is_ours(data_dir: Path, found: Owner | None) -> bool:
    """Was this data directory the last to start on the prefix?"""
    return found is None or found.token in known_tokens(data_dir)


class Life(enum.Enum):
    """The known state of an owner."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    SILENT = enum.auto()  # it gave no sign of life while it was watched


async def life_of(storage: Storage, owner: Owner, data_dir: Path, *, locked: bool) -> Life:
    """Does the owner of the prefix still run, in a process without this data directory? Raises StorageError.

    `locked`: this process has locked the directory, so its previous process is dead. An owner on this machine is
    looked up among the processes; another one is watched for its next beat.
    """
    if owner.beat_ms <= 0:
        return Life.DEAD  # an older release does not beat
    if locked and owner.directory == liveness.directory_mark(data_dir) and liveness.is_of_this_boot(owner.process):
        return Life.DEAD
    seen = await read_beat(storage, owner.token)
    if seen is not None and seen.released:
        return Life.DEAD
    known = liveness.runs(owner.process, owner.pid)
    if known is not None:
        return Life.ALIVE if known else Life.DEAD
    patience_ms = BEATS_WATCHED * owner.beat_ms
    if seen is not None and is_ours(data_dir, owner):
        # The directory was moved: the time since its last beat counts too, if clocks agree.
        patience_ms -= min(max(0, time.time_ns() // 1_000_000 - seen.seen_ms), patience_ms)
    logger.warning("waiting for a sign of life", extra={"owner": str(owner), "seconds_max": patience_ms / 1000})
    return await _watched(storage, owner.token, seen, patience_ms / 1000)


async def _watched(storage: Storage, token: str, seen: Beat | None, patience_s: float) -> Life:
    """Does the owner give another sign of life within that time?"""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_s
    while (left_s := end - loop.time()) > 0:
        await asyncio.sleep(min(left_s, POLL_S_MAX))
        now = await read_beat(storage, token)
        if now is not None and now != seen:
            return Life.DEAD if now.released else Life.ALIVE
    return Life.SILENT


async def take(storage: Storage, data_dir: Path, found: Owner | None, beat_s: float = BEAT_S) -> str:
    """Become the owner, which beats every `beat_s`; return the token. Raises StorageError, OSError."""
    owner = Owner.starting(data_dir, beat_s)
    gone = {token for token in known_tokens(data_dir) if _is_token(token)}
    before = () if found is None else (found.token,)
    remember(data_dir, *before, owner.token)
    await beat(storage, owner.token, 0)
    try:
        await storage.put(OWNER_KEY, owner.encode())
    except NoRoom:
        await storage.delete(_beat_key(owner.token))
        raise
    with contextlib.suppress(StorageError):  # a leftover has a few bytes
        for token in gone.union(filter(_is_token, before)):
            await storage.delete(_beat_key(token))
    return owner.token


async def beat(storage: Storage, token: str, beats: int, *, released: bool = False) -> None:
    """Give a sign of life; `released`: the last one. Raises StorageError."""
    sign = Beat(token, beats, time.time_ns() // 1_000_000, released)
    await storage.put(_beat_key(token), sign.encode())


def _beat_key(token: str) -> str:
    return f"{BEATS_PREFIX}{token}.json"


def _is_token(text: str) -> bool:
    return len(text) == TOKEN_CHARS and set(text) <= set("0123456789abcdef")
