"""Starts the workers, starts the clock, and adds up the reports.

Keeps: no worker outlives the run; a worker that fails ends the run, with the worker's last words.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

from gateway.bench.plan import Plan
from gateway.bench.schedule import SECOND_NS
from gateway.bench.topics import Topics
from gateway.bench.totals import Totals

READY_SECONDS_MAX: Final = 120
SILENCE_SECONDS_MAX: Final = 120
START_DELAY_NS: Final = SECOND_NS // 10


class RunFailed(Exception):
    """The run ended early."""


class Worker:
    """One worker process and the thread that reads its output."""

    def __init__(self, role: str, name: str, heard: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]]) -> None:
        self.role = role
        self.done = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gateway.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # the coordinator handles Ctrl-C
        )
        self._heard = heard
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else it ended in the middle of it
                self._heard.put((self, json.loads(line)))
        self._heard.put((self, None))

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and is heard to have ended
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-2000:]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, processes: int, topics: Topics) -> None:
        self._plan = plan
        self._topics = topics
        self._heard: queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._processes = processes
        self._workers: list[Worker] = []
        self._told = False

    def totals(self, tick: Callable[[Totals, float], None]) -> Totals:
        """Carry out the run. `tick` is called now and then with the totals so far and the measured seconds gone."""
        with self._running():
            self._await_ready()
            start_ns = time.monotonic_ns() + START_DELAY_NS
            for worker in self._workers:
                worker.tell({"start_ns": start_ns})
            measured_from_ns = start_ns + int(self._plan.warmup * SECOND_NS)
            totals = Totals(measured_from_ns, counted="read" if self._plan.readers else "write")
            for worker, report in self._reports():
                totals.add(worker.role, report)
                self._tell_ends_if_written()
                tick(totals, (time.monotonic_ns() - measured_from_ns) / SECOND_NS)
        return totals

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        offsets, ends = self._topics.offsets()
        starts = offsets if self._plan.mode == "read" else ends
        try:
            for number, share in enumerate(self._plan.writer_shares(self._processes)):
                self._start("write", number, share, {})
            for number, share in enumerate(self._plan.reader_shares(self._processes)):
                self._start("read", number, share, {"offsets": starts, "ends": ends, "readers": self._plan.readers})
            yield
        finally:
            for worker in self._workers:
                worker.end()

    def _start(self, role: str, number: int, share: Plan, more: dict[str, Any]) -> None:
        name = f"{self._plan.topic}-{role}-{number}"
        worker = Worker(role, name, self._heard)
        self._workers.append(worker)
        worker.tell({"plan": share.to_json(), "role": role, "name": name, **more})

    def _await_ready(self) -> None:
        waiting = set(self._workers)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while waiting:
            worker, message = self._next(deadline - time.monotonic(), "to connect")
            assert message.get("ready"), message
            waiting.discard(worker)

    def _reports(self) -> Iterator[tuple[Worker, dict[str, Any]]]:
        while not all(worker.done for worker in self._workers):
            worker, report = self._next(SILENCE_SECONDS_MAX, "to report")
            worker.done = bool(report.get("done"))
            yield worker, report

    def _next(self, seconds: float, what: str) -> tuple[Worker, dict[str, Any]]:
        while True:
            try:
                worker, message = self._heard.get(timeout=max(seconds, 0))
            except queue.Empty:
                raise RunFailed(f"a worker took more than {seconds:.0f} s {what}") from None
            if message is not None:
                return worker, message
            if not worker.done:
                raise RunFailed(f"a worker ended early: {worker.last_words() or 'it said nothing'}")

    def _tell_ends_if_written(self) -> None:
        """Once the last writer is done, send the readers the end offsets."""
        readers = [worker for worker in self._workers if worker.role == "read"]
        written = all(worker.done for worker in self._workers if worker.role == "write")
        if self._plan.mode != "end-to-end" or not written or self._told:
            return
        self._told = True
        _, ends = self._topics.offsets()
        for worker in readers:
            worker.tell({"ends": ends})
