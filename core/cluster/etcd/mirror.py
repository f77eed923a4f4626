"""A copy in memory of all keys below a prefix, which follows them by a watch.

The keys are read once, page by page at one revision; then a watch goes on from there. After a cut the next watch begins
with the revision behind the last one that was taken over, at whichever member answers. If etcd has compacted that
revision away, all is read again, and the difference is told as changes.

A silent watch may have a dead connection. So the mirror begins another one every `SILENT_S`, and at
once for a revision that the watch should have brought (`reached`).

**Invariants**

- Those who are told hear of each change once, in the order of revisions, those of one revision together; after a
  compaction of the last state only.
- At each call `values` has all changes up to `revision`, and no others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Self

from core.cluster.etcd.client import ATTEMPT_S, CALL_S, EtcdClient
from core.cluster.etcd.wire import COMPACTED, EtcdError, KeyValue, Range, Unanswered, Watched, end_of
from core.errors import CoordinatorAway, CoordinatorRefuses, StoreError

logger = logging.getLogger(__name__)

SILENT_S: Final = 10.0
EXPECT_S: Final = 1.0
"""How long a revision that is known to be there may take until the watch is begun anew."""
RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 1.0
COMPLAIN_EVERY_S: Final = 10.0
PAGE_KEYS: Final = 500
TOLD_KEYS_MAX: Final = 200
"""The most changes of several revisions that are taken over in one turn of the loop."""
KEYS_MAX: Final = 1_000_000
"""The most keys below the prefix: a gigabyte or two of memory."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a key, which is told without the prefix. None: there is, or was, no such key."""

    key: bytes
    now: KeyValue | None
    before: KeyValue | None


Told = Callable[[Sequence[Change]], None]


