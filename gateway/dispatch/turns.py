"""Who holds the event loop, for how long, and who goes next.

A *turn* is what one request does without giving the loop away: the call of a handler, or one step of a
handler's task. A *party* is what shares one address and one client id, however many connections it has.
In one round of the loop a party gets PARTY_S of turns and an address ADDRESS_S; beyond that its requests
wait in line, and parties in line go on one after the other, SERVE_S in each round.

Keeps: a party that has had little of a round is never kept waiting by one that had much. A party alone
loses nothing: the next round begins at once. What waits is bounded by the connections' own bounds.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.metrics.counters import HELD_S

if TYPE_CHECKING:
    from gateway.dispatch.dispatcher import Route
    from gateway.network.connection import Connection

logger = logging.getLogger(__name__)

PARTY_S: Final = 0.008
ADDRESS_S: Final = 0.030
SERVE_S: Final = 0.008
"""What those in line get of one round. An answer takes some four rounds: together these must stay far below what a
waiting client notices."""
GIVE_WAY_S: Final = 0.008
"""A handler with much to do lets others in after so long."""

_now: Final = time.perf_counter


class Address:
    """One peer address and what its parties had of this round."""

    __slots__ = ("host", "over", "parties", "spent_s")

    def __init__(self, host: str) -> None:
        self.host = host
        self.parties: dict[str | None, Party] = {}
        self.spent_s = 0.0
        self.over = False


class Party:
    """The connections of one address with one client id."""

    __slots__ = ("address", "client_id", "connections", "is_in_line", "over", "spent_s", "waiting")

    def __init__(self, address: Address, client_id: str | None) -> None:
        self.address = address
        self.client_id = client_id
        self.connections = 0
        self.spent_s = 0.0
        self.over = False
        """Has had its share of this round."""
        self.waiting: deque[Callable[[], bool]] = deque()
        self.is_in_line = False

    def __repr__(self) -> str:
        return f"<Party {self.address.host} {self.client_id!r}, {self.connections} connections>"


def is_out_of_turn(party: Party) -> bool:
    """Has it had its share, or are requests of it in line already? Those of a party go on in their order."""
    return party.over or party.address.over or bool(party.waiting)


class FairTurns:
    """See the module. One for a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._addresses: dict[str, Address] = {}
        self._spenders: list[Party] = []
        self._line: deque[Party] = deque()
        self._round_due = False

    def __repr__(self) -> str:
        return f"<FairTurns {len(self._addresses)} addresses, {len(self._line)} parties in line>"

    @property
    def parties_waiting(self) -> int:
        return len(self._line)

    def join(self, host: str, client_id: str | None) -> Party:
        """One connection more of this party; `leave` ends it."""
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
        """The party held the loop for so long."""
        if not party.spent_s:
            self._spenders.append(party)
            if not self._round_due:
                self._next_round_soon()
        party.spent_s += seconds
        address = party.address
        address.spent_s += seconds
        if party.spent_s > PARTY_S:
            party.over = True
        if address.spent_s > ADDRESS_S:
            address.over = True

    def wait(self, party: Party, go_on: Callable[[], bool]) -> None:
        """Call `go_on` when it is the party's turn. It says whether what it began runs only later, in a task: the
        party then waits for the next round, as nobody knows yet how long that takes."""
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
        for party in spenders:
            party.spent_s = party.address.spent_s = 0.0
            party.over = party.address.over = False
        if self._line:
            self._serve()
            if not self._round_due:
                self._next_round_soon()

    def _serve(self) -> None:
        """Let those in line go on, each until its share is used; a party whose turn did not come is first the next
        time. What runs later counts as GIVE_WAY_S, after which a handler gives way."""
        ends_at = _now() + SERVE_S
        for _ in range(len(self._line)):
            party = self._line.popleft()
            later = False
            while party.waiting and not (later or party.over or party.address.over) and _now() < ends_at:
                later = party.waiting.popleft()()
            if later:
                ends_at -= GIVE_WAY_S
            party.is_in_line = bool(party.waiting)
            if party.is_in_line:
                self._line.append(party)
            if _now() >= ends_at:
                return


class Pace:
    """How long a handler has kept the loop since it last gave way."""

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


def took(connection: "Connection", route: "Route", seconds: float, size: int) -> None:
    """A request of this connection, `size` bytes long, held the loop for so long."""
    connection.turns.spend(connection.party, seconds)
    counters = route.turn
    if seconds > counters.longest_s:
        counters.longest_s = seconds
    if seconds > HELD_S:
        counters.held += 1
        logger.warning(
            "one request held the event loop",
            extra={
                "api": f"{route.name} v{route.version}",
                "ms": round(seconds * 1000),
                "client": connection.client_id,
                "peer": f"{connection.peer_host}:{connection.peer_port}",
                "request_bytes": size,
            },
        )
