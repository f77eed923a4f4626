"""Fetch (key 1), versions 4-18. Answers at once from memory where it can, waits without a task.

Sessions: KIP-227. Topic ids: KIP-516, from version 13. Topics whose `compression.type` is zstd: KIP-110, from version
10.

A fetch of more than LOOKS_AT_ONCE partitions goes through them as a task that gives way. It looks at them at most
LONG_LOOKS_MAX times, however often it is woken. An answer has at most ENTRIES_AT_ONCE entries from memory; none is kept
while the fetch waits for more. A fetch whose peer has left looks at nothing.

Keeps: the first partition that has anything returns at least one whole batch, whatever the limits (KIP-74); nothing
at or beyond the high watermark is returned, nor beyond the last stable offset to read_committed; a client gets a
partition's records as they were produced, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from core.errors import NotHosted, StorageFailure
from core.streams.entries import ENTRIES_AT_ONCE
from gateway.apis.shared.fetch_answer import AnsweredFetch
from gateway.apis.shared.replicas import code_for_replica, is_replicas, refuse_replica
from gateway.apis.shared.slices import LOOKS_AT_ONCE, breathe, slices
from gateway.dispatch.registry import Api
from gateway.dispatch.request_tasks import timed
from gateway.dispatch.route import took
from gateway.fetching.cold_reads import ColdReads
from gateway.fetching.looking import ColdRead
from gateway.fetching.sessions import Target
from gateway.network.turns import is_out_of_turn
from gateway.refusals import Refusal
from gateway.wire.codec import request_codec
from gateway.wire.responses import encode_fetch_response

if TYPE_CHECKING:
    from core.container.container import Container
    from gateway.network.connection import Connection
    from gateway.network.response_slot import ResponseSlot
    from gateway.wire.headers import RequestHeader
    from gateway.wire.message import Message

logger = logging.getLogger(__name__)


KEY: Final = 1

MAX_WAIT_MS: Final = 60_000
"""Longest wait for news, in ms, whatever a client asks for: a request that waits holds room that others need."""
GIVE_WAY_S: Final = 0.02
"""Longest wait of a reader of history for appends: it must not wait for a disk that stands still."""
SCARCE_BYTES: Final = 64 * 1024
"""Records of an answer, or one batch, while others use all the room for answers: a socket takes as much at once."""
LONG_LOOKS_MAX: Final = 3
"""How often a fetch that gives way looks at its partitions; after that it answers with what there is."""

_now: Final = time.perf_counter


class _Fetch(AnsweredFetch):
    """One Fetch request on its way."""

    __slots__ = (
        "deadline_s",
        "done",
        "gave_way",
        "long_looks",
        "looking",
        "reads",
        "timer",
        "waited",
    )

    def __init__(self, connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
        super().__init__(connection, version, request, reply)
        self.done = False
        self.waited = request.max_wait <= 0
        self.deadline_s = min(request.max_wait, MAX_WAIT_MS) / 1000
        self.timer: asyncio.TimerHandle | None = None
        self.looking = False  # as a task that gives way
        self.long_looks = 0
        self.reads: ColdReads | None = None  # under way
        self.gave_way = False  # to appends: once is enough

    # --- Evaluation ---------------------------------------------------------------------------

    def run(self) -> None:
        """Look at the partitions that may have news, then answer or wait."""
        if self.done or self.looking:
            return
        if self.reads is not None:
            self.reads.lose_patience()  # the fetch goes on when the reads under way have ended
            return
        if self.connection.output_room() <= 0:
            if not self.connection.takes_more():
                self.connection.when_output_room(self.reply, self._run_in_turn)
                return
            self._ask_for_little()
        todo = list(self.wanted.dirty)
        if len(todo) > LOOKS_AT_ONCE:
            self._begin(self.run_long(todo))
            return
        self.wanted.find_slots(self.stream, todo)
        if self._gives_way(todo):
            return
        cold: list[ColdRead] = []
        left: list[Target] = []
        self.choose(todo, cold, left)
        if not cold:
            self._decide()
            return
        self._begin(self._run_cold(cold, left))

    def _ask_for_little(self, cold: Sequence[ColdRead] = ()) -> None:
        """Others use all the room for answers."""
        self.max_bytes = min(self.max_bytes, SCARCE_BYTES)
        self.min_bytes = min(self.min_bytes, self.max_bytes)
        for read in cold:
            read.room = min(read.room, SCARCE_BYTES)

    async def run_long(self, todo: Sequence[Target]) -> None:
        """Look at many partitions; give way in between."""
        self.looking = True
        try:
            stint = self.stint()
            for some in slices(todo):
                await breathe(stint)
                if self.connection.closed:
                    break
                self.wanted.find_slots(self.stream, some)
            gives_way = self._gives_way(todo)
            if not gives_way:
                self.long_looks += 1
                cold, left = await self._choose_of_many(todo)
        finally:
            self.looking = False
        if gives_way:
            return
        if self.long_looks >= LONG_LOOKS_MAX:
            self.urgent = True
        if cold and not self.connection.closed:
            await self._run_cold(cold, left)
        else:
            self._decide_after_others()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on as a task, whose steps are turns of the connection's party."""
        task = asyncio.get_running_loop().create_task(timed(work, self.connection, self.reply.route, 0))
        task.add_done_callback(self._task_done)

    def _go_on(self) -> None:
        """There is news, or it is time to answer: run when it is the party's turn."""
        if is_out_of_turn(self.connection.party) and not self.connection.closed:
            self.connection.turns.wait(self.connection.party, self._run_in_turn)
        else:
            self._run_in_turn()

    def _run_in_turn(self) -> bool:
        self.connection.party.began_s = began_s = _now()
        if not (self.done or self.looking) and self.connection.peer_left():
            self._abandon()
        else:
            try:
                self.run()
            except Exception as error:
                self._failed(error)
        took(self.connection, self.reply.route, _now() - began_s, 0)
        return False

    def _gives_way(self, todo: Sequence[Target]) -> bool:
        """A fetch that only reads history waits, once, for the appends under way: a megabyte for it keeps a processor
        from them for a millisecond, and they have two threads to go through."""
        if self.gave_way:
            return False
        container: Container | None = None
        for target in todo:
            slot = target.slot
            if slot is None or target.offset >= slot.tiered_end:
                return False
            try:
                container = self.services.store.hosted(slot).container
            except NotHosted:
                return False
            if container.is_all_durable:
                return False
        if container is None:
            return False
        self.gave_way = True
        waiting = asyncio.ensure_future(_settled(container))
        waiting.add_done_callback(lambda _: self._go_on())
        return True

    async def _choose_of_many(self, todo: Sequence[Target]) -> tuple[list[ColdRead], list[Target]]:
        """Look at each in the turn in which its slot is found: one that has moved meanwhile has told so already, and
        its session would never hear of it again."""
        cold: list[ColdRead] = []
        left: list[Target] = []
        stint = self.stint()
        for some in slices(todo):
            await breathe(stint)
            if self.connection.closed:
                break
            self.wanted.find_slots(self.stream, some)
            self.choose(some, cold, left)
        return cold, left

    async def _run_cold(self, cold: list[ColdRead], left: list[Target]) -> None:
        self.keep_copies()
        reads = self.reads = ColdReads(self, self.min_bytes, self.deadline_s, self._choose_of_many, self._woken)
        try:
            async with self.connection.reading(self.reply):
                if self.connection.output_room() <= 0:
                    self._ask_for_little(cold)
                out_of_time = await reads.run(cold, left)
        finally:
            self.reads = None
        self.late = reads.late
        if out_of_time:
            await self._look_again()
        self._decide_after_others()

    def _woken(self) -> None:
        """There are enough new entries, while others are being read or just after."""
        if self.reads is not None:
            self.reads.lose_patience()
        else:
            self._go_on()

    async def _look_again(self) -> None:
        """It is time to answer: leave out the partitions that came too late; others may have news meanwhile."""
        self.waited = True
        left_out = set(self.late)
        again = [target for target in self.wanted.dirty if target not in left_out]
        stint = self.stint()
        for some in slices(again):
            await breathe(stint)
            self.wanted.find_slots(self.stream, some)
            for target in some:
                cold = self.look(target)
                if cold is not None:
                    self.add(target, cold.slot, None)

    def _task_done(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """Nobody would answer this fetch any more, nor what comes behind it."""
        logger.error("fetch failed", exc_info=error)
        self._finish()
        self.reply.close("a fetch failed; the gateway's log says why")

    # --- Waiting and answering ----------------------------------------------------------------

    def _decide_after_others(self) -> None:
        """Decide after other requests had the loop: the peer may have left meanwhile."""
        if self.done:
            return
        if self.connection.peer_left():
            self._abandon()
        else:
            self._decide()

    def _decide(self) -> None:
        is_enough = self.size >= self.min_bytes or self.entries >= ENTRIES_AT_ONCE
        if is_enough or self.waited or self.urgent or not self.wanted.targets:
            if len(self.results) > LOOKS_AT_ONCE:
                self._begin(self._answer_of_many())
            else:
                self._answer()
            return
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.deadline_s, self._time_is_up)
            self.connection.on_close(self._finish)
            self.services.fetch_sessions.waiting[self._time_is_up] = None
        self.wanted.wait(self.min_bytes - self.size, self._go_on)
        if self.size:
            self.keep_nothing()

    def _time_is_up(self) -> None:
        self.waited = True
        self.wanted.stop_waiting()
        self._go_on()

    def _abandon(self) -> None:
        """The peer has left: no answer is needed."""
        self._finish()
        self.connection.abandon(self.reply)

    def _finish(self) -> None:
        """Nothing more will happen to this request."""
        self.done = True
        if self.timer is not None:
            self.timer.cancel()
            self.connection.forget_on_close(self._finish)
            self.services.fetch_sessions.waiting.pop(self._time_is_up, None)
        if self.session is None or self.session.ended:
            self.wanted.close()
        else:
            self.wanted.stop_waiting()

    def _answer(self) -> None:
        if not self.done:
            self._finish()
            self.answer()

    async def _answer_of_many(self) -> None:
        if not self.done:
            self._finish()
            await self.answer_of_many()


