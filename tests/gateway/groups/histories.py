"""What random histories of consumer and of streams groups have in common: clients that live, sleep and die; a table.

Clients own what they were told; `table` is what a restart would find.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from kio.schema.errors import ErrorCode

from gateway.groups.landing import Form
from gateway.refusals import Refusal
from tests.gateway.groups.reading import Reading

SESSION_MS: Final = 45_000
WHO: Final = st.integers(0, 5)


class Client(Protocol):
    """A well-behaved client of a group."""

    member_id: str
    epoch: int


class Driver(Protocol):
    """One group with its clock."""

    group: Any
    rules: Any
    now_s: float

    @property
    def now(self) -> Any: ...

    def beat(self, client: Any) -> object: ...

    def advance(self, seconds: float) -> None: ...


ClientT = TypeVar("ClientT", bound=Client)
DriverT = TypeVar("DriverT", bound=Driver)
Place: TypeAlias = tuple[Any, int]


class History(RuleBasedStateMachine, Generic[ClientT, DriverT]):
    """See the module. A subclass has the kind's own rules, and says what these are of its kind."""

    form: Form[Any, Any]
    driver: DriverT

    def __init__(self) -> None:
        super().__init__()
        self.clients: dict[str, ClientT] = {}
        self.table: dict[bytes, bytes] = {}
        self.names = 0
        self.reading: Reading[Place] = Reading(self.may_commit)

    # What a kind is

    def places(self, client: ClientT) -> Collection[Place]:
        """What a client reads."""
        raise NotImplementedError

    def may_commit(self, member_id: str, epoch: int, place: Place) -> ErrorCode:
        raise NotImplementedError

    def refused(self, client: ClientT, code: ErrorCode) -> None:
        """A client's heartbeat was refused: it does what clients do then."""
        raise NotImplementedError

    def facts(self) -> object:
        """All that a restart must keep."""
        raise NotImplementedError

    def begin_anew(self) -> DriverT:
        """A driver with a new group."""
        raise NotImplementedError

    def restore(self, rows: Mapping[bytes, bytes]) -> None:
        """Give the driver's group its stored rows."""
        raise NotImplementedError

    # What clients do

    @rule(who=WHO)
    def beat(self, who: int) -> None:
        if client := self.pick(who):
            self.beat_of(client)

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        if client := self.pick(who):
            del self.clients[client.member_id]

    @rule(who=WHO, count=st.integers(1, 3))
    def read_and_commit(self, who: int, count: int) -> None:
        if client := self.pick(who):
            self._commit(client, count)

    @rule(who=WHO)
    def fall_asleep(self, who: int) -> None:
        client = self.pick(who)
        if client is not None and client.epoch > 0:
            self.reading.fall_asleep(client.member_id, client.epoch, self.places(client))
            del self.clients[client.member_id]

    @rule()
    def awake(self) -> None:
        self.reading.awake()

    @rule()
    def go_on(self) -> None:
        """Time passes in which all clients that are awake beat, read and commit; sessions of the others end."""
        for _ in range(12):
            for client in list(self.clients.values()):
                self.beat_of(client)
            self.driver.advance(SESSION_MS / 1_000 / 10)
        for client in self.clients.values():
            self._commit(client, 1)

    @rule(who=WHO)
    def oversleep(self, who: int) -> None:
        """A client pauses for longer than its session: others go on with what it had, and then it commits."""
        self.go_on()
        self.fall_asleep(who)
        self.go_on()
        self.awake()

    # What time and disks do

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 5.0, 20.0, 46.0]))
    def wait(self, seconds: float) -> None:
        self.driver.advance(seconds)

    @rule()
    def store(self) -> None:
        for key in self.driver.group.changed:
            kept = self.form.row(self.driver.group, key)
            encoded = self.form.encode_key("g", key)
            if kept is None:
                self.table.pop(encoded, None)
            else:
                self.table[encoded] = kept.encode()
        self.driver.group.changed.clear()

    @rule()
    def restart(self) -> None:
        """Everything is stored, then the server is killed and started: nobody notices."""
        self.store()
        before = self.facts()
        self.driver.group.die()
        assert self.driver.rules.allowance.used == 0
        driver = self.begin_anew()
        driver.now_s = self.driver.now_s
        self.driver = driver
        if self.form.encode_key("g", self.form.head) in self.table:
            self.restore(self.table)
            assert self.facts() == before

    # Means

    def settle_alone(self) -> set[str]:
        """Left alone, all clients that are awake are members, and nobody else: their ids."""
        for _ in range(40):
            for client in list(self.clients.values()):
                self.beat_of(client)
            self.driver.advance(SESSION_MS / 1_000 / 9)
        live = {client.member_id for client in self.clients.values() if client.epoch > 0}
        assert set(self.driver.group.members) == live
        return live

    def pick(self, who: int) -> ClientT | None:
        clients = list(self.clients.values())
        return clients[who % len(clients)] if clients else None

    def beat_of(self, client: ClientT) -> None:
        try:
            self.driver.beat(client)
        except Refusal as refused:
            self.refused(client, refused.code)

    def _commit(self, client: ClientT, count: int) -> None:
        if client.epoch > 0:
            self.reading.read(client.member_id, client.epoch, self.places(client), count)
