"""One gateway process: owns its directory and ports, runs the broker, ends with a meaningful code.

Keeps: the ready file exists only while clients are served or were; a first SIGINT or SIGTERM stops
cleanly, a second has the operating system's default effect and ends the process at once; a storage
failure ends the process with its code even if threads hang in the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from gateway import __version__, logs
from gateway.broker import Broker, Part
from gateway.config.layers import ConfigError
from gateway.config.loading import Config, files_of, secret_files_of
from gateway.config.providers import readable_by_others
from gateway.config.secrets import on_command_line
from gateway.config.security import SecurityProtocol
from gateway.data_directory import OWN_NAMES, SERVING_FILE, DataDirectory, keep_to_ourselves
from gateway.disks import wanted_of
from gateway.durable_files import write_atomically
from gateway.exits import ExitCode
from gateway.long_term import opening as long_term
from gateway.long_term.ownership import Owner
from gateway.network.binding import Binding, bind_all, check_apart
from gateway.process import banner
from gateway.process.gc_passes import ShortPasses
from gateway.process.outcome import outcome
from gateway.records.walking import IS_NATIVE, validates_fully
from tier2.memory import keep_freed

logger = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""Longest wait of the event loop for the interpreter while a thread is busy; Python's own 5 ms took an
echo's median from 0.03 ms to 15 ms."""
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
SAME_SIGNAL_S: Final = 0.1
"""A second signal within this time is the first one: `make` passes on what its process group got already."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory and ports that a process owns before it serves clients."""

    data: DataDirectory
    kafka: list[Binding]
    http: Binding | None

    @classmethod
    def take(cls, config: Config) -> Place:
        """Own the directory, bind the ports: all or nothing."""
        with contextlib.ExitStack() as undo:
            data = DataDirectory.acquire(config.data_dir, __version__, wanted_of(config))
            undo.callback(data.release)
            kafka = bind_all(config.kafka_listeners)
            for binding in kafka:
                undo.callback(binding.close)
            http = bind_all([config.http_listen])[0] if config.http_listen else None
            check_apart([*kafka, *([http] if http else [])])
            undo.pop_all()
            return cls(data, kafka, http)


def run(config: Config, ready_file: Path | None, *, take_over: bool = False) -> ExitCode:
    """Serve until a signal. Returns after a clean stop; any other end is the process's end."""
    logs.setup(config.logging_format, config.logging_level)
    readable = 0o666 & ~keep_to_ourselves()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_freed()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = outcome(lambda: runner.run(_serve(config, ready_file, readable, take_over=take_over)))
        logs.flush()
        if code is not ExitCode.CLEAN:
            # Threads may hang in a failing disk: an orderly end would wait for them.
            os._exit(code)
    return code


async def _serve(config: Config, ready_file: Path | None, readable: int, *, take_over: bool) -> ExitCode:
    started = time.monotonic()
    stopping = stop_signal()
    if ready_file is not None:
        forget(ready_file, config)
    long_term.check_settings(config)
    place = Place.take(config)
    logger.info("starting", extra={"version": __version__, "data_dir": str(place.data.path)} | _validation(config))
    warn_about_strangers(config, place)
    warn_about_secrets(config)
    part = None
    if place.data.registry.exists():  # several workers have served this directory, and may again
        hosts = tuple(range(place.data.layout.containers))
        part = Part(node_id=config.node_id, hosts=hosts, registry=place.data.registry, inner=None, told=lambda: None)

    def announce(broker: Broker) -> None:
        _announce(config, broker, place, ready_file, readable, time.monotonic() - started)

    return await serve_place(config, place, stopping, announce, part=part, take_over=take_over)


def warn_about_secrets(config: Config) -> None:
    """Tell which secrets others on this machine can read."""
    for key in on_command_line(config):
        logger.warning(
            "a secret stands on the command line, where every user of this machine reads it: put it into a file",
            extra={"key": key, "use": f"{key}.file"},
        )
    for path in readable_by_others(secret_files_of(config)):
        logger.warning(
            "a file of secrets can be read by every user of this machine: take that right away",
            extra={"file": str(path)[:300], "do": f"chmod o-r {path}"[:310]},
        )


