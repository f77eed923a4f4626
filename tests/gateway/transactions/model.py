"""Two producers of one transactional id, one of another, and the coordinator, on a model of the log.

The state machine, the slots' transactions and the writers' sequences are the real ones. The model has what lies between
them: two containers with a log each, of which a crash takes what was not synced, and requests whose answers are lost.
Slot 0 lies in the home container, slot 1 there too or in the other one. The coordinator lies in the home container: the
other one asks it before a transaction begins there, and is told the outcome.

Every transaction has a tag, every value that it writes carries it; `Tag` is what its client knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, NamedTuple, TypeAlias

from kio.schema.errors import ErrorCode

from core.errors import SequenceGap, StaleWriterEpoch
from core.streams.transactions import SlotTransactions, overlapping
from core.streams.writers import Duplicate, WriterState, new_batch
from gateway.refusals import Refusal
from gateway.transactions.transaction import (
    EPOCH_MAX,
    PREPARED,
    Identity,
    Place,
    Transaction,
)

HOME, AWAY = 0, 1
ANSWERED: Final = -1
SLOTS: Final = (HOME, AWAY)
TIMEOUT_MS: Final = 60_000


class Value(NamedTuple):
    """A written batch: its writer, its transaction, its place."""

    client: str
    tag: int
    slot: int


@dataclass(frozen=True, slots=True)
class Data:
    slot: int
    writer: Identity
    sequence: int
    value: Value


@dataclass(frozen=True, slots=True)
class Mark:
    slot: int
    writer: Identity
    committed: bool


Change: TypeAlias = Data | Mark | Transaction
Step: TypeAlias = tuple[Change, ...]


class Request(NamedTuple):
    """A client's request without an answer yet."""

    kind: str  # init, recover, add, write, end
    slot: int = -1
    committed: bool = False
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """One transaction, as its client knows it."""

    written: frozenset[Value] = frozenset()  # acknowledged
    asked: bool | None = None  # to commit, or to abort
    is_ended: bool = False  # acknowledged


@dataclass(frozen=True, slots=True)
class Client:
    """One producer, which asks for one thing at a time."""

    name: str
    transactional_id: str
    bumps: bool  # transactions of version 2
    identity: Identity | None = None
    is_dead: bool = False
    tag: int = -1
    is_open: bool = False
    sequences: tuple[int, int] = (0, 0)
    added: frozenset[int] = frozenset()
    request: Request | None = None


class Waiting(NamedTuple):
    """The continuation when a log is durable up to a point."""

    log: int
    end: int
    what: str  # ack, append, mark, marked, complete
    transactional_id: str = ""
    client: str = ""
    identity: Identity | None = None
    data: Data | None = None  # of an append
    is_broken: bool = False  # the guard of an append


class Entry(NamedTuple):
    """An entry of a slot: a value, or the outcome that a marker tells."""

    writer_id: int
    content: Value | bool


