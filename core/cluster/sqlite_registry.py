"""The registry of several processes on one machine: an SQLite file in the data directory, in write-ahead mode.

Each process keeps a mirror of it in memory, which all look-ups read. A change is decided in the file, in one
transaction that is synced, and then taken into the mirror; the other processes take it over when they hear of it
(`told`), or at their next look. Every row says in which change it was written, so a look reads only what is newer.

    ==========  =====================================================================================
    table       columns
    ==========  =====================================================================================
    meta        name TEXT PRIMARY KEY, value: ``format`` 1
    counters    name TEXT PRIMARY KEY, value INTEGER: ``change`` (the last one), ``stream``, ``writer``
                (the next ids), ``epoch`` (the last one given)
    streams     id INTEGER PRIMARY KEY, name TEXT UNIQUE, value BLOB, change INTEGER; after a deletion
                name and value are NULL
    settings    kind TEXT, key BLOB, value BLOB (NULL: deleted), change INTEGER; by kind and key
    nodes       id INTEGER PRIMARY KEY, value TEXT (JSON), change INTEGER
    ==========  =====================================================================================

A stream's value is that of table ``streams`` (`core.streams.state`).

**Invariants**: see `core.cluster.registry`. Besides:

- A stream is changed only by whoever knew its present state; anybody else gets Stale, and can look again.
- The mirror is never newer than the file, and goes through its changes in their order.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from core.cluster.changes import Changes
from core.cluster.registry import NOTHING_HELD, Decide, Held, NewStream, SettingChanges, Settings, common_form
from core.errors import CorruptState, NameCollides, Stale, StorageFailure, StorageFull, StreamExists, UnknownStream
from core.streams.state import REGISTRY_DECIDES, StreamState, decode_stream, new_stream

FORMAT: Final = 1
BUSY_S_MAX: Final = 10.0
"""Longest wait for another process's change; one takes some milliseconds, and a sync of the disk."""

