"""`penstock serve --workers N`: the supervisor's process, and the process of each worker.

The supervisor owns the data directory, binds all ports, and owns long-term storage. Each worker inherits its sockets
and the lock, so a worker that is restarted has the same ports, and no other gateway gets the directory while one runs.

Keeps: a gateway of several workers begins to serve when all of them do, and ends when all have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from core.cluster.sqlite_registry import SqliteRegistry
from gateway import __version__, logs
from gateway.broker import Broker, Part
from gateway.config.layers import ConfigError
from gateway.config.loading import Config
from gateway.data_directory import SERVING_FILE, DataDirectory, is_drill, keep_to_ourselves
from gateway.disks import Layout, processors, wanted_of
from gateway.durable_files import write_atomically
from gateway.exits import ExitCode
from gateway.http.entrance import Entrance, certified_by
from gateway.http.exchange import Dial, at_socket_file
from gateway.http.front import front
from gateway.http.guard import Guard
from gateway.http.server import HttpServer
from gateway.long_term import opening as long_term
from gateway.long_term.identity import Admission
from gateway.long_term.ownership import BEAT_S
from gateway.network.binding import BACKLOG, Binding, bind_all, bind_inner, check_apart
from gateway.process import banner
from gateway.process.adoption import adopt
from gateway.process.assignment import Assignment
from gateway.process.control import LINE_BYTES_MAX, Control
from gateway.process.endings import end_of
from gateway.process.outcome import outcome, say
from gateway.process.serving import (
    SWITCH_INTERVAL_S,
    Place,
    forget,
    serve_place,
    stop_signal,
    warn_about_secrets,
    warn_about_strangers,
)
from gateway.process.supervisor import Supervisor, Worker
from gateway.security.listeners import http_security
from gateway.security.tls import ListenerTls
from tier2.memory import keep_freed
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

NODES_APART: Final = 100
"""The node ids of workers are counted from this many times `node.id`."""
RELEASE_S: Final = 2.0
REFUSAL_LINES_MAX: Final = 5
REFUSAL_CHARS_MAX: Final = 1_000
"""Of one line."""
assert 12 * REFUSAL_LINES_MAX * REFUSAL_CHARS_MAX < LINE_BYTES_MAX, "a character takes up to 12 bytes in JSON"
_HIDDEN_COMMAND: Final = "worker"


def count_of(config: Config, layout: Layout) -> int:
    """The number of workers. Raises ConfigError for more than there are containers."""
    if config.workers == 0:
        return min(processors(), layout.containers)
    if config.workers > layout.containers:
        raise ConfigError(
            [
                f"workers = {config.workers}, but {config.data_dir} has {layout.containers} containers, and each "
                f"worker needs one: allowed: 1 to {layout.containers}"
            ]
        )
    return config.workers


# --- A worker -----------------------------------------------------------------------------------


def run_worker(config: Config, text: str) -> ExitCode:
    """Serve a part until the supervisor says so, or has gone. Any end but a clean one is the process's end."""
    logs.setup(config.logging_format, config.logging_level)
    keep_to_ourselves()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed()
    assignment = Assignment.decode(text)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = outcome(lambda: runner.run(_serve_part(config, assignment)), is_last=False)
        logs.flush()
        if code is not ExitCode.CLEAN:
            os._exit(code)
    return code


async def _serve_part(config: Config, assignment: Assignment) -> ExitCode:
    stopping = stop_signal()
    brokers: list[Broker] = []  # the one, once it serves

    def heard(message: Mapping[str, Any]) -> None:
        for broker in brokers:
            match message:
                case {"kind": "changed"}:
                    broker.look_at_registry()
                case {"kind": "away", "worker": int(worker)}:
                    broker.nodes.went(assignment.node_id - assignment.worker + worker)

    control = await Control.over(socket.socket(fileno=assignment.line), heard)

    def left_alone(_: asyncio.Future[None]) -> None:
        if not stopping.done():
            stopping.set_result(signal.SIGTERM)

    control.ended.add_done_callback(left_alone)
    data = DataDirectory(
        config.data_dir.absolute(),
        assignment.cluster_id,
        assignment.fresh,
        Layout(assignment.containers, 1 + len(assignment.further)),
        assignment.directories,
        (),
    )
    http = socket.socket(fileno=assignment.http)
    http.setblocking(False)
    place = Place(
        data,
        assignment.bindings(config.listeners_of(assignment.worker)),
        Binding((http,), "localhost", 0, "localhost", 0, loopback=True),
    )
    part = Part(
        node_id=assignment.node_id,
        hosts=assignment.hosts,
        registry=data.registry,
        inner=assignment.inner_binding(),
        told=lambda: control.tell("changed"),
    )

    def announce(broker: Broker) -> None:
        brokers.append(broker)
        control.tell("serving", state={"pid": os.getpid(), "replayed_bytes": broker.store.replayed_bytes})

    try:
        return await serve_place(config, place, stopping, announce, part=part)
    except Exception as error:
        end = end_of(error)
        if brokers or end is None:
            raise
        words = [line[:REFUSAL_CHARS_MAX] for line in end.lines[:REFUSAL_LINES_MAX]]
        control.tell("refused", why=words)  # who says it, once for all workers
        await control.hang_up()
        return end.code


