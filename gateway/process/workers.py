"""`penstock serve --workers N`: the supervisor's process, and what a worker does differently from a gateway of one process.

The supervisor owns the data directory, binds all ports, and owns long-term storage. Each worker inherits its sockets and
the lock, so a worker that is restarted has the same ports, and no other gateway gets the directory while one still runs.

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
from gateway.cluster.part import Part
from gateway.config.layers import ConfigError
from gateway.config.loading import Config
from gateway.data_directory import SERVING_FILE, DataDirectory, is_drill, keep_to_ourselves
from gateway.disks import Layout, processors, wanted_of
from gateway.durable_files import write_atomically
from gateway.exits import ExitCode
from gateway.long_term import opening as long_term
from gateway.long_term.identity import Admission
from gateway.long_term.ownership import BEAT_S
from gateway.network.binding import Binding, bind_all, bind_inner
from gateway.process.adoption import adopt
from gateway.process.assignment import Assignment, shifted
from gateway.process.control import Control
from gateway.process.outcome import outcome
from gateway.process.serving import Place, forget, serve_place, stop_signal, warn_about_strangers
from gateway.process.supervisor import Supervisor, Worker
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

NODES_APART: Final = 100
"""The node ids of workers are counted from this many times `node.id`."""
RELEASE_S: Final = 2.0
_HIDDEN_COMMAND: Final = "worker"


def count_of(config: Config, layout: Layout) -> int:
    """The number of workers. Raises ConfigError for more than there are containers."""
    if config.workers == 0:
        return min(processors(), layout.containers)
    if config.workers > layout.containers:
        raise ConfigError(
            [
                f"workers = {config.workers}, but {config.data_dir} has {layout.containers} containers, and each worker "
                f"needs one: allowed: 1 to {layout.containers}"
            ]
        )
    return config.workers


# --- A worker -----------------------------------------------------------------------------------


def run_worker(config: Config, text: str) -> ExitCode:
    """Serve a part until the supervisor says so, or has gone. Any end but a clean one is the process's end."""
    logs.setup(config.logging_format, config.logging_level)
    readable = 0o666 & ~keep_to_ourselves()
    assignment = Assignment.decode(text)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = outcome(lambda: runner.run(_serve_part(config, assignment, readable)))
        logs.flush()
        if code is not ExitCode.CLEAN:
            os._exit(code)
    return code


async def _serve_part(config: Config, assignment: Assignment, readable: int) -> ExitCode:
    stopping = stop_signal()
    control = await Control.over(socket.socket(fileno=assignment.line), lambda message: None)
    control.ended.add_done_callback(lambda _: stopping.done() or stopping.set_result(signal.SIGTERM))
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
        assignment.bindings(config.kafka_listeners),
        Binding((http,), "localhost", 0, "localhost", 0, loopback=True),
    )
    part = Part(
        node_id=assignment.node_id,
        hosts=assignment.hosts,
        registry=data.registry,
        inner=assignment.inner_binding(),
        told=lambda: control.tell("changed"),
    )
    return await serve_place(
        config, place, stopping, part=part, announce=lambda state: control.tell("serving", state=dict(state))
    )


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
        return tuple(
            bound.fileno() for binding in (*self.kafka, self.inner, self.http) for bound in binding.sockets
        )


async def _supervise(
    config: Config, arguments: Sequence[str], ready_file: Path | None, readable: int, take_over: bool
) -> ExitCode:
    started = time.monotonic()
    stopping = stop_signal()
    if ready_file is not None:
        forget(ready_file, config)
    long_term.check_settings(config)
    with contextlib.ExitStack() as undo:
        data = DataDirectory.acquire(config.data_dir, __version__, wanted_of(config))
        undo.callback(data.release)
        count = count_of(config, data.layout)
        runtime = Path(tempfile.mkdtemp(prefix="penstock-"))
        undo.callback(shutil.rmtree, runtime, ignore_errors=True)
        sockets = [_bound(config, number, runtime) for number in range(count)]
        for each in sockets:
            for binding in (*each.kafka, each.inner, each.http):
                undo.callback(binding.close)
        http = bind_all([config.http_listen])[0] if config.http_listen else None
        if http is not None:
            undo.callback(http.close)
        kafka = [binding for each in sockets for binding in each.kafka]
        logger.info(
            "starting",
            extra={"version": __version__, "data_dir": str(data.path), "workers": count},
        )
        warn_about_strangers(config, Place(data, kafka, http))
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
        if serving.done() and not stopping.done():
            state = _told(data, kafka, http, workers)
            _announce(config, data, state, ready_file, readable, time.monotonic() - started)
        serving.cancel()
        watching = asyncio.create_task(_until_taken(admission), name="taken-over")
        front = await _show(config, http, sockets, supervisor)
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
        return code
