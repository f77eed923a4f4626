"""Answers out: in the order of their requests, as far as the peer takes them, and room for those to come.

Invariants:
- Answers leave in the order of their requests, all that became due in one turn of the loop in one write.
- Every byte that waits for the socket is charged to the output budget once the socket has refused it.
- Answers that wait are in `Host.with_views`, which has them copied when the log needs the memory behind them.
- A peer that takes nothing is not read, and a large answer begins only when there is room for it. So what one peer
  leaves lying is bounded, and whoever takes its answers goes on.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from gateway.network.outgoing import LARGE_BYTES_MIN, Outgoing, copied
from gateway.network.pausing import IN_FLIGHT, OUTPUT, ROOM, STOPPING, Pausing
from gateway.network.response_slot import Part, ResponseSlot

if TYPE_CHECKING:
    from gateway.network.host import HasViews, Host

READING_BYTES: Final = 1024 * 1024
"""Bytes that an answer counts as while it is read: what most clients ask of a partition."""

LAST_WORDS_S: Final = 0.1
"""Time for a peer to read why its connection ends: some clients drop what comes together with the end."""


class Answering(Pausing):
    """See the module. A part of `Connection`, which sets `_output`."""

    __slots__ = (
        "_flushing",
        "_held_bytes",
        "_large_answers",
        "_output",
        "_output_bytes",
        "_output_waiters",
        "_room_waits",
        "active_s",
        "ends",
        "in_flight_max",
        "slots",
        "tasks",
    )

    def __init__(self, host: "Host", peer_host: str) -> None:
        super().__init__(host, peer_host)
        self.slots: deque[ResponseSlot] = deque()  # requests not answered, or whose turn has not come
        self.in_flight_max = host.limits.in_flight_requests_max
        self.tasks = 0  # handler tasks that did not end yet
        self.active_s = host.now_s
        self.ends = False  # it is closed once what is due is answered
        self._output: Outgoing = cast(Outgoing, None)  # set with the transport
        self._flushing = False
        self._held_bytes = 0  # of answers whose turn has not come
        self._output_bytes = 0  # charged to the output budget
        self._output_waiters: list[Callable[[], None]] = []
        #: Requests that wait for room for their answers, by what tells them; each is told once.
        self._room_waits: dict[Callable[[], None], ResponseSlot] = {}
        self._large_answers: asyncio.Lock | None = None  # one is made at a time

    @property
    def in_flight(self) -> int:
        return len(self.slots)

    # --- In the order of requests ---------------------------------------------------------------

    def answered(self, slot: ResponseSlot) -> None:
        """Called by the slot. Its answer leaves when all before it have left."""
        self._host.request_budget.release(slot.charge)
        slot.charge = 0
        if self.closed:
            return
        if slot is not self.slots[0]:
            if slot.size:
                self._held_bytes += slot.size
                self._account_output()
            return
        if slot.size >= LARGE_BYTES_MIN:
            # At once: the next large answer of this turn is made only if there is room beside what is left of this one.
            self._write_due()
            if self._output.waiting:
                self._account_output()
        if not self._flushing:
            self._flushing = True
            self._host.flush_soon(self)

    def flush(self) -> None:
        """Send the answers that are due; begin the requests that waited for that."""
        self._flushing = False
        if self.closed:
            return
        self._write_due()
        if self._held_bytes or self._output_bytes:
            self._held_bytes = sum(slot.size for slot in self.slots)
            self._account_output()
        if self.blocked & IN_FLIGHT:
            self._check_in_flight()
        self._close_if_done()

    def _write_due(self) -> None:
        """Hand every answer at the head of the line to the socket, in one write."""
        slots = self.slots
        out: list[Part] = []
        size = 0
        while slots and (parts := slots[0].parts) is not None:
            out += parts
            size += slots.popleft().size
        if not out:
            return
        self._host.metrics.sent_bytes += size
        self.active_s = self._host.now_s
        self._output.send(out, size)

    def task_ended(self) -> None:
        self.tasks -= 1
        if self.blocked & IN_FLIGHT:
            self._check_in_flight()

    def _check_in_flight(self) -> None:
        few = len(self.slots) <= self.in_flight_max * 3 // 4
        if few and self.tasks < self._host.limits.tasks_max:
            self._unblock(IN_FLIGHT)

    # --- The last one ---------------------------------------------------------------------------

    def close(self) -> None:
        """Close now. Answers that are due are still offered to the socket; bytes that it does not take
        at once are lost."""
        if self.closed:
            return
        self._write_due()
        self.closed = True
        if self._output.waiting:
            self._transport.abort()
        else:
            self._transport.close()

    def end_after_answers(self) -> None:
        """Begin nothing new, and close when what is due is answered."""
        self.ends = True
        self._block(STOPPING)

    def _close_if_done(self) -> None:
        """A peer that stopped sending, or that is to end, has its last answer."""
        if self.slots or self.closed or self._output.has_views:
            return
        if self.half_closed:
            self._transport.close()
        elif self.ends:
            self.ends = False
            self._host.loop.call_later(LAST_WORDS_S, self.close)

    # --- Answers that the peer does not take ----------------------------------------------------

    def pause_writing(self) -> None:
        """The socket did not take all: count the rest."""
        self._account_output()

    def resume_writing(self) -> None:
        self._output.go_on()
        self._account_output()
        self._close_if_done()

    def unsent_bytes(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.closed else self._output.waiting

    def copy_views(self) -> int:
        """Have copies of the answers that wait; returns how many bytes were copied."""
        size = self._output.copy_views()
        for slot in self.slots:
            if slot.parts:
                slot.parts, own = copied(slot.parts)
                size += own
        return size

    def _account_output(self) -> None:
        unsent = 0 if self.closed else self._output.waiting + self._held_bytes
        if unsent:
            self._host.with_views[self] = None
        else:
            self._host.with_views.pop(self, None)
        change = unsent - self._output_bytes
        self._output_bytes = unsent
        budget = self._host.output_budget
        if change > 0:
            budget.charge(change)
        elif change:
            budget.release(-change)
        if unsent > self._host.limits.connection_output_bytes_max or (unsent and budget.exhausted):
            self._block(OUTPUT)
        elif not unsent:
            self._unblock(OUTPUT)
        if self._output_waiters and not self._output.waiting:
            waiters, self._output_waiters = self._output_waiters, []
            for callback in waiters:
                callback()
        if self._room_waits and self.slots and self._holds_up_others(self.slots[0]):
            first = self.slots[0]
            for callback in [callback for callback, slot in self._room_waits.items() if slot is first]:
                callback()

    def _drop_answers(self) -> list[Callable[[], None]]:
        """The connection is gone: give back what its answers took. Returns who waited for room."""
        for slot in self.slots:
            self._host.request_budget.release(slot.charge)
            slot.charge = 0
        self.slots.clear()
        self._output.drop()
        self._host.with_views.pop(self, None)
        self._host.output_budget.release(self._output_bytes)
        self._output_bytes = self._held_bytes = 0
        self._output_waiters.clear()
        return list(self._room_waits)

    # --- Room for answers to come ---------------------------------------------------------------

    def output_room(self) -> int:
        """Bytes that an answer may have now. 0: make none before `when_output_room` calls back.

        A large answer (Fetch) asks before it reads anything, because bytes that a slow or silent peer
        does not take stay in our memory."""
        return 0 if self.blocked & OUTPUT else self._host.output_budget.room

    def takes_more(self) -> bool:
        """Has the socket taken all answers that were due? Then a small one may be made though others use all the room,
        while such answers have not used as much again, or where answers behind it wait for it. So whoever reads goes
        on, whatever others do."""
        budget = self._host.output_budget
        if self.closed or self._output.waiting:
            return False
        return budget.used < 2 * budget.limit or self._held_bytes > 0

    def when_output_room(self, slot: ResponseSlot, callback: Callable[[], object]) -> None:
        """Call back once, when output_room() may have grown, answers behind that of `slot` wait for nothing else, or
        the connection is gone.

        No later request of the connection starts until then: its answer would take the room, and could not leave before
        this one."""
        if self.closed:
            self._host.loop.call_soon(callback)
            return
        self._block(ROOM)

        def room_came() -> None:
            if self._room_waits.pop(room_came, None) is None:
                return  # it was told already
            callback()
            if not self._room_waits:
                self._unblock(ROOM)

        self._room_waits[room_came] = slot
        if self.blocked & OUTPUT:
            self._output_waiters.append(room_came)
        else:
            self._host.output_budget.wait(room_came)

    @contextlib.contextmanager
    def keeping(self, answer: "HasViews", size: int) -> Iterator[None]:
        """Keep records of `size` bytes for an answer that waits for something else: they count as output that waits,
        and are copied when the log needs the memory behind them."""
        host = self._host
        host.output_budget.charge(size)
        host.with_views[answer] = None
        try:
            yield
        finally:
            host.with_views.pop(answer, None)
            host.output_budget.release(size)

    @contextlib.asynccontextmanager
    async def reading(self, slot: ResponseSlot) -> AsyncIterator[None]:
        """Read bytes for the answer of `slot` that are not in memory: when there is room for one more such answer in
        the process, and for its bytes while they wait for the peer."""
        budget = self._host.reading_budget
        while not self.closed:
            room = self._host.loop.create_future()
            came = partial(_came, room)
            if budget.exhausted:
                budget.wait(came)
            elif self.output_room() <= 0 and not self.takes_more():
                self.when_output_room(slot, came)
            else:
                break
            await room
        budget.charge(READING_BYTES)
        try:
            yield
        finally:
            budget.release(READING_BYTES)

    @contextlib.asynccontextmanager
    async def large_answer(self, slot: ResponseSlot) -> AsyncIterator[None]:
        """Make a large answer: one of this connection at a time, in the order of requests, when there is room for it.

        An answer is charged when it is made. So a peer that does not read can keep alive only one large answer, and the
        bytes that were unsent when that one began. Answers behind it that wait for it never keep it from being made.
        """
        if self._large_answers is None:
            self._large_answers = asyncio.Lock()
        while True:
            async with self._large_answers:
                if self.closed or self.output_room() > 0 or self._holds_up_others(slot):
                    yield
                    return
            room = self._host.loop.create_future()
            self.when_output_room(slot, partial(_came, room))
            await room

    def _holds_up_others(self, slot: ResponseSlot) -> bool:
        """Is it this answer's turn, and are there others behind it? Then room comes only once it has left."""
        return self._held_bytes > 0 and not self._output.waiting and self.slots[0] is slot


def _came(room: asyncio.Future[None]) -> None:
    """The room that somebody waits for."""
    if not room.done():
        room.set_result(None)