# --- The supervisor -----------------------------------------------------------------------------


def run(config: Config, arguments: Sequence[str], ready_file: Path | None, *, take_over: bool) -> ExitCode:
    """Serve with several workers until a signal. `arguments`: the command line behind `penstock serve`."""
    logs.setup(config.logging_format, config.logging_level)
    readable = 0o666 & ~keep_to_ourselves()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = outcome(lambda: runner.run(_supervise(config, arguments, ready_file, readable, take_over)))
        logs.flush()
    return code


@dataclass(frozen=True, slots=True)
class _Sockets:
    """What one worker inherits."""

    kafka: tuple[Binding, ...]
    inner: Binding
    http: Binding

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(bound.fileno() for binding in (*self.kafka, self.inner, self.http) for bound in binding.sockets)


async def _supervise(
    config: Config, arguments: Sequence[str], ready_file: Path | None, readable: int, take_over: bool
) -> ExitCode:
    started = time.monotonic()
    stopping = stop_signal()
    if ready_file is not None:
        forget(ready_file, config)
    long_term.check_settings(config)
    tls = http_security(config).tls
    with contextlib.ExitStack() as undo:
        data = DataDirectory.acquire(config.data_dir, __version__, wanted_of(config))
        undo.callback(data.release)
        count = count_of(config, data.layout)
        runtime = _runtime_directory()
        undo.callback(shutil.rmtree, runtime, ignore_errors=True)
        sockets = [_bound(config, number, runtime) for number in range(count)]
        for each in sockets:
            for binding in (*each.kafka, each.inner, each.http):
                undo.callback(binding.close)
        http = bind_all([config.http_listen])[0] if config.http_listen else None
        if http is not None:
            undo.callback(http.close)
        kafka = [binding for each in sockets for binding in each.kafka]
        check_apart(kafka if http is None else [*kafka, http])
        logger.info(
            "starting",
            extra={"version": __version__, "data_dir": str(data.path), "workers": count},
        )
        warn_about_strangers(config, Place(data, kafka, http))
        warn_about_secrets(config)
        admission = await _own_long_term(config, data, take_over)
        await adopt(data.store, data.store_config(config), data.registry, fresh=data.fresh)
        registry = await SqliteRegistry.open(data.registry)
        await registry.forget_nodes()
        await registry.close()

        def command(worker: int, line: int) -> Sequence[str]:
            assignment = _assignment(config, data, sockets[worker], worker, count, line)
            return [sys.executable, "-m", "gateway", _HIDDEN_COMMAND, *arguments, "--assignment", assignment.encode()]

        workers = [Worker(number, (*each.descriptors, *data.locks)) for number, each in enumerate(sockets)]
        supervisor = Supervisor(workers, command)
        running = asyncio.create_task(supervisor.run(stopping), name="workers")
        serving = asyncio.create_task(supervisor.serving(), name="serving")
        await asyncio.wait({running, serving}, return_when=asyncio.FIRST_COMPLETED)
        front = await _show(config, http, tls, sockets, supervisor)  # before anybody is told of it
        if serving.done() and not stopping.done():
            state = _told(data, kafka, http, workers)
            _announce(data, state, time.monotonic() - started)
            banner.show(config, kafka, http, data.path, len(state["workers"]))
            _write_ready_file(ready_file, state, readable)
        serving.cancel()
        watching = asyncio.create_task(_until_taken(admission), name="taken-over")
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done() and not stopping.done():
            logger.critical("taken over: another copy of this data directory owns long-term storage now")
            stopping.set_result(signal.SIGTERM)
        code = await running
        await front.stop()
        if watching.done() and not watching.cancelled():
            return ExitCode.TAKEN
        watching.cancel()
        await _release(admission)
        logger.info("stopped")
        say(supervisor.last_words)
        return code


def _runtime_directory() -> Path:
    """Make the directory of the workers' socket files, for this user alone. Raises ConfigError."""
    try:
        return Path(tempfile.mkdtemp(prefix="penstock-"))
    except OSError as error:
        why = f"workers need a directory for their socket files: {error.strerror or error}"
        raise ConfigError([f"{why}; set TMPDIR to a directory that is there, with room, and may be written"]) from error


