"""`python -m bench.trace.serve serve ...`: the gateway, with notes of its parts' times in the file BENCH_TRACE names.

Keeps: a note is one tuple of one list, written when the gateway ends; nothing is computed while it serves. All times
are nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench import loadgen
from core.container.maintenance import Maintenance
from core.log import durable_log, files, writer
from gateway.apis.shared import producing
from gateway.cli import app
from gateway.dispatch import route
from gateway.network import connection as connections
from gateway.process import serving

SOURCE: Final = Path(__file__).with_name("timed.c")
FILE: Final = "BENCH_TRACE"
TICK_S: Final = 0.001
"""A timer of the loop is asked for so often: how late it comes says how long the loop was held up."""
TURN_NS_MIN: Final = 500_000
"""Turns from this length on are noted."""

now: Final = time.monotonic_ns
notes: Final[list[tuple[Any, ...]]] = []


class _Times(ctypes.Structure):
    _fields_ = [("began_ns", ctypes.c_int64), ("ended_ns", ctypes.c_int64), ("ready_ns", ctypes.c_int64)]


class _Part(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def build() -> Path:
    """The library of `timed.c`, compiled when it is missing or older than its source."""
    library = loadgen.BUILD / "timed.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        loadgen.BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return library


def main() -> None:
    library = build()
    _time_system_calls(library)
    _note_requests()
    _note_groups(library)
    _note_others()
    serve = serving.run

    def run(*arguments: Any, **options: Any) -> Any:
        code = serve(*arguments, **options)
        Path(os.environ[FILE]).write_text("\n".join(map(json.dumps, notes)))
        return code

    serving.run = run
    app.main()


def _time_system_calls(library: Path) -> None:
    """Note writes that sync, and syncs: while they run, the interpreter is free, as in the real ones."""
    calls = ctypes.CDLL(str(library))
    calls.timed_write.restype = calls.timed_sync.restype = ctypes.c_int64
    calls.timed_write.argtypes = [
        *(ctypes.c_int, ctypes.POINTER(_Part), ctypes.c_int, ctypes.c_int64, ctypes.c_int),
        ctypes.POINTER(_Times),
    ]
    plain = os.pwritev

    def pwritev(fd: int, parts: list[memoryview], position: int, flags: int = 0) -> int:
        if not flags & os.RWF_DSYNC:
            return plain(fd, parts, position, flags)
        if any(memoryview(part).readonly for part in parts):
            return plain(fd, parts, position, flags)
        pieces = (_Part * len(parts))(
            *(_Part(ctypes.addressof(ctypes.c_char.from_buffer(part)), len(part)) for part in parts)
        )
        times, asked = _Times(), now()
        done = calls.timed_write(fd, pieces, len(parts), position, flags, ctypes.byref(times))
        size = sum(map(len, parts))
        notes.append(("sync", asked, times.began_ns, times.ended_ns, now(), times.ready_ns, size))
        if done < 0:
            raise OSError(-done, os.strerror(-done))
        return int(done)

    def fdatasync(fd: int) -> None:
        times, asked = _Times(), now()
        done = calls.timed_sync(fd, ctypes.byref(times))
        kind = "sync" if os.readlink(f"/proc/self/fd/{fd}").endswith(".log") else "other sync"
        notes.append((kind, asked, times.began_ns, times.ended_ns, now(), times.ready_ns, 0))
        if done < 0:
            raise OSError(-done, os.strerror(-done))

    os.pwritev, os.fdatasync = pwritev, fdatasync  # type: ignore[assignment]


def _note_requests() -> None:
    """Note arrival, begin, answer and departure of each Produce."""
    arrived = [0]
    answered: list[int] = []
    update, write_due = connections.Connection.buffer_updated, connections.Connection._write_due
    begin, answer = producing.ProduceRequest.__init__, producing.ProduceRequest._answer
    went_through = producing.ProduceRequest.went_through

    def buffer_updated(self: connections.Connection, count: int) -> None:
        arrived[0] = now()
        update(self, count)

    def begun(self: Any, *arguments: Any) -> None:
        notes.append(("begin", id(self), arrived[0], now()))
        begin(self, *arguments)

    def gone_through(self: Any) -> None:
        log = next(iter(self.connection.services.store.containers.values())).container.log
        notes.append(("appended", id(self), now(), log.next_lsn - 1))
        went_through(self)

    def answering(self: Any) -> None:
        answered.append(id(self))
        answer(self)

    def written(self: connections.Connection) -> None:
        write_due(self)
        if answered:
            notes.append(("sent", now(), *answered))
            answered.clear()

    connections.Connection.buffer_updated = buffer_updated  # type: ignore[method-assign]
    connections.Connection._write_due = written  # type: ignore[method-assign]
    producing.ProduceRequest.__init__ = begun  # type: ignore[method-assign]
    producing.ProduceRequest.went_through = gone_through  # type: ignore[method-assign]
    producing.ProduceRequest._answer = answering  # type: ignore[method-assign]


def _note_groups(library: Path) -> None:
    """Note the stations of each group: queued, taken by the thread, staged, heard of on the loop."""
    here = ctypes.PyDLL(str(library))
    here.ready_ns.restype = ctypes.c_int64
    give, take, stage = writer.FileWriter.write, writer.WriterThread._take, writer.WriterThread._stage
    heard = durable_log.DurableLog.on_written_and_synced

    def queued(self: writer.FileWriter, buffers: Any, end: Any) -> None:
        notes.append(("queued", end.lsn, now()))
        give(self, buffers, end)

    def taken(self: writer.WriterThread, timeout_s: float | None) -> Any:
        writes, other = take(self, timeout_s)
        if writes:
            notes.append(("taken", now(), [write.end.lsn for write in writes]))
        return writes, other

    def staged(self: writer.WriterThread, writes: Any) -> None:
        stage(self, writes)
        notes.append(("staged", now()))

    def told(self: durable_log.DurableLog, end: Any) -> None:
        notes.append(("heard", end.lsn, now(), here.ready_ns()))
        heard(self, end)

    writer.FileWriter.write = queued  # type: ignore[method-assign]
    writer.WriterThread._take = taken  # type: ignore[method-assign]
    writer.WriterThread._stage = staged  # type: ignore[method-assign]
    durable_log.DurableLog.on_written_and_synced = told  # type: ignore[method-assign]


def _note_others() -> None:
    """Note what may be in the way: the collector, turns, files that are begun, filled and given up, checkpoints."""
    began = [0]

    def passed(phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            began[0] = now()
        else:
            notes.append(("span", f"collector, generation {info['generation']}", began[0], now()))

    gc.callbacks.append(passed)
    _replace(route.took, _noting_turns(route.took))
    _replace(files.begin, _noted("log file begun", files.begin))
    _replace(files.give_up, _noted("log file given up", files.give_up))
    _replace(files.allocate_spare, _noted("spare allocated", files.allocate_spare))
    files.SpareFile.fill = _noted("spare filled", files.SpareFile.fill)  # type: ignore[method-assign]
    for name, task in (("checkpoint", "checkpoint"), ("index_files", "files indexed")):
        setattr(Maintenance, name, _noted_task(task, getattr(Maintenance, name)))
    begin = serving.ShortPasses.begin

    def ready(self: serving.ShortPasses) -> None:
        begin(self)
        _tick(now() + int(TICK_S * 1e9))

    serving.ShortPasses.begin = ready  # type: ignore[method-assign]


def _replace(function: Callable[..., Any], by: Callable[..., Any]) -> None:
    """Put another function in the place of this one in every module of ours that has it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("core", "gateway", "tier2"):
            for attribute in [key for key, value in vars(module).items() if value is function]:
                setattr(module, attribute, by)


def _tick(due: int) -> None:
    came = now()
    if came - due > TURN_NS_MIN:
        notes.append(("span", "loop late", due, came))
    asyncio.get_running_loop().call_later(TICK_S, _tick, now() + int(TICK_S * 1e9))


def _noting_turns(took: Callable[..., None]) -> Callable[..., None]:
    def noting(connection: Any, route: Any, seconds: float, size: int) -> None:
        spent = int(seconds * 1e9)
        if spent > TURN_NS_MIN:
            ended = now()
            notes.append(("span", f"turn of {route.name}", ended - spent, ended))
        took(connection, route, seconds, size)

    return noting


def _noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def noting(*arguments: Any, **options: Any) -> Any:
        began = now()
        try:
            return call(*arguments, **options)
        finally:
            notes.append(("span", name, began, now()))

    return noting


def _noted_task(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    async def noting(*arguments: Any, **options: Any) -> Any:
        began = now()
        try:
            return await call(*arguments, **options)
        finally:
            notes.append(("span", name, began, now()))

    return noting


if __name__ == "__main__":
    sys.exit(main())