async def _settled(container: Container) -> None:
    """Wait until the appends under way are durable or have failed; not longer than `GIVE_WAY_S`."""
    with contextlib.suppress(TimeoutError, StorageFailure):
        async with asyncio.timeout(GIVE_WAY_S):
            await container.all_durable()


def fetch(connection: Connection, header: RequestHeader, body: memoryview, reply: ResponseSlot) -> None:
    """Answer a Fetch, now or when there is enough. Raises MalformedRequest."""
    if (connection.blocked or connection.half_closed or len(connection.slots) > 1) and connection.peer_left():
        connection.abandon(reply)
        return
    version = header.api_version
    request = request_codec(KEY, version).decode(body)
    if is_replicas(version, request):
        reply.send(refuse_replica(version, request, code_for_replica(connection)))
        return
    running = _Fetch(connection, version, request, reply)
    try:
        running.read_request(request)
    except Refusal as error:
        reply.send(encode_fetch_response(version, [], error_code=error.code))
        return
    running.run()


async def fetch_long(connection: Connection, version: int, request: Message, reply: ResponseSlot) -> None:
    """Answer a Fetch that names many partitions; returns when it is answered or waits."""
    if connection.peer_left():
        connection.abandon(reply)
        return
    if is_replicas(version, request):
        reply.send(await connection.aside(refuse_replica, version, request, code_for_replica(connection)))
        return
    running = _Fetch(connection, version, request, reply)
    try:
        await running.read_long_request(request)
    except Refusal as error:
        reply.send(encode_fetch_response(version, [], error_code=error.code))
        return
    running.run()


API: Final = Api(key=KEY, name="Fetch", versions=range(4, 19), handle_raw=fetch, handle_long=fetch_long)