class Mirror:
    """See the module. Make it with `open`; `close` it."""

    def __init__(self, client: EtcdClient, prefix: bytes) -> None:
        self.prefix = prefix
        self.revision = 0
        self._client = client
        self._values: dict[bytes, KeyValue] = {}
        self._told: list[Told] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._silence: asyncio.Timeout | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0  # in a row
        self._complained_s = -COMPLAIN_EVERY_S

    def __repr__(self) -> str:
        return f"<Mirror {self.prefix!r} {len(self._values)} keys, revision {self.revision}>"

    @classmethod
    async def open(cls, client: EtcdClient, prefix: bytes) -> Self:
        """Read all keys, and follow them from then on. Raises CoordinatorAway, CoordinatorRefuses."""
        mirror = cls(client, prefix)
        await mirror._read_all()
        mirror._task = asyncio.create_task(mirror._follow(), name="etcd watch")
        return mirror

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, waiting in self._waiting:
            waiting.cancel()

    @property
    def values(self) -> Mapping[bytes, KeyValue]:
        """All keys, without the prefix."""
        return self._values

    def below(self, prefix: bytes) -> Iterator[tuple[bytes, KeyValue]]:
        """The keys that begin so, without that part."""
        return ((key[len(prefix) :], value) for key, value in self._values.items() if key.startswith(prefix))

    def on_changed(self, told: Told) -> None:
        """Call `told` with changes, on the loop, when they are in `values`."""
        self._told.append(told)

    async def reached(self, revision: int, within_s: float = CALL_S) -> None:
        """Wait until the changes of a revision are here, which has changed a key below the prefix.

        Raises CoordinatorAway.
        """
        if revision <= self.revision:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, waiting))
        try:
            async with asyncio.timeout(within_s):
                while not waiting.done():
                    await asyncio.wait((waiting,), timeout=EXPECT_S)
                    if not waiting.done() and self._silence is not None:
                        self._silence.reschedule(asyncio.get_running_loop().time())
        except TimeoutError:
            raise CoordinatorAway(
                f"etcd has not shown revision {revision} within {within_s:g} s: the copy here is at {self.revision}"
            ) from None
        finally:
            self._waiting.remove((revision, waiting))

    # Following

    async def _follow(self) -> None:
        while True:
            try:
                await self._watch()
            except TimeoutError:
                continue  # it was silent
            except EtcdError as error:
                if error.code == COMPACTED:
                    await self._read_again()
                    continue
                await self._complain(error)
            except (Unanswered, StoreError) as error:
                await self._complain(error)
            except Exception as error:  # or the copy stands still for ever, and is believed
                await self._complain(error, is_defect=True)

    async def _watch(self) -> None:
        """Follow one watch until it is silent (TimeoutError), or fails."""
        loop = asyncio.get_running_loop()
        watch = self._client.watch(self.prefix, end_of(self.prefix), self.revision + 1)
        is_there = False
        try:
            async with asyncio.timeout(ATTEMPT_S) as self._silence, aclosing(watch) as messages:
                async for message in messages:
                    is_there = is_there or message.created
                    self._failures = 0
                    await self._take(message)
                    self._silence.reschedule(loop.time() + SILENT_S)
        except TimeoutError:
            if not is_there:
                raise Unanswered("etcd has not begun a watch in time") from None
            raise
        finally:
            self._silence = None

    async def _take(self, message: Watched) -> None:
        """Take over changes of whole revisions, some in each turn of the loop."""
        some: list[Change] = []
        for revision, changes in groupby(message.changes, lambda change: change[0]):
            for _, changed in changes:
                some.append(self._put(changed) if isinstance(changed, KeyValue) else self._remove(changed))
            if len(some) >= TOLD_KEYS_MAX:
                self._tell(some, revision)
                some = []
                await asyncio.sleep(0)
        if some:
            self._tell(some, revision)

    def _put(self, now: KeyValue) -> Change:
        key = now.key[len(self.prefix) :]
        before = self._values.get(key)
        self._values[key] = now
        return Change(key, now, before)

    def _remove(self, whole_key: bytes) -> Change:
        key = whole_key[len(self.prefix) :]
        return Change(key, None, self._values.pop(key, None))

    def _tell(self, changes: Sequence[Change], revision: int) -> None:
        self.revision = revision
        for told in self._told if changes else ():
            try:
                told(changes)
            except Exception:
                logger.exception("a change in etcd could not be taken over", extra={"revision": revision})
        for wanted, waiting in self._waiting:
            if wanted <= revision and not waiting.done():
                waiting.set_result(None)

    async def _complain(self, error: Exception, *, is_defect: bool = False) -> None:
        """Log the reason now and then, a defect with its traceback, and let some time pass."""
        self._failures += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = now_s
            logger.log(
                logging.ERROR if is_defect else logging.WARNING,
                "etcd's changes cannot be followed, and will be tried again",
                extra={"reason": str(error)},
                exc_info=error if is_defect else None,
            )
        await asyncio.sleep(min(RETRY_S_MAX, RETRY_S * 2 ** min(self._failures, 10)))

    # Reading all

    async def _read_again(self) -> None:
        try:
            await self._read_all()
        except StoreError as error:
            await self._complain(error)
        except Exception as error:  # as of the watch
            await self._complain(error, is_defect=True)

    async def _read_all(self) -> None:
        """Make `values` what is there now. Raises CoordinatorAway, CoordinatorRefuses."""
        revision, found = 0, dict[bytes, KeyValue]()
        start, end = self.prefix, end_of(self.prefix)
        while True:
            try:
                page = await self._client.read(Range(start, end, limit=PAGE_KEYS, revision=revision))
            except EtcdError:  # compacted meanwhile: from the beginning
                revision, start = 0, self.prefix
                found.clear()
                continue
            revision = revision or page.revision
            found |= {one.key: one for one in page.keys}
            if len(found) > KEYS_MAX:
                raise CoordinatorRefuses(f"etcd has more than {KEYS_MAX} keys below {self.prefix!r}")
            if not page.more or not page.keys:
                break
            start = page.keys[-1].key + b"\0"
        self._become(found, revision)

    def _become(self, found: Mapping[bytes, KeyValue], revision: int) -> None:
        gone = [self.prefix + key for key in self._values if self.prefix + key not in found]
        changes = [self._remove(key) for key in gone]
        for one in found.values():
            known = self._values.get(one.key[len(self.prefix) :])
            if known is None or known.revision != one.revision:
                changes.append(self._put(one))
        self._tell(changes, revision)