class ModelSlot:
    """The state of a slot in memory."""

    def __init__(self) -> None:
        self.transactions = SlotTransactions()
        self.writers: dict[int, WriterState] = {}
        self.entries: list[Entry] = []
        self.durable_end = 0

    def copy(self) -> ModelSlot:
        made = ModelSlot()
        made.transactions.open = dict(self.transactions.open)
        made.transactions.unstable = dict(self.transactions.unstable)
        made.transactions.aborted = self.transactions.aborted[:]
        for writer_id, state in self.writers.items():
            twin = made.writers[writer_id] = WriterState(state.epoch, 0)
            twin.marked_epoch, twin.batches = state.marked_epoch, list(state.batches)
        made.entries = list(self.entries)
        made.durable_end = self.durable_end
        return made

    def append(self, change: Data | Mark) -> None:
        base = len(self.entries)
        if isinstance(change, Data):
            self.entries.append(Entry(change.writer.producer_id, change.value))
            self.transactions.began(change.writer.producer_id, base, 0)
            state = self.writers.setdefault(change.writer.producer_id, WriterState(change.writer.epoch, 0))
            state.record(new_batch(change.writer.epoch, change.sequence, base, 1, 0), 0, self.durable_end)
        else:
            self.entries.append(Entry(change.writer.producer_id, change.committed))

    def make_durable(self, change: Data | Mark) -> None:
        offset = self.durable_end
        self.durable_end += 1
        if isinstance(change, Mark):
            self.writers.setdefault(change.writer.producer_id, WriterState(0, 0)).marked(change.writer.epoch)
            first = next(f for f, u in self.transactions.unstable.items() if u.writer_id == change.writer.producer_id)
            self.transactions.ended(first, offset, committed=change.committed)

    def committed(self) -> list[Value]:
        """The records of a committed reader, in one fetch; the same as in a fetch for each offset."""
        end = min([self.durable_end, *self.transactions.unstable])
        values = list(self._fetched(0, end))
        assert values == [value for offset in range(end) for value in self._fetched(offset, offset + 1)]
        return values

    def _fetched(self, first: int, end: int) -> Iterator[Value]:
        """As Kafka's consumers go by the list of aborted transactions."""
        waiting = sorted((row.first, row.writer_id) for row in overlapping(self.transactions.aborted, first, end))
        skipped: set[int] = set()
        for offset in range(first, end):
            while waiting and waiting[0][0] <= offset:
                skipped.add(waiting.pop(0)[1])
            writer_id, content = self.entries[offset]
            if isinstance(content, bool):
                skipped.discard(writer_id)
            elif writer_id not in skipped:
                yield content


CLIENTS: Final = (Client("A", "a", bumps=True), Client("Z", "a", bumps=True), Client("B", "b", bumps=True))


