"""The process in which rewrites run: Python that computes for seconds shares no interpreter with the event loop.

Both sides are here: `Worker` starts and ends the process and sends it requests; `main` runs in the process. They talk
over the process's stdin and stdout: u32 length, then a pickle; one request at a time, one answer each.

**Invariants**

- The process inherits nothing but its three standard streams: no socket, no file of the store.
- It ends when its stdin does, so it never outlives its parent, however that died.
- It takes few turns from others (niceness) and has a bound on its memory. Its failure ends a rewrite, nothing more.
- The credentials of long-term storage come over the pipe, never in arguments or the environment, where others look.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import struct
import sys
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import IO, Any, Final, TypeVar

from core.tiering.filters import WorkerSetup
from core.tiering.rewriting.job import Executor
from core.tiering.rewriting.requests import Learn, Learned, Rewrite, Rewritten
from tier2.storage import Corrupt, ErrorKind, ObjectNotFound, Storage, StorageError

_T = TypeVar("_T")

_LENGTH: Final = struct.Struct("<I")

NICENESS: Final = 10
MEMORY_BYTES_MAX: Final = 1 << 30
"""The bound on the private memory of the process; the bounds of its parts add up to some 300 MB."""
REQUEST_TIMEOUT_S: Final = 1800.0
"""A rewrite that takes longer hangs: a chunk or two take seconds, and every storage call has its own time limit."""
END_TIMEOUT_S: Final = 5.0
OF_AN_OBJECT: Final = (ErrorKind.NOT_FOUND, ErrorKind.CORRUPT)
"""Errors that a later try meets again."""


class WorkerFailed(Exception):
    """The process died, hung, or answered with a reason why not. The rewrite is abandoned.

    `again`: the same request may go well soon. `key`: the object that is damaged or gone.
    """

    def __init__(self, why: str, *, again: bool, key: str = "") -> None:
        super().__init__(why)
        self.again, self.key = again, key


@dataclass(frozen=True, slots=True)
class _Refusal:
    why: str
    again: bool
    key: str


class Worker:
    """The parent's side: at most one process, started when there is something to do."""

    def __init__(self, setup: WorkerSetup, spool: str | None) -> None:
        self._setup = setup
        self._spool = spool
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<Worker {'asleep' if self._process is None else self._process.pid}>"

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    async def learn(self, request: Learn) -> Learned:
        """Raises WorkerFailed."""
        return await self._ask(request, Learned)

    async def rewrite(self, request: Rewrite) -> Rewritten:
        """Raises WorkerFailed."""
        return await self._ask(request, Rewritten)

    async def end(self) -> None:
        """End the process, and with it everything that it has learned."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _ask(self, request: object, kind: type[_T]) -> _T:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await self._exchange(request)
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError, pickle.PickleError) as error:
            await self.end()
            raise WorkerFailed(f"the process that rewrites chunks has failed: {error!r}", again=True) from error
        except BaseException:
            await self.end()  # it works on a request that nobody waits for
            raise
        if isinstance(answer, kind):
            return answer
        assert isinstance(answer, _Refusal), "there are three kinds of answers"
        raise WorkerFailed(answer.why, again=answer.again, key=answer.key)

    async def _exchange(self, request: object) -> object:
        if self._process is None:
            self._process = await _start()
            await _send(self._process, (self._setup, self._spool))
        await _send(self._process, request)
        assert self._process.stdout is not None, "made with a pipe"
        (length,) = _LENGTH.unpack(await self._process.stdout.readexactly(_LENGTH.size))
        return pickle.loads(await self._process.stdout.readexactly(length))


async def _start() -> asyncio.subprocess.Process:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MALLOC_ARENA_MAX": "2",  # an arena for each thread would count against the bound
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from {__name__} import main; main()",  # under its own name, so that what it pickles has the parent's types
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,  # a terminal's signals are for the parent
    )


async def _send(process: asyncio.subprocess.Process, message: object) -> None:
    assert process.stdin is not None, "made with a pipe"
    data = pickle.dumps(message)
    process.stdin.write(_LENGTH.pack(len(data)) + data)
    await process.stdin.drain()


# In the process


def main() -> None:
    """Serve requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a print does not spoil an answer
    setup, spool = _receive(sys.stdin.buffer)
    asyncio.run(_serve(setup, spool, answers))


async def _serve(setup: WorkerSetup, spool: str | None, answers: IO[bytes]) -> None:
    loop = asyncio.get_running_loop()
    requests: asyncio.Queue[object] = asyncio.Queue()
    threading.Thread(target=_listen, args=(loop, requests), daemon=True, name="requests").start()

    def call(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    executor: Executor | None = None
    while True:
        request = await requests.get()
        answer: object
        try:
            if executor is None:
                executor = Executor(await _opened(setup), call, setup.head_of, setup.filter_for, spool)
            answer = await asyncio.to_thread(_carry_out, executor, request)
        except Exception as error:  # the parent decides what becomes of it
            answer = _refusal(error)
        data = pickle.dumps(answer)
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()


async def _opened(setup: WorkerSetup) -> Storage:
    try:
        return await setup.open_storage(*setup.arguments)
    except Exception as error:
        raise OSError(f"long-term storage cannot be opened: {error}") from error


def _refusal(error: Exception) -> _Refusal:
    # An error of a storage that is away, full or refuses says nothing about the chunks themselves.
    again = isinstance(error, OSError) or (isinstance(error, StorageError) and error.kind not in OF_AN_OBJECT)
    key = error.key if isinstance(error, Corrupt | ObjectNotFound) else ""
    return _Refusal(f"{type(error).__name__}: {error}", again, key)


def _carry_out(executor: Executor, request: object) -> object:
    if isinstance(request, Learn):
        return executor.learn(request)
    assert isinstance(request, Rewrite), "there are two kinds"
    return executor.rewrite(request)


def _listen(loop: asyncio.AbstractEventLoop, requests: asyncio.Queue[object]) -> None:
    """Read requests in a thread of its own, so that the end of the parent ends this process whatever it is doing."""
    try:
        while True:
            request = _receive(sys.stdin.buffer)
            loop.call_soon_threadsafe(requests.put_nowait, request)
    finally:
        os._exit(0)


def _receive(stream: IO[bytes]) -> Any:
    (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
    return pickle.loads(stream.read(length))
