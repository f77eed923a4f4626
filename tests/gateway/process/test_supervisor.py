"""Workers are started together, restarted one by one, and never outlive their supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.exits import ExitCode
from gateway.process import supervisor as supervisors
from gateway.process.supervisor import Supervisor, Worker

pytestmark = pytest.mark.slow

DEADLINE_S = 60

WORKER = """
import json, os, signal, socket, sys
number, line, mode, directory = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), sys.argv[3], sys.argv[4]
open(f"{directory}/{number}.lives", "a").write(f"{os.getpid()}\\n")
lives = len(open(f"{directory}/{number}.lives").readlines())
if mode == "refuses" and number == 1:
    sys.exit(4)
if mode == "tells why" or (mode == "tells why at the second start" and lives == 2):
    line.sendall(json.dumps({"kind": "refused", "why": ["no key", "no disk"]}).encode() + b"\\n")
    sys.exit(2 if mode == "tells why" else 5)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode != "never serves":
    line.sendall(json.dumps({"kind": "serving", "state": {"pid": os.getpid()}}).encode() + b"\\n")
while heard := line.recv(4096):
    open(f"{directory}/{number}.heard", "ab").write(heard)
    if mode == "is taken over":
        sys.exit(3)
"""
"""A worker that tells that it serves, notes what it hears, and ends with its line."""


class Gateway:
    """A supervisor under test, with `count` workers of one mode."""

    def __init__(self, directory: Path, count: int, mode: str) -> None:
        self.directory = directory
        self.supervisor = Supervisor([Worker(number, ()) for number in range(count)], self._command)
        self.stopping: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        self._mode = mode

    def _command(self, worker: int, line: int) -> Sequence[str]:
        return [sys.executable, "-c", WORKER, str(worker), str(line), self._mode, str(self.directory)]

    def lives(self, worker: int) -> list[int]:
        """The processes that were this worker, by pid."""
        path = self.directory / f"{worker}.lives"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def heard(self, worker: int) -> str:
        path = self.directory / f"{worker}.heard"
        return path.read_text() if path.exists() else ""


@asynccontextmanager
async def running(
    directory: Path, count: int = 2, mode: str = "serves"
) -> AsyncIterator[tuple[Gateway, asyncio.Task[ExitCode]]]:
    """A gateway whose workers serve."""
    gateway = Gateway(directory, count, mode)
    run = asyncio.create_task(gateway.supervisor.run(gateway.stopping))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await gateway.supervisor.serving()
        yield gateway, run
    finally:
        if not gateway.stopping.done():
            gateway.stopping.set_result(signal.SIGTERM)
        await asyncio.wait_for(run, DEADLINE_S)


async def until(condition: Callable[[], object]) -> None:
    """Poll, with a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  a file or a process is looked at
            await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def test_a_killed_worker_is_back(tmp_path: Path) -> None:
    """kill -9 of one worker: it is started again at once, and the other notices nothing."""

    async def test() -> None:
        async with running(tmp_path) as (gateway, _):
            (first,), (other,) = gateway.lives(0), gateway.lives(1)
            os.kill(first, signal.SIGKILL)
            await until(lambda: len(gateway.lives(0)) == 2)
            await until(lambda: gateway.supervisor.workers[0].state)
            assert gateway.lives(1) == [other]
            assert gateway.supervisor.workers[0].restarts.count == 1

    in_a_loop(test)


def test_all_end_together(tmp_path: Path) -> None:
    """A stop ends every worker, and `run` returns when the last has gone."""

    async def test() -> None:
        async with running(tmp_path, 4) as (gateway, run):
            gateway.stopping.set_result(signal.SIGTERM)
            assert await asyncio.wait_for(run, DEADLINE_S) is ExitCode.CLEAN
            assert not any(is_alive(pid) for worker in range(4) for pid in gateway.lives(worker))

    in_a_loop(test)