class World:
    """Everything, between two events."""

    faults: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, clients: Sequence[Client] = CLIENTS, first_epoch: int = 0, containers: tuple[int, int] = (HOME, AWAY)
    ) -> None:
        self.containers = containers  # by slot
        self.first_epoch = first_epoch
        self.ids_given = 0
        self.logs: tuple[list[Step], list[Step]] = ([], [])
        self.durable = [0, 0]
        self.slots = [ModelSlot(), ModelSlot()]
        self.transactions: dict[str, Transaction] = {}
        self.waiting: list[Waiting] = []
        self.clients = {client.name: client for client in clients}
        self.tags: dict[tuple[str, int], Tag] = {}
        self.newest: dict[str, str] = {}  # by transactional id: the client that was initialised last
        self.crashes = 0
        self._seen: list[list[Value]] = [[], []]

    def __repr__(self) -> str:
        return f"<World of {len(self.clients)} clients, {self.durable} steps durable>"

    def copy(self) -> World:
        made = type(self)((), self.first_epoch, self.containers)
        made.ids_given = self.ids_given
        made.logs = (list(self.logs[HOME]), list(self.logs[AWAY]))
        made.durable, made.slots = list(self.durable), [slot.copy() for slot in self.slots]
        made.transactions, made.waiting = dict(self.transactions), list(self.waiting)
        made.clients, made.tags, made.newest = dict(self.clients), dict(self.tags), dict(self.newest)
        made.crashes, made._seen = self.crashes, [list(seen) for seen in self._seen]
        return made

    def key(self) -> object:
        """Equal for worlds that go on alike."""
        return (
            *(tuple(log) for log in self.logs),
            *self.durable,
            frozenset(self.transactions.items()),
            tuple(self.waiting),
            frozenset(self.clients.values()),
            frozenset(self.tags.items()),
            frozenset(self.newest.items()),
            self.crashes,
            self.ids_given,
        )

    # What can happen

    def events(self, *, crashes: int = 1, tags: int = 2, recovers: bool = False) -> Iterator[tuple[str, ...]]:
        """All that can happen now, as arguments of `happen`."""
        for client in self.clients.values():
            yield from self._events_of(client, tags)
            if recovers and client.request is None and client.identity is not None and not client.is_dead:
                yield ("recover", client.name)
        for log in (HOME, AWAY):
            if self.durable[log] < len(self.logs[log]) or any(w.log == log for w in self.waiting):
                yield ("sync", str(log))
        for number, waiting in enumerate(self.waiting):
            if waiting.log == ANSWERED:
                yield ("arrive", str(number))
        for name, known in self.transactions.items():
            if known.is_ongoing:
                yield ("timeout", name)
        if self.crashes < crashes:
            for kept_home in range(self.durable[HOME], len(self.logs[HOME]) + 1):
                for kept_away in range(self.durable[AWAY], len(self.logs[AWAY]) + 1):
                    yield ("crash", str(kept_home), str(kept_away))

    def _events_of(self, client: Client, tags: int) -> Iterator[tuple[str, ...]]:
        if client.is_dead:
            return
        if client.request is not None:
            yield ("lose" if client.request.is_sent else "send", client.name)
        elif client.identity is None:
            yield ("init", client.name)
        else:
            if client.is_open or client.tag + 1 < tags:
                values = self.tags[client.name, client.tag].written if client.is_open else ()
                for slot in SLOTS:
                    if not client.is_open or Value(client.name, client.tag, slot) not in values:
                        yield ("write", client.name, str(slot))
            if client.is_open:
                yield ("commit", client.name)
                yield ("abort", client.name)

    def happen(self, event: tuple[str, ...]) -> None:
        """Let one event happen, and check all invariants. Raises AssertionError."""
        kind, *arguments = event
        if kind == "sync":
            self.sync(int(arguments[0]))
        elif kind == "arrive":
            self._go_on_to_append(self.waiting.pop(int(arguments[0])))
        elif kind == "timeout":
            self._fence(self.transactions[arguments[0]])
        elif kind == "crash":
            self.crash(int(arguments[0]), int(arguments[1]))
        else:
            self._client_does(kind, self.clients[arguments[0]], int(arguments[1]) if len(arguments) > 1 else -1)
        self.check_now()

    def _client_does(self, kind: str, client: Client, slot: int) -> None:
        name = client.name
        if kind == "lose":  # the answer is lost, what was asked for goes on
            assert client.request is not None
            self.waiting = [w._replace(client="") if w.client == name else w for w in self.waiting]
            self.clients[name] = replace(client, request=client.request._replace(is_sent=False))
            return
        if kind in ("init", "recover"):
            client = replace(client, request=Request(kind))
            if client.is_open:
                self.tags[name, client.tag] = replace(self.tags[name, client.tag], asked=False)
        elif kind == "write":
            if not client.is_open:
                client = replace(client, tag=client.tag + 1, is_open=True, added=frozenset())
                self.tags[name, client.tag] = Tag()
            is_added = client.bumps or slot in client.added
            client = replace(client, request=Request("write" if is_added else "add", slot))
        elif kind in ("commit", "abort"):
            committed = kind == "commit"
            client = replace(client, request=Request("end", committed=committed))
            self.tags[name, client.tag] = replace(self.tags[name, client.tag], asked=committed)
        self.clients[name] = client
        self._send(name)

    # As gateway/transactions/coordinator.py, ending.py, participant.py and writes.py go about it

    def _send(self, name: str) -> None:
        """A client's request arrives: for the first time, or again."""
        client = self.clients[name]
        request = client.request
        assert request is not None
        self.clients[name] = replace(client, request=request._replace(is_sent=True))
        try:
            is_taken = self._handlers[request.kind](self, self.clients[name], request)
        except StaleWriterEpoch:
            is_taken = None
        except Refusal as refused:
            is_taken = False if refused.code is ErrorCode.concurrent_transactions else None
        if is_taken is None:
            self.clients[name] = replace(client, is_dead=True, request=None)
        elif not is_taken:
            self.clients[name] = replace(client, request=request._replace(is_sent=False))  # it tries again

    def _init(self, client: Client, request: Request) -> bool:
        known = self.transactions.get(client.transactional_id)
        if known is None:
            name = client.transactional_id
            following = Transaction(
                transactional_id=name,
                producer_id=self._new_id(),
                epoch=self.first_epoch,
                timeout_ms=TIMEOUT_MS,
                changed_ms=0,
            )
        else:
            expected = client.identity if request.kind == "recover" else None
            known.admit_init(expected)
            if known.is_ongoing:
                self._fence(known, remembers=expected is not None)
                return False
            following = known.initialised(TIMEOUT_MS, expected, self._new_id(known), 0)
        self._log(HOME, following)
        self._ack(HOME, client, following.identity)
        return True

    def _add(self, client: Client, request: Request) -> bool:
        known = self._known(client)
        known.admit(self._identity(client))
        place = _place(request.slot)
        if not known.holds([place], ()):
            self._log(HOME, known.adding([place], (), 0))
        self._ack(HOME, client)
        return True

    def _write(self, client: Client, request: Request) -> bool:
        identity, place = self._identity(client), _place(request.slot)
        if self.containers[request.slot] == AWAY:
            return self._write_away(client, request.slot)
        known = self._known(client)
        known.admit(identity)
        if client.bumps and not known.holds([place], ()):
            self._log(HOME, known.adding([place], (), 0))
        known = self._known(client)
        slot, sequence = self.slots[request.slot], client.sequences[request.slot]
        state = slot.writers.get(identity.producer_id)
        found = None if state is None else state.check(identity.producer_id, identity.epoch, sequence, 1)
        if not isinstance(found, Duplicate):
            known.admit(identity)
            if not (known.is_ongoing and place in known.partitions):
                raise Refusal(ErrorCode.invalid_txn_state)
            assert self.newest[client.transactional_id] == client.name, "a fenced producer wrote"
            value = Value(client.name, client.tag, request.slot)
            self._log(self.containers[request.slot], Data(request.slot, identity, sequence, value))
        self._ack(self.containers[request.slot], client)
        return True

    def _write_away(self, client: Client, number: int) -> bool:
        """The coordinator is asked before the transaction begins in that slot; then the slot knows by itself."""
        identity, place, slot = self._identity(client), _place(number), self.slots[number]
        data = Data(number, identity, client.sequences[number], Value(client.name, client.tag, number))
        state = slot.writers.get(identity.producer_id)
        is_open = identity.producer_id in slot.transactions.open and state is not None and state.epoch == identity.epoch
        if is_open:
            self._append_away(data, client.name)
            return True
        known = self._known(client)
        known.admit(identity)
        if not known.holds([place], ()):
            if not client.bumps:
                raise Refusal(ErrorCode.invalid_txn_state)
            self._log(HOME, known.adding([place], (), 0))
        if "the coordinator's log is not waited for" in self.faults:
            self._append_away(data, client.name)
        else:
            self.waiting.append(
                Waiting(HOME, len(self.logs[HOME]), "append", client.transactional_id, client.name, identity, data)
            )
        return True

    def _append_away(self, data: Data, client: str) -> None:
        """Raises StaleWriterEpoch."""
        state = self.slots[data.slot].writers.get(data.writer.producer_id)
        found = None if state is None else state.check(*data.writer, data.sequence, 1)
        if not isinstance(found, Duplicate):
            self._log(AWAY, data)
        if client:
            self._ack(AWAY, self.clients[client])

    def _go_on_to_append(self, waiting: Waiting) -> None:
        """The coordinator has answered. A transaction that ended meanwhile must not begin again."""
        assert waiting.data is not None
        is_broken = waiting.is_broken and "the guard is forgotten" not in self.faults
        try:
            if is_broken:
                raise Refusal(ErrorCode.invalid_txn_state)
            self._append_away(waiting.data, waiting.client)
        except (Refusal, StaleWriterEpoch, SequenceGap):
            if waiting.client:
                client = self.clients[waiting.client]
                self.clients[waiting.client] = replace(client, is_dead=True, request=None)

    def _end(self, client: Client, request: Request) -> bool:
        known, identity = self._known(client), self._identity(client)
        if not known.admit_end(identity, committed=request.committed, bumps=client.bumps):
            self._ack(HOME, client, known.identity)
            return True
        following = known.bumped(self._new_id(known)) if client.bumps else known.identity
        prepared = known.ending(committed=request.committed, following=following, remembers=client.bumps, now_ms=0)
        self._carry_out(prepared, client.name)
        return True

    def _fence(self, known: Transaction, *, remembers: bool = False) -> None:
        self._carry_out(known.ending(committed=False, following=known.fenced(), remembers=remembers, now_ms=0))

    def _carry_out(self, prepared: Transaction, client: str = "") -> None:
        if not any(self.containers[place.stream_id] == AWAY for place in prepared.partitions):
            self._complete(prepared, client)
            return
        if "the outcome is not logged" in self.faults:
            self.transactions[prepared.transactional_id] = prepared
        else:
            self._log(HOME, prepared)
        self._wait(HOME, "mark", prepared.transactional_id, client)

    def _mark(self, prepared: Transaction) -> None:
        """The outcome is durable: each container ends the transaction by itself."""
        self.waiting = [
            w._replace(is_broken=True) if w.data is not None and w.data.writer[0] == prepared.producer_id else w
            for w in self.waiting
        ]
        for log in (AWAY, HOME):
            marks = self._marks(prepared, log)
            if marks and "a marker is forgotten" not in self.faults:
                self._log(log, *marks)
        self._wait(AWAY, "marked", prepared.transactional_id, "")

    def _complete(self, prepared: Transaction, client: str) -> None:
        completed = prepared.completed(0)
        if "the fence is forgotten" in self.faults and not prepared.remembers:
            completed = replace(completed, epoch=prepared.epoch)
        marks = self._marks(prepared, HOME)
        if "markers are a step of their own" in self.faults:
            for mark in marks:
                self._log(HOME, mark)
            marks = []
        self._log(HOME, *marks, completed)
        if client:
            self._ack(HOME, self.clients[client], completed.identity)

    def _marks(self, prepared: Transaction, container: int) -> list[Mark]:
        identity = Identity(prepared.producer_id, prepared.marker_epoch)
        slots = [place.stream_id for place in sorted(prepared.partitions)]
        return [
            Mark(slot, identity, prepared.is_committed)
            for slot in slots
            if self.containers[slot] == container and identity.producer_id in self.slots[slot].transactions.open
        ]

    _handlers: ClassVar = {"init": _init, "recover": _init, "add": _add, "write": _write, "end": _end}

    # The log

    def _log(self, log: int, *step: Change) -> None:
        """Append one step: memory is ahead of the log by the steps in flight."""
        self.logs[log].append(step)
        for change in step:
            self._appended(change)

    def _appended(self, change: Change) -> None:
        if isinstance(change, Transaction):
            self.transactions[change.transactional_id] = change
        else:
            if isinstance(change, Mark):
                self.slots[change.slot].transactions.ending(change.writer.producer_id)
            self.slots[change.slot].append(change)

    def _wait(self, log: int, what: str, transactional_id: str, client: str, identity: Identity | None = None) -> None:
        self.waiting.append(Waiting(log, len(self.logs[log]), what, transactional_id, client, identity))

    def _ack(self, log: int, client: Client, identity: Identity | None = None) -> None:
        self._wait(log, "ack", client.transactional_id, client.name, identity)

    def sync(self, log: int) -> None:
        """All of a log is durable; all its waiters go on."""
        for step in self.logs[log][self.durable[log] :]:
            for change in step:
                if not isinstance(change, Transaction):
                    self.slots[change.slot].make_durable(change)
        self.durable[log] = len(self.logs[log])
        due = [w for w in self.waiting if w.log == log]
        self.waiting = [w for w in self.waiting if w.log != log]
        for waiting in due:
            self._go_on(waiting)

    def _go_on(self, waiting: Waiting) -> None:
        if waiting.what == "ack":
            if waiting.client:
                self._acknowledged(self.clients[waiting.client], waiting.identity)
            return
        if waiting.what == "append":  # the answer of the coordinator is on its way
            self.waiting.append(waiting._replace(log=ANSWERED))
            return
        prepared = self.transactions[waiting.transactional_id]
        if waiting.what == "mark":
            if waiting.client:  # it is answered before the markers are written
                client = self.clients[waiting.client]
                following = prepared.next if client.bumps else client.identity
                self._acknowledged(client, following)
            self._mark(prepared)
        elif waiting.what == "marked":
            self._wait(HOME, "complete", waiting.transactional_id, "")
        else:
            self._complete(prepared, "")

    def _acknowledged(self, client: Client, identity: Identity | None) -> None:
        request = client.request
        assert request is not None
        client = replace(client, request=None)
        tag = (client.name, client.tag)
        assert identity is None or identity.epoch < EPOCH_MAX, "the last epoch is for fencing"
        if request.kind in ("init", "recover"):
            client = replace(client, identity=identity, is_open=False, sequences=(0, 0))
            self.newest[client.transactional_id] = client.name
        elif request.kind == "add":
            client = replace(client, added=client.added | {request.slot}, request=Request("write", request.slot))
        elif request.kind == "write":
            value = Value(*tag, request.slot)
            self.tags[tag] = replace(self.tags[tag], written=self.tags[tag].written | {value})
            sequences = [own + (slot == request.slot) for slot, own in enumerate(client.sequences)]
            client = replace(client, sequences=(sequences[0], sequences[1]))
        else:
            self.tags[tag] = replace(self.tags[tag], is_ended=True)
            sequences = (0, 0) if identity != client.identity else client.sequences
            client = replace(client, identity=identity, is_open=False, sequences=sequences)
        self.clients[client.name] = client

    def crash(self, *kept: int) -> None:
        """Both logs are cut to these numbers of steps, and another coordinator loads the rest."""
        self.crashes += 1
        for log, size in enumerate(kept):
            del self.logs[log][size:]
        self.slots, self.transactions, self.waiting = [ModelSlot(), ModelSlot()], {}, []
        for client in self.clients.values():
            if client.request is not None:
                self.clients[client.name] = replace(client, request=client.request._replace(is_sent=False))
        for log in (HOME, AWAY):
            self.durable[log] = 0
            for step in self.logs[log]:
                for change in step:
                    self._appended(change)
            self.sync(log)
        for known in list(self.transactions.values()):
            if known.state in PREPARED:
                self._mark(known)

    # What must hold

    def check_now(self) -> None:
        """Nothing is visible that is not committed, and visible records stay."""
        for slot, before in enumerate(self._seen):
            now = self.slots[slot].committed()
            assert now[: len(before)] == before, "what was read has changed"
            for value in now[len(before) :]:
                assert self.tags[value.client, value.tag].asked, f"{value} is visible and nobody has committed it"
            self._seen[slot] = now

    def check_settled(self) -> None:
        """When everybody leaves now, and time-outs have run: all or nothing of each transaction, and no hanging one."""
        world = self.copy()
        for client in world.clients.values():
            world.clients[client.name] = replace(client, is_dead=True)
        world.waiting = [w._replace(client="") for w in world.waiting]
        for _ in range(2):
            while any(world.durable[log] < len(world.logs[log]) for log in SLOTS) or world.waiting:
                world.sync(HOME)
                world.sync(AWAY)
                for waiting in [w for w in world.waiting if w.log == ANSWERED]:
                    world.waiting.remove(waiting)
                    world._go_on_to_append(waiting)
            for known in list(world.transactions.values()):
                if known.is_ongoing:
                    world._fence(known)
        assert not any(slot.transactions.unstable for slot in world.slots), "a transaction hangs"
        visible = {value for slot in world.slots for value in slot.committed()}
        for (client, number), tag in self.tags.items():
            seen = {value for value in visible if value[:2] == (client, number)}
            if not tag.asked:
                assert not seen, f"{seen} was not committed"
            elif tag.is_ended:
                assert seen == tag.written, f"of {set(tag.written)}, which are committed, there are {seen}"
            else:
                assert seen in (set(), tag.written), f"of {set(tag.written)} there are {seen}"

    # Small helpers

    def _new_id(self, known: Transaction | None = None) -> int:
        self.ids_given += known is None or known.is_exhausted
        return self.ids_given

    def _known(self, client: Client) -> Transaction:
        known = self.transactions.get(client.transactional_id)
        if known is None:
            raise Refusal(ErrorCode.invalid_producer_id_mapping)
        return known

    def _identity(self, client: Client) -> Identity:
        assert client.identity is not None
        return client.identity


def _place(slot: int) -> Place:
    return Place(slot, 0)
