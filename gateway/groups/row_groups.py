"""The shell around groups that are rows of a table: their rows, their deadlines, their long computations.

Keeps: what is told is stored first, `stored` waits for it; targets of large groups are computed in a thread; a group
has one piece of work of a kind at a time, after which it is seen to again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Generic

from kio.schema.errors import ErrorCode

from core.applied.tables import Delete, Put
from core.clock import Clock
from core.trusted_clock import TrustedClock
from core.turns import Turn
from gateway.groups.alarms import Alarms
from gateway.groups.classic.messages import Instant
from gateway.groups.journal import GroupJournal, Rows
from gateway.groups.landing import BYTES_AT_ONCE, ROWS_PER_RECORD_MAX, Form, GroupT, KeyT, Landing
from gateway.groups.modern.group import GroupAlarm

_log: Final = logging.getLogger(__name__)


class RowGroups(Generic[GroupT, KeyT]):
    """What the groups of one kind need beside their state machines, in one coordinator.

    `find` looks a group up; `seen_to` is called when a group has changed by itself.
    """

    def __init__(
        self,
        clock: Clock,
        trusted: TrustedClock,
        journal: GroupJournal,
        form: Form[GroupT, KeyT],
        find: Callable[[str], GroupT | None],
        seen_to: Callable[[GroupT], None],
    ) -> None:
        self._clock = clock
        self._trusted = trusted
        self._journal = journal
        self._form = form
        self._find = find
        self._seen_to = seen_to
        self._alarms: Alarms[GroupAlarm] = Alarms(clock, self._now, self._fire)
        self._landing = Landing(journal, form)
        self._computing: dict[GroupT, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._landing)} writing, {len(self._alarms.deadlines)} deadlines)"

    # Life

    def start(self) -> None:
        """Begin to serve: deadlines run."""
        self._alarms.start()

    async def stop(self) -> None:
        """Return when all that changed is stored."""
        self._alarms.stop()
        tasks = self._works()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._landing.settle()

    def _works(self) -> list[asyncio.Task[None]]:
        """All that is under way."""
        return list(self._computing.values())

    async def _rows_by_group(self, rows: Rows) -> dict[str, dict[KeyT, bytes]]:
        """Raises UnreadableRecord."""
        found: dict[str, dict[KeyT, bytes]] = {}
        async for some in rows:
            for key, value in some:
                group_id, row_key = self._form.decode_key(key)
                found.setdefault(group_id, {})[row_key] = value
        return found

    async def _decoded(self, rows: Mapping[KeyT, bytes], turn: Turn) -> dict[KeyT, Any]:
        """What a group's rows say. Raises UnreadableRecord."""
        found: dict[KeyT, Any] = {}
        for key, value in rows.items():
            await turn.breathe()
            if len(value) <= BYTES_AT_ONCE:
                found[key] = self._form.decode(key, value)
            else:
                found[key] = await asyncio.to_thread(self._form.decode, key, value)
        return found

    async def _restored(self, group: GroupT, steps: Generator[None, None, None], turn: Turn) -> None:
        """Give a new group its stored state, in turns. One that is cut off leaves no memory behind: nobody knows it."""
        try:
            await turn.through(steps)
        except BaseException:
            group.die()
            raise

    async def _delete_rows(self, group_id: str, keys: Collection[KeyT]) -> None:
        """Rows of a group that never came to be. Those that a crash leaves are deleted by the next start."""
        rest = iter(keys)
        while some := [self._form.deletion(group_id, key) for key in islice(rest, ROWS_PER_RECORD_MAX)]:
            self._journal.write_rows(some)
            await asyncio.sleep(0)

    # What a group wants

    def see_to(self, group: GroupT) -> None:
        """Carry out what a group wants after an input: rows, a target."""
        if not self._is_known(group):
            return
        if group.changed:
            self._landing.write(group)
        if group.wanted is not None and group not in self._computing:
            wanted, group.wanted = group.wanted, None
            self._start(self._computing, group, self._compute(group, wanted))
        self._alarms.set_timer()

    def _see_to_itself(self, group: GroupT) -> None:
        """A group has changed without a request."""
        if self._is_known(group):
            self.see_to(group)
            self._seen_to(group)

    def _is_known(self, group: GroupT) -> bool:
        """Is it still the group of its id? One that died while work for it was under way is stored no more."""
        return self._find(group.group_id) is group

    async def _compute(self, group: GroupT, wanted: Any) -> None:
        computed = await asyncio.to_thread(wanted.compute)
        if self._is_known(group):
            group.assigned(computed, self._now())
            self._report(group)

    def _report(self, group: GroupT) -> None:
        """A group has another epoch, or another target."""
        facts = {"group": group.group_id, "epoch": group.epoch, "members": group.member_count, **self._facts(group)}
        if group.epoch == group.target_epoch:
            _log.info("%s group has a new target", group.protocol_type, extra=facts)
        else:
            _log.debug("%s group has a new epoch", group.protocol_type, extra=facts)

    def _facts(self, group: GroupT) -> dict[str, str]:
        """What a line of the log says beside."""
        return {}

    def _start(self, tasks: dict[GroupT, asyncio.Task[None]], group: GroupT, work: Coroutine[Any, Any, None]) -> None:
        """Work for a group, one of its kind at a time; then see to the group again."""
        task = tasks[group] = asyncio.create_task(work)

        def ended(task: asyncio.Task[None]) -> None:
            del tasks[group]
            if not task.cancelled():
                if failure := task.exception():
                    _log.error("a group's work failed", extra={"group": group.group_id}, exc_info=failure)
                self._see_to_itself(group)

        task.add_done_callback(ended)

    # Storing

    async def stored(self, group: GroupT) -> ErrorCode:
        """Wait until everything that changed so far is durable."""
        return await self._landing.stored(group)

    def is_storing(self, group: GroupT) -> bool:
        return self._landing.is_storing(group)

    def also(self, group: GroupT, change: Put | Delete) -> None:
        """Store a change together with the group's next rows, in the record of its head."""
        self._landing.also(group, change)

    def rows_of(self, group: GroupT) -> list[Delete]:
        """What deletes a group's rows."""
        return [self._form.deletion(group.group_id, key) for key in self._form.keys(group)]

    async def drop_in_steps(self, group: GroupT, first: Put) -> None:
        """A group is no longer, and its id is closed: store `first` and the end of the group in one record, then delete
        its other rows, as many as fit into a record in each step. Those that a crash leaves are deleted by the next
        start."""
        turn = Turn()
        keys = (key for key in self._form.keys(group) if key != self._form.head)
        write = self._journal.write_rows([first, self._form.deletion(group.group_id, self._form.head)])
        await turn.through(group.dying())
        while await write is ErrorCode.none:
            rows = []
            for key in islice(keys, ROWS_PER_RECORD_MAX):
                await turn.breathe()
                rows.append(self._form.deletion(group.group_id, key))
            if not rows:
                break
            write = self._journal.write_rows(rows)

    def drop(self, group: GroupT, also: Iterable[Put | Delete] = ()) -> asyncio.Task[ErrorCode]:
        """A group is no longer: submit the deletion of its rows, after `also` in one record."""
        rows = self.rows_of(group)
        group.die()
        return self._journal.write_rows([*also, *rows])

    # Time

    def _now(self) -> Instant:
        return Instant(self._clock.monotonic_s(), self._trusted.stamp_ms())

    def expire_due(self) -> None:
        """Fire every deadline that has passed."""
        self._alarms.expire_due()

    def _fire(self, due: Iterator[GroupAlarm], now: Instant) -> None:
        """Each group that had a deadline is seen to once."""
        touched: dict[str, None] = {}
        for group_id, fire in due:
            fire(now)
            touched[group_id] = None
        for group_id in touched:
            group = self._find(group_id)
            if group is not None:
                self._see_to_itself(group)