def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that ignores SIGTERM and its line is killed after STOP_S_MAX."""
    monkeypatch.setattr(supervisors, "STOP_S_MAX", 0.2)

    async def test() -> None:
        async with running(tmp_path, mode="deaf") as (gateway, run):
            gateway.stopping.set_result(signal.SIGTERM)
            await asyncio.wait_for(run, DEADLINE_S)
            assert not any(is_alive(pid) for worker in range(2) for pid in gateway.lives(worker))

    in_a_loop(test)


def test_a_start_that_fails_is_the_gateways_end(tmp_path: Path) -> None:
    """A worker that cannot serve at the first start ends all, with its exit code, and is not tried again."""

    async def test() -> None:
        gateway = Gateway(tmp_path, 2, "refuses")
        assert await asyncio.wait_for(gateway.supervisor.run(gateway.stopping), DEADLINE_S) is ExitCode.CORRUPT
        assert len(gateway.lives(1)) == 1
        assert not any(is_alive(pid) for worker in range(2) for pid in gateway.lives(worker))
        words = "worker 1 ended while it started, with exit code 4: its own lines above say more"
        assert gateway.supervisor.last_words == (words,)

    in_a_loop(test)


def test_a_refusal_is_told_once(tmp_path: Path) -> None:
    """What all workers refuse is said in the words of one of them."""

    async def test() -> None:
        gateway = Gateway(tmp_path, 3, "tells why")
        code = await asyncio.wait_for(gateway.supervisor.run(gateway.stopping), DEADLINE_S)
        assert code is ExitCode.CONFIGURATION
        assert gateway.supervisor.last_words == ("no key", "no disk")

    in_a_loop(test)


def test_a_refusal_of_a_later_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that is back in the end has told why it was not at once, and the gateway goes on."""

    async def test() -> None:
        async with running(tmp_path, 2, "tells why at the second start") as (gateway, _):
            os.kill(gateway.lives(0)[0], signal.SIGKILL)
            await until(lambda: len(gateway.lives(0)) == 3)
            await until(lambda: gateway.supervisor.workers[0].state)
            assert gateway.supervisor.last_words == ()
        told = [getattr(line, "why", None) for line in caplog.records if line.getMessage().startswith("a worker ended")]
        assert told[:2] == [None, "no key no disk"]

    in_a_loop(test)


def test_an_end_that_no_start_can_mend(tmp_path: Path) -> None:
    """Another gateway has taken over: the worker's code is the gateway's, and says who ended."""

    async def test() -> None:
        async with running(tmp_path, 2, "is taken over") as (gateway, run):
            gateway.supervisor.tell_changed(but=gateway.supervisor.workers[1])
            assert await asyncio.wait_for(asyncio.shield(run), DEADLINE_S) is ExitCode.TAKEN
            words = "worker 0 ended, with exit code 3: its own lines above say more"
            assert gateway.supervisor.last_words == (words,)

    in_a_loop(test)


def test_a_stop_during_the_start(tmp_path: Path) -> None:
    """A stop that comes while workers are being started leaves none behind."""

    async def test() -> None:
        gateway = Gateway(tmp_path, 4, "never serves")
        run = asyncio.create_task(gateway.supervisor.run(gateway.stopping))
        await until(lambda: any(gateway.lives(worker) for worker in range(4)))
        gateway.stopping.set_result(signal.SIGINT)
        assert await asyncio.wait_for(run, DEADLINE_S) is ExitCode.CLEAN
        assert not any(is_alive(pid) for worker in range(4) for pid in gateway.lives(worker))

    in_a_loop(test)


def test_a_change_is_told_to_the_others(tmp_path: Path) -> None:
    """What one worker tells of the registry reaches the others, and not itself."""

    async def test() -> None:
        async with running(tmp_path, 3) as (gateway, _):
            gateway.supervisor._heard(gateway.supervisor.workers[0], {"kind": "changed"})
            await until(lambda: "changed" in gateway.heard(1) and "changed" in gateway.heard(2))
            assert gateway.heard(0) == ""

    in_a_loop(test)


def test_an_end_is_told_to_the_others(tmp_path: Path) -> None:
    """The others hear at once who has ended."""

    async def test() -> None:
        async with running(tmp_path, 3) as (gateway, _):
            os.kill(gateway.lives(1)[-1], signal.SIGKILL)
            told = '{"kind": "away", "worker": 1}'
            await until(lambda: told in gateway.heard(0) and told in gateway.heard(2))

    in_a_loop(test)


def test_workers_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    """kill -9 of the supervisor: each worker sees the end of its line, and ends."""
    program = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.gateway.process.test_supervisor import running
async def main():
    async with running(Path({str(tmp_path)!r})):
        print("serving", flush=True)
        await asyncio.sleep({DEADLINE_S})
asyncio.run(main())
"""

    async def test() -> None:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"serving\n"
        process.kill()
        await process.wait()
        pids = Gateway(tmp_path, 0, "").lives(0) + Gateway(tmp_path, 0, "").lives(1)
        assert len(pids) == 2
        await until(lambda: not any(is_alive(pid) for pid in pids))

    in_a_loop(test)


def test_a_worker_that_fails_again_and_again(tmp_path: Path) -> None:
    """Restarts get rarer: three kills in a row take the pauses 0 and 0.5 s, and the worker still comes back."""

    async def test() -> None:
        async with running(tmp_path) as (gateway, _):
            began = time.monotonic()
            for life in range(1, 4):
                await until(lambda life=life: len(gateway.lives(0)) == life)  # type: ignore[misc]
                os.kill(gateway.lives(0)[-1], signal.SIGKILL)
            await until(lambda: len(gateway.lives(0)) == 4)
            assert time.monotonic() - began >= 1.5  # 0 + 0.5 + 1

    in_a_loop(test)
