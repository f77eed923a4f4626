"""Background work: one task that takes a step again and again, and outlives whatever goes wrong in it.

**Invariants**

- A step begins only when the last one has ended and the pause after it is over. The step, or its failure, says how long
  that pause is. Work that brings a `wait` of its own may end a pause early when something is due.
- StorageFailure ends the work of a container: its log is poisoned. The work of a whole node goes on with the others.
- Each other failure is followed by another step. `last_error` says why until a step goes well.
- However often steps fail, the log has one warning and one traceback in `TELL_EVERY_S`, and no reason is longer than
  `REASON_CHARS_MAX`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from core.errors import StorageFailure, StoreError
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

TELL_EVERY_S: Final = 10.0
"""Least time between two warnings about the same work, and between two tracebacks: some of it fails once a second
while storage is away."""
REASON_CHARS_MAX: Final = 500
"""A reason may quote what a server of long-term storage has answered."""

Step = Callable[[], Awaitable[float]]
"""One turn of the work. Returns the seconds until the next one is due."""
Wait = Callable[[float], Awaitable[object]]
"""Waits for this many seconds, or less if something is due."""


class Background:
    """Some work of one container, or, without one, of a whole node. Methods are for the event loop.

    `work` names it in the log ("retention"). The pauses: `first_s` before the first step; `retry_s` after an error of
    the store, of long-term storage or one of those `expected`; `unforeseen_s` after any other error.
    """

    def __init__(
        self,
        work: str,
        container_id: int | None,
        step: Step,
        *,
        retry_s: float,
        unforeseen_s: float | None = None,
        first_s: float = 0.0,
        wait: Wait = asyncio.sleep,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self._work = work
        self._name = work if container_id is None else f"{work} of container {container_id}"
        self._container_id = container_id
        self._step = step
        self._retry_s = retry_s
        self._unforeseen_s = retry_s if unforeseen_s is None else unforeseen_s
        self._first_s = first_s
        self._wait = wait
        self._expected: tuple[type[Exception], ...] = (StoreError, StorageError, *expected)
        self._told_s = {False: -TELL_EVERY_S, True: -TELL_EVERY_S}  # when last, by whether it was a defect
        self._task: asyncio.Task[None] | None = None
        self.last_error: str | None = None  # None when the last step went well

    def __repr__(self) -> str:
        return f"<Background {self._name}, last error {self.last_error}>"

    @property
    def is_started(self) -> bool:
        """Whether it was started and not stopped; also true of work that a StorageFailure has ended."""
        return self._task is not None

    def start(self) -> None:
        """Begin to take steps."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """Cancel the current step, if there is one, and return when it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        pause_s = self._first_s
        while True:
            await self._wait(pause_s)
            try:
                pause_s = await self._step()
                self.last_error = None
            except Exception as error:
                if isinstance(error, StorageFailure) and self._container_id is not None:
                    return
                self.last_error = (str(error) or repr(error))[:REASON_CHARS_MAX]
                is_expected = isinstance(error, self._expected)
                pause_s = self._retry_s if is_expected else self._unforeseen_s
                self._tell(None if is_expected else error)

    def _tell(self, defect: Exception | None) -> None:
        """Log what `last_error` says; a defect with its traceback."""
        now = time.monotonic()
        is_defect = defect is not None
        if now < self._told_s[is_defect] + TELL_EVERY_S:
            return
        self._told_s[is_defect] = now
        place = {} if self._container_id is None else {"container": self._container_id}
        extra = {**place, "reason": self.last_error}
        if is_defect:
            logger.error("%s failed and will be tried again", self._work, extra=extra, exc_info=defect)
        else:
            logger.warning("%s will be tried again", self._work, extra=extra)
