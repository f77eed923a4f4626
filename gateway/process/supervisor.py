"""Several workers as one gateway: started together, restarted one by one, ended together.

A worker is a process that serves its own containers at its own port. This process serves no Kafka client.

Invariants:

- Either all workers have served once, or the start has failed and none is left.
- From then on a worker that ends is started again, unless its end says that this gateway must not go on.
- A start that fails is told once, however many workers fail: `last_words` are those of the first that ended.
- No worker outlives `run`; and none outlives this process, however that ends: each holds one end of a line to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from gateway.exits import ExitCode
from gateway.process.control import Control
from gateway.process.restarts import Restarts

logger = logging.getLogger(__name__)

STOP_S_MAX: Final = 60.0
"""Longest wait for a worker's clean end; then it is killed. Its log is replayed at the next start."""
LAST_S_MAX: Final = 2.0
"""Longest wait for what a worker that has ended told last: it is there, unless something else holds the line."""
_FINAL: Final = frozenset({ExitCode.CONFIGURATION, ExitCode.TAKEN})
"""Ends of a worker that another start cannot mend: rights that are lacking, or another gateway that took over."""


class Command(Protocol):
    """The command line of a worker."""

    def __call__(self, worker: int, line: int) -> Sequence[str]:
        """The command of worker `worker`, which finds its end of the line at descriptor `line`."""


class Worker:
    """One worker over all its lives."""

    def __init__(self, number: int, descriptors: Sequence[int]) -> None:
        self.number = number
        self.state: Mapping[str, Any] | None = None
        """What the living process told when it began to serve; None before."""
        self.refusal: tuple[str, ...] = ()
        """Why the process that lived last could not begin to serve, as it told; a line a problem."""
        self.restarts = Restarts()
        self.process: asyncio.subprocess.Process | None = None
        self.control: Control | None = None
        self.descriptors = tuple(descriptors)  # listening sockets, inherited by each life

    def __repr__(self) -> str:
        pid = self.process.pid if self.process else None
        return f"<Worker {self.number} pid={pid} {'serving' if self.state else 'not serving'}>"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the living process, if there is one."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """The workers of one gateway. `run` once."""

    def __init__(
        self, workers: Sequence[Worker], command: Command, *, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.workers = workers
        self._command = command
        self._changed = changed
        self.last_words: tuple[str, ...] = ()
        """Why `run` has ended, if a worker has ended it: a line a problem."""
        self._serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._final: asyncio.Future[ExitCode] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()

    @property
    def phase(self) -> str:
        """The phase of the whole, as the HTTP port tells it."""
        if self._stopping.is_set():
            return "stopping"
        return "serving" if self._serving.done() else "starting"

    async def serving(self) -> None:
        """Returns when every worker serves for the first time."""
        await asyncio.shield(self._serving)

    async def run(self, stopping: asyncio.Future[signal.Signals]) -> ExitCode:
        """Keep all workers running until the future completes; the exit code is of the worker that ended them all."""
        lives = [asyncio.create_task(self._keep(worker), name=f"worker-{worker.number}") for worker in self.workers]
        try:
            ends: list[asyncio.Future[Any]] = [stopping, self._final, *lives]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await asyncio.shield(self._end(lives))
        for life in lives:
            life.result()  # a defect ends the gateway, and is told
        return self._final.result() if self._final.done() else ExitCode.CLEAN

    def tell_changed(self, but: Worker | None = None) -> None:
        """Tell the workers that the registry has changed."""
        for worker in self._others(but):
            if worker.control is not None:
                worker.control.tell("changed")

    def _others(self, but: Worker | None) -> list[Worker]:
        return [worker for worker in self.workers if worker is not but]

    async def _keep(self, worker: Worker) -> None:
        """One life after another."""
        while not self._stopping.is_set():
            worker.restarts.started(time.monotonic())
            code = await self._live(worker)
            if self._stopping.is_set():
                return
            if not self._serving.done() or code in _FINAL:
                if not self._final.done():
                    self._final.set_result(_exit_code(code))
                    self.last_words = worker.refusal or (_ended(worker, code, at_start=not self._serving.done()),)
                return
            pause = worker.restarts.pause(time.monotonic())
            extra: dict[str, object] = {"worker": worker.number, "end": _told(code), "restart_in_s": pause}
            if worker.refusal:
                extra["why"] = " ".join(worker.refusal)
            logger.error("a worker ended: its partitions are away until it is back", extra=extra)
            for other in self._others(worker):
                _tell_away(other, worker)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _live(self, worker: Worker) -> int:
        """One life: the exit code, negative for a signal."""
        worker.refusal = ()
        ours, theirs = socket.socketpair()
        with theirs:
            worker.process = await asyncio.create_subprocess_exec(
                *self._command(worker.number, theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *worker.descriptors),
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which ends them in order
            )
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        worker.control = await Control.over(ours, lambda message: self._heard(worker, message))
        try:
            code = await worker.process.wait()
            await asyncio.wait({worker.control.ended}, timeout=LAST_S_MAX)
            return code
        finally:
            worker.state = None
            worker.control.close()
            worker.control = None

    def _heard(self, worker: Worker, message: Mapping[str, Any]) -> None:
        match message.get("kind"):
            case "serving":
                worker.state = message.get("state") or {}
                pid = worker.process.pid if worker.process else None
                extra = {"worker": worker.number, "pid": pid, "restarts": worker.restarts.count}
                logger.info("a worker serves", extra=extra)
                if all(each.state is not None for each in self.workers) and not self._serving.done():
                    self._serving.set_result(None)
                self._tell_who_is_away(worker)
                self._changed()
            case "refused":
                words = message.get("why")
                worker.refusal = tuple(map(str, words)) if isinstance(words, list) else ()
            case "changed":
                self.tell_changed(but=worker)
                self._changed()
            case kind:
                logger.warning(
                    "a worker's message was ignored", extra={"worker": worker.number, "kind": str(kind)[:40]}
                )

    def _tell_who_is_away(self, worker: Worker) -> None:
        """At the start all are, and none has told anything that could be stale."""
        for other in self._others(worker) if self._serving.done() else ():
            if other.state is None:
                _tell_away(worker, other)

    async def _end(self, lives: Sequence[asyncio.Task[None]]) -> None:
        self._stopping.set()  # a life that is just beginning gets its signal from itself
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        _, late = await asyncio.wait(lives, timeout=STOP_S_MAX)
        if late:
            logger.error("workers did not stop in time: killed", extra={"count": len(late), "waited_s": STOP_S_MAX})
            for worker in self.workers:
                worker.signal(signal.SIGKILL)
            await asyncio.wait(late)


def _tell_away(to: Worker, away: Worker) -> None:
    if to.control is not None:
        to.control.tell("away", worker=away.number)


def _ended(worker: Worker, code: int, *, at_start: bool) -> str:
    when = " while it started" if at_start else ""
    lacks = "; where memory is short, the kernel kills" if code == -signal.SIGKILL else ""
    return f"worker {worker.number} ended{when}, with {_told(code)}{lacks}: its own lines above say more"


def _exit_code(code: int) -> ExitCode:
    try:
        return ExitCode(code)
    except ValueError:  # a signal, or a code that is not ours
        return ExitCode.UNEXPECTED


def _told(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