TRIES_MAX: Final = 50
"""How often a change of settings is decided while other processes change the same kind. Each time one of them gets on,
and each has one at a time on its way."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS streams (id INTEGER PRIMARY KEY, name TEXT UNIQUE, value BLOB, change INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS settings (
  kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB, change INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (id INTEGER PRIMARY KEY, value TEXT NOT NULL, change INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS streams_by_change ON streams (change);
CREATE INDEX IF NOT EXISTS settings_by_change ON settings (change);
INSERT OR IGNORE INTO meta VALUES ('format', 1);
INSERT OR IGNORE INTO counters VALUES ('change', 0), ('stream', 1), ('writer', 0), ('epoch', 0);
"""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """All that a registry has decided."""

    streams: Sequence[StreamState]
    settings: Mapping[str, Mapping[bytes, bytes]]
    next_stream: int
    next_writer: int
    epoch: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A stream as the mirror has it, and the change that made it so."""

    state: StreamState
    change: int


class SqliteRegistry:
    """The registry in one file. Make it with `open`; `close` it."""

    def __init__(self, path: Path, told: Callable[[], None]) -> None:
        self.path = path
        self._told = told
        self._thread = ThreadPoolExecutor(1, f"registry-{path.name}")
        self._connection: sqlite3.Connection  # the thread's
        self._streams: dict[int, _Known] = {}
        self._settings: dict[str, dict[bytes, bytes]] = {}
        self._nodes: dict[int, Mapping[str, Any]] = {}
        self._seen = 0  # the last change in the mirror
        self._next_stream = 1
        self._looking = asyncio.Lock()
        self._deciding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by kind, which the code names
        self._unreported = Changes()
        self.changed = asyncio.Event()
        """Set while the mirror has changes that `look` has not returned yet."""

    def __repr__(self) -> str:
        return f"<SqliteRegistry {self.path} {len(self._streams)} streams, change {self._seen}>"

    @classmethod
    async def open(cls, path: Path, told: Callable[[], None] = lambda: None) -> Self:
        """Open or make the file; `told` is called after each change of ours. Raises StorageFailure, CorruptState,
        PermissionError."""
        registry = cls(path, told)
        try:
            await registry._in_thread(registry._connect)
            await registry.look()
        except BaseException:
            await registry.close()
            raise
        return registry

    async def close(self) -> None:
        """Close the file. Calls under way end first."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)

    # The mirror

    def streams(self) -> Iterable[StreamState]:
        return [known.state for known in self._streams.values()]

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of that id, as the mirror has it."""
        known = self._streams.get(stream_id)
        return None if known is None else known.state

    def was_given(self, stream_id: int) -> bool:
        return stream_id < self._next_stream

    def settings(self, kind: str) -> Settings:
        return self._settings.get(kind, {})

    def nodes(self) -> Mapping[int, Mapping[str, Any]]:
        """What each node told of itself, by its id."""
        return self._nodes

    async def look(self) -> Changes:
        """Take over what others have changed; returns all changes since the last look. Raises StorageFailure."""
        async with self._looking:
            self.changed.clear()  # before the look: a word that comes during it asks for another look
            await self._take_over()
            changes, self._unreported = self._unreported, Changes()
            return changes

    async def _take_over(self) -> None:
        found = await self._in_thread(lambda: self._newer(self._seen))
        changes = Changes(nodes=bool(found.nodes))
        for stream_id, value, change in found.streams:
            known = self._streams.get(stream_id)
            if value is not None:
                self._streams[stream_id] = _Known(decode_stream(value), change)
                changes.streams.append(self._streams[stream_id].state)
            elif known is not None:
                changes.deleted.append(self._streams.pop(stream_id).state)
        for kind, key, value in found.settings:
            changes.kinds.add(kind)
            of_kind = self._settings.setdefault(kind, {})
            if value is None:
                of_kind.pop(key, None)
            else:
                of_kind[key] = value
        self._nodes |= {node_id: json.loads(value) for node_id, value in found.nodes}
        self._seen, self._next_stream = found.change, found.next_stream
        self._unreported.extend(changes)

    # Changes

    async def create(self, wanted: NewStream) -> StreamState:
        def created(change: int) -> bytes:
            stream_id = self._count("stream", 1)
            state = new_stream(
                stream_id=stream_id,
                name=wanted.name,
                uuid=wanted.uuid,
                slots=wanted.slots,
                created_ms=wanted.created_ms,
                container=REGISTRY_DECIDES,
                config=wanted.config,
                segments=wanted.segments,
                placement=wanted.placement,
            )
            value = state.encode()
            found = self._connection.execute(
                "SELECT name FROM streams WHERE replace(name, '.', '_') = ? AND name <> ? LIMIT 1",
                (common_form(wanted.name), wanted.name),
            ).fetchone()
            if found is not None:
                raise NameCollides(wanted.name, found[0])
            try:
                self._connection.execute(
                    "INSERT INTO streams VALUES (?, ?, ?, ?)", (stream_id, wanted.name, value, change)
                )
            except sqlite3.IntegrityError:
                raise StreamExists(wanted.name) from None
            return value

        return decode_stream(await self._changed(created))

    async def change(self, state: StreamState, held: Held = NOTHING_HELD) -> None:
        known = self._streams.get(state.id)
        if known is None:
            raise UnknownStream(state.name)
        if state.revision != known.state.revision + 1:  # made from a state that the mirror has left behind since
            raise Stale(state.name)

        def changed(change: int) -> None:
            done = self._connection.execute(
                "UPDATE streams SET value = ?, change = ? WHERE id = ? AND change = ?",
                (state.encode(), change, state.id, known.change),
            )
            if not done.rowcount:
                raise Stale(state.name)

        await self._changed(changed)

    async def delete(self, state: StreamState) -> None:
        def deleted(change: int) -> None:
            done = self._connection.execute(
                "UPDATE streams SET name = NULL, value = NULL, change = ? WHERE id = ? AND value IS NOT NULL",
                (change, state.id),
            )
            if not done.rowcount:
                raise UnknownStream(state.name)

        await self._changed(deleted)

    async def change_settings(self, kind: str, decide: Decide) -> SettingChanges:
        async with self._deciding[kind]:  # so only other processes come between
            for _ in range(TRIES_MAX):
                async with self._looking:
                    await self._take_over()
                    if self._unreported:
                        self.changed.set()
                    seen, changes = self._seen, decide(self.settings(kind))
                if not changes:
                    return changes
                with suppress(Stale):
                    await self._changed(partial(self._change_settings, kind, changes, seen))
                    return changes
        raise Stale(kind)

    def _change_settings(self, kind: str, changes: SettingChanges, seen: int, change: int) -> None:
        """Raises Stale if what the change was decided from is not the newest any more; that can be a deletion, too."""
        newer = self._connection.execute("SELECT 1 FROM settings WHERE kind = ? AND change > ? LIMIT 1", (kind, seen))
        if newer.fetchone() is not None:
            raise Stale(kind)
        self._connection.executemany(
            "INSERT INTO settings VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET value = excluded.value, change = excluded.change",
            [(kind, key, value, change) for key, value in changes.items()],
        )

    async def tell_node(self, node_id: int, value: Mapping[str, Any]) -> None:
        """Tell all of a node; it replaces what was told before."""

        def told(change: int) -> None:
            row = (node_id, json.dumps(value), change)
            self._connection.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", row)

        await self._changed(told)

    async def forget_nodes(self) -> None:
        """Begin without nodes: each tells of itself when it serves."""

        def forgotten(_: int) -> None:
            self._connection.execute("DELETE FROM nodes")

        await self._changed(forgotten)
        self._nodes = {}

    async def adopt(self, found: Adopted) -> None:
        """Begin with what a registry of another kind has decided. Only in a file that has nothing yet."""

        def adopted(change: int) -> None:
            rows = [(state.id, state.name, state.encode(), change) for state in found.streams]
            self._connection.executemany("INSERT INTO streams VALUES (?, ?, ?, ?)", rows)
            settings = [
                (kind, key, value, change) for kind, some in found.settings.items() for key, value in some.items()
            ]
            self._connection.executemany("INSERT INTO settings VALUES (?, ?, ?, ?)", settings)
            for name, value in (("stream", found.next_stream), ("writer", found.next_writer), ("epoch", found.epoch)):
                self._connection.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))

        await self._changed(adopted)

    async def take_writer_ids(self, count: int) -> range:
        first = await self._in_thread(lambda: self._counted("writer", count))
        return range(first, first + count)

    async def next_epoch(self) -> int:
        return await self._in_thread(lambda: self._counted("epoch", 1)) + 1

    async def _changed(self, change: Callable[[int], _T]) -> _T:
        """Make one change in the file, then in the mirror, and tell of it."""

        def decide() -> _T:
            with self._transaction():
                return change(self._count("change", 1) + 1)

        async with self._looking:
            try:
                return await self._in_thread(decide)
            finally:  # also when somebody else's change was in the way
                await self._take_over()
                if self._unreported:
                    self.changed.set()
                self._told()

    # In the thread

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, call)

    def _translated(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise StorageFull(f"no room in {self.path}: free some disk space") from error
            raise StorageFailure(f"{self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CorruptState(f"{self.path}: {error}. Put the file back from a backup") from error

    def _connect(self) -> None:
        if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):  # SQLite has no word for that
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.path))
        self._connection = sqlite3.connect(self.path, timeout=BUSY_S_MAX, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        with self._transaction():
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)
            (written,) = self._connection.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        if written != FORMAT:
            raise CorruptState(f"{self.path} has format {written}, this release reads {FORMAT}: use a later one")

    def _disconnect(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # else SQLite has rolled back by itself
                self._connection.execute("ROLLBACK")
            raise

    def _count(self, name: str, more: int) -> int:
        """Raise a counter within a transaction; returns what it was."""
        (before,) = self._connection.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        self._connection.execute("UPDATE counters SET value = ? WHERE name = ?", (before + more, name))
        return int(before)

    def _counted(self, name: str, more: int) -> int:
        with self._transaction():
            return self._count(name, more)

    def _newer(self, seen: int) -> _Newer:
        connection = self._connection
        connection.execute("BEGIN")  # all is read as of one moment
        try:
            counters = dict(connection.execute("SELECT name, value FROM counters").fetchall())
            if counters["change"] == seen:
                return _Newer(seen, counters["stream"], [], [], [])
            newer = (seen,)
            return _Newer(
                counters["change"],
                counters["stream"],
                connection.execute(
                    "SELECT id, value, change FROM streams WHERE change > ? ORDER BY change", newer
                ).fetchall(),
                connection.execute("SELECT kind, key, value FROM settings WHERE change > ?", newer).fetchall(),
                connection.execute("SELECT id, value FROM nodes WHERE change > ?", newer).fetchall(),
            )
        finally:
            connection.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class _Newer:
    """Rows that were written after some change."""

    change: int
    next_stream: int
    streams: list[tuple[int, bytes | None, int]]
    settings: list[tuple[str, bytes, bytes | None]]
    nodes: list[tuple[int, str]]


def exists(path: Path) -> bool:
    """Whether a data directory has this registry."""
    return os.path.lexists(path)