def _bound(config: Config, number: int, runtime: Path) -> _Sockets:
    """Bind the ports of a worker, and the socket files by which others reach it. Raises CannotListen."""
    return _Sockets(
        tuple(bind_all(config.listeners_of(number))),
        bind_inner(str(runtime / f"{number}.sock")),
        bind_inner(str(runtime / f"{number}.http")),
    )


def _assignment(
    config: Config, data: DataDirectory, sockets: _Sockets, worker: int, count: int, line: int
) -> Assignment:
    return Assignment(
        worker=worker,
        node_id=config.node_id * NODES_APART + worker,
        hosts=tuple(range(worker, data.layout.containers, count)),
        line=line,
        kafka=tuple(tuple(bound.fileno() for bound in binding.sockets) for binding in sockets.kafka),
        inner=sockets.inner.sockets[0].fileno(),
        inner_path=sockets.inner.host,
        http=sockets.http.sockets[0].fileno(),
        cluster_id=data.cluster_id,
        fresh=data.fresh,
        containers=data.layout.containers,
        further=tuple(map(str, data.further)),
    )


# --- Long-term storage, which the supervisor owns for all --------------------------------------


async def _own_long_term(config: Config, data: DataDirectory, take_over: bool) -> Admission | None:
    storage = await long_term.open_storage(config, remark=lambda remark: None)  # each worker tells of remarks
    if storage is None:
        return None
    admission = Admission(
        storage,
        long_term.place_of(config),
        data.path,
        data.cluster_id,
        data.fresh,
        beat_s=BEAT_S,
        take_over=take_over,
        drill=is_drill(data.path),
        private=long_term.is_private(config),
    )
    await admission.look()
    await admission.own()
    return admission


async def _until_taken(admission: Admission | None) -> None:
    if admission is None or admission.drill:
        await asyncio.get_running_loop().create_future()
    else:
        await admission.until_replaced()


async def _release(admission: Admission | None) -> None:
    if admission is not None:
        with contextlib.suppress(TimeoutError, StorageError):
            async with asyncio.timeout(RELEASE_S):
                await admission.release()
        await admission.storage.close()


# --- What people see ----------------------------------------------------------------------------


class _Front:
    """The HTTP server over all workers'; none where HTTP is off."""

    def __init__(self, server: HttpServer | None) -> None:
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()


async def _show(
    config: Config,
    binding: Binding | None,
    tls: ListenerTls | None,
    sockets: Sequence[_Sockets],
    supervisor: Supervisor,
) -> _Front:
    if binding is None:
        return _Front(None)
    token = config.http_token
    guard = Guard(
        loopback=binding.loopback,
        hosts=frozenset(host.lower() for host in (binding.host, binding.advertised_host, *config.http_hosts)),
        token=None if token is None else token.get_secret_value(),
        has_users=bool(config.http_auth),
    )

    def serving() -> Mapping[str, Dial]:
        """The ways to those that serve, by number."""
        workers = supervisor.workers
        return {
            str(one.number): at_socket_file(sockets[one.number].http.host) for one in workers if one.state is not None
        }

    whole = front(serving, guard, lambda: supervisor.phase, lambda: len(supervisor.workers))
    application = Entrance(whole, guard, certified=certified_by(tls))  # the workers ask for users
    for bound in binding.sockets:
        bound.listen(BACKLOG)
    server = HttpServer(application, binding.sockets, tls=tls)
    await server.start()
    return _Front(server)


def _told(
    data: DataDirectory, kafka: Sequence[Binding], http: Binding | None, workers: Sequence[Worker]
) -> dict[str, Any]:
    """What the ready file says: the addresses of all workers, and the process of each."""
    states = [worker.state or {} for worker in workers]
    return {
        "pid": os.getpid(),
        "kafka": [str(binding) for binding in kafka],
        "http": str(http) if http else None,
        "data_dir": str(data.path),
        "cluster_id": data.cluster_id,
        "replayed_bytes": sum(int(state.get("replayed_bytes", 0)) for state in states),
        "workers": [worker.process.pid for worker in workers if worker.process is not None],
    }


def _write_ready_file(ready_file: Path | None, state: Mapping[str, Any], readable: int) -> None:
    """Comes last: whoever waits for the file finds all else said."""
    if ready_file is not None:
        write_atomically(ready_file.absolute(), _encoded(state), readable)


def _encoded(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state).encode() + b"\n"


def _announce(data: DataDirectory, state: Mapping[str, Any], took_s: float) -> None:
    with contextlib.suppress(OSError):  # a full disk: commands then need the address as a flag
        (data.path / SERVING_FILE).write_bytes(_encoded(state))
    logger.info("serving", extra={**state, "start_seconds": round(took_s, 3)})
