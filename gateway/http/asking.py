"""The workers behind one HTTP port, asked together or one after the other; or all nodes of a cluster.

Invariants:

- A worker that does not answer within `ANSWER_S_MAX` holds up nobody for longer; what it would have told is left out.
- Where an answer says of itself that it is whole, it is whole.
- A change that a worker may have made is given to no other one, where that would make it twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import h11
from pydantic import BaseModel

from gateway.http.exchange import (
    ANSWER_BYTES_MAX,
    ANSWER_S_MAX,
    COMPLETE,
    CONCERN_CHARS_MAX,
    STATUS_BYTES_MAX,
    Answer,
    Asked,
    Dial,
    Refused,
    Silent,
    ask,
    blocks,
    exchange,
    tell_silent,
    unanswered,
)
from gateway.http.problems import Problem, not_ready

logger = logging.getLogger(__name__)

LARGE_BYTES: Final = 64 << 10
"""Answers of more than this are merged in a thread."""

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")


class Workers:
    """Those that serve now. All calls raise Problem; Refused for a worker's own refusal."""

    def __init__(
        self,
        ways: Callable[[], Mapping[str, Dial]],
        phase: Callable[[], str],
        count: Callable[[], int] | None,
        within_s: float | None,
        closed: Callable[[], int],
    ) -> None:
        """See `gateway.http.front.front`; `ways` are those to the workers."""
        self.ways = ways
        self.closed = closed
        self._phase = phase
        self._count = count
        self._within_s = within_s

    def __repr__(self) -> str:
        return f"<Workers {', '.join(sorted(self.ways()))}>"

    def serving(self) -> list[tuple[str, Dial]]:
        """The workers by number, with the ways to them. Raises Problem."""
        found = sorted(self.ways().items(), key=lambda one: (len(one[0]), one[0]))
        if not found:
            phase = self._phase()
            raise not_ready("starting its workers" if phase == "serving" else phase)
        return found

    def missing(self, answers: Mapping[str, Any]) -> int:
        """The number of workers that have not answered."""
        known = len(self.ways()) if self._count is None else self._count()
        return max(0, known - len(answers))

    async def all(self, asked: Asked, bytes_max: int = ANSWER_BYTES_MAX) -> dict[str, Answer]:
        """The answers of all that answer, by worker."""

        async def one(worker: str, dial: Dial) -> tuple[str, Answer] | None:
            try:
                return worker, await ask(dial, asked, bytes_max, self._within_s)
            except Silent as silent:
                tell_silent(worker, silent)
                return None

        ways = sorted(self.ways().items(), key=lambda one: (len(one[0]), one[0]))
        found = await asyncio.gather(*(one(worker, dial) for worker, dial in ways))
        return dict(answer for answer in found if answer is not None)

    def usable(self, answers: Mapping[str, Answer], closed: int = 0) -> list[Answer]:
        """The answers with what was asked for; at least one. Raises Problem, or Refused for a worker's refusal.
        `closed`: how many may know it besides, and cannot be asked."""
        self.serving()
        found = list(answers.values())
        for answer in found:
            if 400 <= answer.status < 500 and answer.status != 404:
                raise Refused(answer)
        if good := [answer for answer in found if answer.status == 200]:
            return good
        if found and not (closed or self.missing(answers)) and all(answer.status == 404 for answer in found):
            raise Refused(found[0])
        raise unanswered()

    async def told(self, asked: Asked, model: type[_M], merge: Callable[[Sequence[_M]], _M]) -> _M:
        """What all workers tell, as one. Raises Problem, or Refused for a worker's refusal."""
        answers = self.usable(await self.all(asked))

        def whole() -> _M:
            return merge([model.model_validate_json(answer.body) for answer in answers])

        return await bounded(sum(len(answer.body) for answer in answers), whole)

    async def first(
        self,
        asked: Asked,
        others: set[int],
        order: Sequence[tuple[str, Dial]] | None = None,
        *,
        within_s: float | None = None,
        once: bool = False,
    ) -> Answer:
        """The answer of the first worker whose status is none of `others`; else the one that says most. `once`: nobody
        else is asked for what a worker may have done."""
        refusals: list[Answer] = []
        silent = False
        for worker, dial in order or self.serving():
            try:
                answer = await ask(dial, asked, within_s=within_s)
            except Silent as error:
                tell_silent(worker, error)
                if once and error.was_reached:
                    raise unanswered() from error
                silent = True
                continue
            if answer.status not in others or (once and not _has_done_nothing(answer)):
                return answer
            refusals.append(answer)
        if silent or not refusals:  # a change may have been made: no other worker's refusal tells of it
            raise unanswered()
        return min(refusals, key=lambda answer: (409, 503, 404).index(answer.status))

    async def lines(self, asked: Asked) -> AsyncGenerator[bytes, None]:
        """The lines of all workers after an empty piece, with one mark of the end. Raises Problem before that piece."""
        async with contextlib.AsyncExitStack() as stack:
            opened: dict[str, AsyncIterator[bytes]] = {}
            for worker, dial in self.serving():
                try:
                    async with asyncio.timeout(ANSWER_S_MAX):
                        head, pieces = await stack.enter_async_context(exchange(dial, asked))
                    if head.status_code in (401, 403):
                        raise Refused(await ask(dial, asked, STATUS_BYTES_MAX))
                    if head.status_code == 200:
                        opened[worker] = pieces
                except (OSError, ValueError, h11.ProtocolError, Silent) as error:
                    tell_silent(worker, error)
            if not opened:
                raise unanswered()
            complete = not (self.closed() or self.missing(opened))
            yield b""
            for worker, pieces in opened.items():
                try:
                    async for block in blocks(pieces):
                        yield block
                except (OSError, h11.ProtocolError, Silent) as error:
                    tell_silent(worker, error)
                    complete = False
            if complete:
                yield COMPLETE


def _has_done_nothing(refusal: Answer) -> bool:
    """A worker that asks to try again has not begun; another one that could not end does not say so."""
    return refusal.status == 404 or "retry-after" in refusal.headers


async def bounded(size: int, work: Callable[[], _T]) -> _T:
    """Do it in a thread if there is much to do. Raises Problem for an answer that cannot be read."""
    try:
        return await asyncio.to_thread(work) if size > LARGE_BYTES else work()
    except ValueError as error:
        logger.error("a worker's answer was not understood", extra={"error": str(error)[:CONCERN_CHARS_MAX]})
        raise Problem(503, "Not understood", "a worker's answer could not be read; the log has more") from error