async def serve_place(
    config: Config,
    place: Place,
    stopping: asyncio.Future[signal.Signals],
    announce: Callable[[Broker], None],
    *,
    part: Part | None = None,
    take_over: bool = False,
) -> ExitCode:
    """Serve what this process owns until the future completes. `announce` tells that clients are served."""
    broker = Broker(config, place.data, place.kafka, place.http, take_over=take_over, part=part)
    opening = asyncio.create_task(broker.open_long_term(), name="long-term-storage")
    ends: list[asyncio.Future[Any]] = [opening, stopping]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not opening.done():  # long-term storage does not answer, and a start must not wait for it
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        return ExitCode.CLEAN
    opening.result()
    await broker.start()
    ShortPasses(
        asyncio.get_running_loop().call_soon_threadsafe
    ).begin()  # the collector was off since the command began
    if not stopping.done():
        announce(broker)
    failed = broker.store.failed
    taken = asyncio.create_task(broker.until_taken_over(), name="taken-over")
    ends = [stopping, failed, taken]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        logger.critical("storage failed: %s", failed.result())
        await broker.abandon()
        return ExitCode.STORAGE
    if taken.done():
        logger.critical("taken over: %s", _taken_over(config, taken.result()))
        await broker.abandon()
        return ExitCode.TAKEN
    taken.cancel()
    logger.info("stopping", extra={"signal": stopping.result().name})
    await broker.stop()
    place.data.release()
    logger.info("stopped")
    return ExitCode.CLEAN


def _taken_over(config: Config, owner: Owner) -> str:
    return (
        f"{long_term.place_of(config)} was taken by {owner}, which began with another copy of this store. This gateway "
        "ends: two must never use it. Records that it has acknowledged and not moved there yet are only in "
        f"{config.data_dir}; to go on with that instead, stop the other one and run `penstock tier2 init` with the "
        "same flags"
    )


def forget(ready_file: Path, config: Config) -> None:
    """Remove an earlier run's ready file, and find out now whether it can be written."""
    path = ready_file.resolve()
    data = config.data_dir.resolve()
    ours = {data / name for name in OWN_NAMES} | {file.resolve() for file in files_of(config)}
    if path in ours or not ours.isdisjoint(path.parents):
        raise ConfigError([f"--ready-file {ready_file}: it is a file that Penstock uses for something else"])
    if ready_file.is_dir():
        raise ConfigError([f"--ready-file {ready_file}: it is a directory: name a file in it"])
    if not os.access(ready_file.absolute().parent, os.W_OK):
        raise ConfigError([f"--ready-file {ready_file}: its directory is not there or not writable"])
    ready_file.unlink(missing_ok=True)


def stop_signal() -> asyncio.Future[signal.Signals]:
    """Completes with the first signal; soon after, signals have their default effect: the end."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[signal.Signals] = loop.create_future()

    def end_at_the_next() -> None:
        for each in STOP_SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    def stop(number: signal.Signals) -> None:
        if not received.done():
            received.set_result(number)
            loop.call_later(SAME_SIGNAL_S, end_at_the_next)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    return received


def warn_about_strangers(config: Config, place: Place) -> None:
    for binding in place.kafka:
        if binding.loopback:
            continue
        protocol, keys = config.protocol_of(binding.name), config.security_of(binding.name)
        is_open = protocol is None or not (
            protocol.has_sasl or (protocol.has_tls and keys.ssl_client_auth == "required")
        )
        if is_open:
            logger.warning(
                "a listener is open to other machines, and it asks nobody who they are",
                extra={"listener": str(binding), "protocol": str(protocol)},
            )
        elif protocol is SecurityProtocol.SASL_PLAINTEXT:
            logger.warning(
                "a listener that other machines reach is not encrypted: whoever is on the way reads all that is sent",
                extra={"listener": str(binding), "protocol": str(protocol)},
            )
    if place.http is not None and not place.http.loopback:
        logger.warning(
            "the HTTP server is open to other machines: all that it tells is, changes need http.token",
            extra={"listener": str(place.http)},
        )


def _validation(config: Config) -> dict[str, object]:
    """Whether the records of all batches are checked, and by whom."""
    chosen = "full" if validates_fully(config.record_validation) else "header"
    return {"record.validation": chosen, "records_walked_by": "native extension" if IS_NATIVE else "Python"}


def _announce(
    config: Config, broker: Broker, place: Place, ready_file: Path | None, readable: int, seconds: float
) -> None:
    """Say that clients are served: in the log, on the terminal, and last in the ready file, which others wait for."""
    state = {
        "pid": os.getpid(),
        "kafka": [str(binding) for binding in place.kafka],
        "http": str(place.http) if place.http else None,
        "data_dir": str(place.data.path),
        "cluster_id": broker.cluster_id,
        "replayed_bytes": broker.store.replayed_bytes,
    }
    told = json.dumps(state).encode() + b"\n"
    with contextlib.suppress(OSError):  # a full disk: commands then need the address as a flag
        (place.data.path / SERVING_FILE).write_bytes(told)
    logger.info("serving", extra=state | {"start_seconds": round(seconds, 3)})
    banner.show(config, place.kafka, place.http, place.data.path)
    if ready_file is not None:
        write_atomically(ready_file.absolute(), told, readable)
