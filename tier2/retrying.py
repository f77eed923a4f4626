"""Repeats failed calls that may be sent again, and no others.

Invariant: a put that failed without an answer is never reported as done, nor as "exists already", unless the present
object is known to be its own. Each put carries a random token in the object's metadata; after a failure the present
object's token settles the outcome. A `put_new` whose first try succeeded without an answer therefore succeeds.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tier2.storage import AlreadyExists, Buffer, Came, Data, ObjectInfo, ObjectStat, Storage, TimedOut, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Number of tries and their time; a pause is drawn from zero to a bound that doubles each time."""

    attempts_max: int = 8
    first_backoff_s: float = 0.05
    backoff_max_s: float = 5.0
    deadline_s: float = 180.0  # of one call with all its tries and pauses


@dataclass(slots=True)
class Counters:
    """Counts since the wrapper was made."""

    calls: int = 0
    retries: int = 0
    failures: int = 0  # calls that were given up
    settled: int = 0  # puts that had succeeded, although the answer was lost


class RetryingStorage:
    """A Storage over another one; see the module's docstring."""

    def __init__(self, inner: Storage, policy: RetryPolicy, rng: random.Random) -> None:
        self._inner = inner
        self._policy = policy
        self._rng = rng
        self.counters = Counters()

    @property
    def inner(self) -> Storage:
        """The Storage that gets the calls."""
        return self._inner

    def __repr__(self) -> str:
        return f"<RetryingStorage over {self._inner!r}: {self.counters}>"

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        token = token or self._new_token()
        tried = False

        async def attempt() -> ObjectStat:
            nonlocal tried
            if tried and (done := await self._own(key, token)) is not None:
                return done
            tried = True
            return await self._inner.put(key, data, token=token)

        return await self._retried(f"put of {key!r}", attempt)

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        token = token or self._new_token()
        tried = False

        async def attempt() -> ObjectStat:
            nonlocal tried
            again, tried = tried, True
            try:
                return await self._inner.put_new(key, data, token=token)
            except AlreadyExists:
                if not again or (done := await self._own(key, token)) is None:
                    raise
                return done

        return await self._retried(f"put of {key!r}", attempt)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._retried(f"read of {key!r}", lambda: self._inner.get_range(key, start, length))

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        await self._retried(f"read of {key!r}", lambda: self._inner.get_pieces(key, start, length, piece_bytes, came))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """After a failure, goes on behind the last key that was yielded; each key restores the number of tries."""
        failed = 0
        while True:
            try:
                async for info in self._inner.list(prefix, after=after):
                    after, failed = info.key, 0
                    yield info
                return
            except Unavailable:
                failed += 1
                self.counters.retries += 1
                if failed >= self._policy.attempts_max:
                    self.counters.failures += 1
                    raise
            await self._pause(failed)

    async def delete(self, key: str) -> None:
        await self._retried(f"delete of {key!r}", lambda: self._inner.delete(key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._retried(f"delete of {len(keys)} objects", lambda: self._inner.delete_many(keys))

    async def stat(self, key: str) -> ObjectStat | None:
        return await self._retried(f"stat of {key!r}", lambda: self._inner.stat(key))

    async def sweep_uploads(self, older_than_s: float) -> int:
        return await self._retried("sweep of unfinished uploads", lambda: self._inner.sweep_uploads(older_than_s))

    async def close(self) -> None:
        await self._inner.close()

    async def _own(self, key: str, token: str) -> ObjectStat | None:
        """The object at `key`, if a put with this token has made it."""
        found = await self._inner.stat(key)
        if found is None or found.token != token:
            return None
        self.counters.settled += 1
        return found

    async def _retried(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        self.counters.calls += 1
        last: Unavailable | None = None
        try:
            async with asyncio.timeout(self._policy.deadline_s):
                for number in range(1, self._policy.attempts_max + 1):
                    try:
                        return await attempt()
                    except Unavailable as error:
                        last = error
                    if number < self._policy.attempts_max:
                        self.counters.retries += 1
                        await self._pause(number)
        except TimeoutError:
            self.counters.failures += 1
            why = f"; the last try: {last}" if last else ""
            raise TimedOut(f"{what} took longer than {self._policy.deadline_s:g} s{why}") from last
        self.counters.failures += 1
        assert last is not None, "a loop without a try"
        raise last

    async def _pause(self, failed: int) -> None:
        bound = min(self._policy.backoff_max_s, self._policy.first_backoff_s * 2 ** (failed - 1))
        await asyncio.sleep(self._rng.uniform(0, bound))

    def _new_token(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"
