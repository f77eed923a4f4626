"""Fair shares of the event loop: each party's time in a round, and the line of those that had theirs.

A *turn* is the work of one request between two awaits: the call of a handler, or one step of its task.
A *party* is all connections with one address and one client id. In one round of the loop a party gets
PARTY_S of turns and an address ADDRESS_S. Beyond that its requests wait in line; parties in line go on
one after the other, SERVE_S in each round.

Invariants: a party that had little of a round never waits for one that had much. A party alone loses
nothing: the next round begins at once. A defect in one who goes on keeps nobody else in line. The
connections' own bounds limit the number of waiting requests.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

PARTY_S: Final = 0.008
ADDRESS_S: Final = 0.030
SERVE_S: Final = 0.008
"""Share of one round for all parties in line. An answer takes some four rounds: together these must stay far below the
delay that a waiting client notices."""
UNCOUNTED_S: Final = 0.001
"""Time of all parties together before a round is counted: the next round costs a turn of the loop, a tenth of the cost
of a few small requests. It is an eighth of PARTY_S, so no party's share differs by more."""
GIVE_WAY_S: Final = 0.008
"""Time after which a handler with much to do gives way."""

_now: Final = time.perf_counter


class Address:
    """One peer address, and its parties' time in this round."""

    __slots__ = ("host", "over", "parties", "spent_s")

    def __init__(self, host: str) -> None:
        self.host = host
        self.parties: dict[str | None, Party] = {}
        self.spent_s = 0.0
        self.over = False


class Party:
    """The connections of one address with one client id."""

    __slots__ = (
        "address",
        "began_s",
        "client_id",
        "connections",
        "is_in_line",
        "over",
        "pause_is_told",
        "spent_s",
        "waiting",
    )

    def __init__(self, address: Address, client_id: str | None) -> None:
        self.address = address
        self.client_id = client_id
        self.connections = 0
        self.spent_s = 0.0
        self.began_s = 0.0
        """When the turn began that it has now; 0.0 while it has none."""
        self.pause_is_told = False
        """Did an answer of this turn name the pause that follows from its time?"""
        self.over = False
        """Has it had its share of this round?"""
        self.waiting: deque[Callable[[], bool]] = deque()
        self.is_in_line = False

    def __repr__(self) -> str:
        return f"<Party {self.address.host} {self.client_id!r}, {self.connections} connections>"


def is_out_of_turn(party: Party) -> bool:
    """Has it had its share, or are requests of its in line already? A party's requests go on in their order."""
    return party.over or party.address.over or bool(party.waiting)


class FairTurns:
    """See the module. One for a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._addresses: dict[str, Address] = {}
        self._spenders: list[Party] = []
        self._spent_s = 0.0
        self._line: deque[Party] = deque()
        self._round_due = False

    def __repr__(self) -> str:
        return f"<FairTurns {len(self._addresses)} addresses, {len(self._line)} parties in line>"

    @property
    def parties_waiting(self) -> int:
        return len(self._line)

    @property
    def parties_in_round(self) -> int:
        """Parties that had a turn in this round."""
        return len(self._spenders)

    def join(self, host: str, client_id: str | None) -> Party:
        """Count a connection of this party, until `leave`."""
        address = self._addresses.get(host)
        if address is None:
            address = self._addresses[host] = Address(host)
        party = address.parties.get(client_id)
        if party is None:
            party = address.parties[client_id] = Party(address, client_id)
        party.connections += 1
        return party

    def leave(self, party: Party) -> None:
        party.connections -= 1
        if party.connections:
            return
        address = party.address
        if address.parties.get(party.client_id) is party:
            del address.parties[party.client_id]
        if not address.parties and self._addresses.get(address.host) is address:
            del self._addresses[address.host]

    def spend(self, party: Party, seconds: float) -> None:
        """The party held the loop for `seconds`."""
        party.began_s = 0.0
        if not party.spent_s:
            self._spenders.append(party)
        party.spent_s += seconds
        party.address.spent_s += seconds
        self._spent_s += seconds
        if self._spent_s > UNCOUNTED_S:
            self._count(party)

    def _count(self, party: Party) -> None:
        """Check whether it has had its share; the next round gives it a new one."""
        if not self._round_due:
            self._next_round_soon()
        if party.spent_s > PARTY_S:
            party.over = True
        if party.address.spent_s > ADDRESS_S:
            party.address.over = True

    def wait(self, party: Party, go_on: Callable[[], bool]) -> None:
        """Call `go_on` when it is the party's turn. It returns whether its work runs later, in a task: the party then
        waits for the next round, as that work's time is not known yet."""
        party.waiting.append(go_on)
        if not party.is_in_line:
            party.is_in_line = True
            self._line.append(party)
        if not self._round_due:
            self._next_round_soon()

    async def turn(self, party: Party) -> None:
        """Give way; come back in the next round, or when it is the party's turn."""
        if not is_out_of_turn(party):
            await asyncio.sleep(0)
            return
        come: asyncio.Future[None] = self._loop.create_future()

        def go_on() -> bool:
            if come.done():
                return False
            come.set_result(None)
            return True

        self.wait(party, go_on)
        await come

    def _next_round_soon(self) -> None:
        self._round_due = True
        self._loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._round_due = False
        spenders, self._spenders = self._spenders, []
        self._spent_s = 0.0
        for party in spenders:
            party.spent_s = party.address.spent_s = 0.0
            party.over = party.address.over = False
        if self._line:
            self._serve()
            if not self._round_due:
                self._next_round_soon()

    def _serve(self) -> None:
        """Let parties in line go on, each until its share is used; one whose turn did not come is first the next time.
        Work that runs later counts as GIVE_WAY_S, after which a handler gives way."""
        ends_at = _now() + SERVE_S
        for _ in range(len(self._line)):
            party = self._line.popleft()
            later = False
            while party.waiting and not (later or party.over or party.address.over) and _now() < ends_at:
                try:
                    later = party.waiting.popleft()()
                except Exception:
                    logger.exception("a defect: a request does not go on. Please report it")
            if later:
                ends_at -= GIVE_WAY_S
            party.is_in_line = bool(party.waiting)
            if party.is_in_line:
                self._line.append(party)
            if _now() >= ends_at:
                return


class Stint:
    """The time since a handler last gave way."""

    __slots__ = ("_ends_at", "_party", "_turns")

    def __init__(self, turns: FairTurns, party: Party) -> None:
        self._turns = turns
        self._party = party
        self._ends_at = _now() + GIVE_WAY_S

    @property
    def is_over(self) -> bool:
        return _now() > self._ends_at

    async def give_way(self) -> None:
        await self._turns.turn(self._party)
        self._ends_at = _now() + GIVE_WAY_S
