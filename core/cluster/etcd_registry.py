"""The registry of a cluster of machines, in etcd: a copy in memory, which follows, and changes that compare.

A look-up reads the copy. A change is one transaction of a session (`core.cluster.etcd.session`), which compares what it
was made from, and is answered when the own copy has it. A change of a stream is put into the copy at etcd's answer: its
caller may have clients that wait, and the watch tells no more. The keys are in `core.cluster.etcd_keys`.

**Invariants**: see `core.cluster.registry`. Besides:

- A stream is changed only by whoever knew its present state; anybody else gets Stale, and can look again.
- Each change of settings compares its kind's last change, which one key names, and writes that key.
- A change that depends on claims is one transaction with them: an owner that was deposed unseen decides nothing.
- What was answered to anybody before a `look` begins is in the copy when it ends.
- CoordinatorAway leaves open whether a change was made; the copy shows it, sooner or later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from core.cluster.changes import Changes
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.session import Outcome, Session, newest
from core.cluster.etcd.wire import Compare, Delete, KeyValue, Put, Range, absent, same_life, unchanged
from core.cluster.etcd_keys import (
    CONTAINERS,
    DECIDED,
    EPOCH,
    NAMES,
    NEXT_STREAM,
    NEXT_WRITER,
    NODES,
    SETTINGS,
    STREAMS,
    alike_key,
    number_of,
    stream_key,
)
from core.cluster.etcd_values import owner_of
from core.cluster.registry import NOTHING_HELD, Decide, Held, NewStream, SettingChanges, Settings
from core.errors import (
    CoordinatorAway,
    CorruptState,
    NameCollides,
    NotHosted,
    Stale,
    StreamExists,
    UnknownStream,
)
from core.streams.state import REGISTRY_DECIDES, StreamState, decode_stream, new_stream

logger = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How long a look is tried."""
TRIES_MAX: Final = 50
"""How often a change is tried that others make at the same time, of a counter or of one kind of settings. Each time at
least one of them gets on; of settings each process has one change of a kind on its way."""
PAUSE_S_MAX: Final = 0.05
TAKEN_MAX: Final = 100
"""The most streams that are decoded in one turn of the loop, at some 50 microseconds each."""


_TAKEN_OVER: Final = (STREAMS, SETTINGS, NEXT_STREAM, NODES, CONTAINERS)


@dataclass(frozen=True, slots=True)
class _Known:
    """A stream, and its key as it was read from."""

    state: StreamState
    row: KeyValue


class EtcdRegistry:
    """See the module. Make it with `open`; it ends with the mirror and the session that it was given."""

    def __init__(self, client: EtcdClient, mirror: Mirror, session: Session) -> None:
        self._client = client
        self._mirror = mirror
        self._session = session
        self._streams: dict[int, _Known] = {}
        self._settings: dict[str, dict[bytes, bytes]] = {}
        self._next_stream = 1
        self._touched: dict[bytes, None] = dict.fromkeys(mirror.values)  # keys to take over from the mirror, in order
        self._looking = asyncio.Lock()
        self._deciding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by kind, which the code names
        self._unreported = Changes()
        self.changed = asyncio.Event()
        """Set while there are changes that `look` has not returned yet."""
        mirror.on_changed(self._touch)

    def __repr__(self) -> str:
        return f"<EtcdRegistry {self._mirror.prefix!r} {len(self._streams)} streams>"

    @classmethod
    async def open(cls, client: EtcdClient, mirror: Mirror, session: Session) -> Self:
        """The registry below the mirror's prefix. Raises CoordinatorAway, CoordinatorRefuses, CorruptState."""
        registry = cls(client, mirror, session)
        await registry.look()
        return registry

    # The copy

    def streams(self) -> Iterable[StreamState]:
        return [known.state for known in self._streams.values()]

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of that id, as the copy has it."""
        known = self._streams.get(stream_id)
        return None if known is None else known.state

    def was_given(self, stream_id: int) -> bool:
        return stream_id < self._next_stream

    def settings(self, kind: str) -> Settings:
        return self._settings.get(kind, {})

    async def look(self) -> Changes:
        """Take over what is decided by now; returns all changes since the last look. Raises CoordinatorAway."""
        async with self._looking:
            await self._catch_up()
            changes, self._unreported = self._unreported, Changes()
            self.changed.clear()
            if self._touched:
                self.changed.set()
            return changes

    def _touch(self, changes: Sequence[Change]) -> None:
        touched = dict.fromkeys(change.key for change in changes if change.key.startswith(_TAKEN_OVER))
        if touched:
            self._touched |= touched
            self.changed.set()

    async def _catch_up(self) -> None:
        await self._mirror.reached(await newest(self._client, self._mirror.prefix, LOOK_S), LOOK_S)
        await self._take_over()

    async def _take_over(self) -> None:
        """Take over what the mirror has, some in each turn of the loop. A call that is cancelled reports its part."""
        changes, taken = Changes(), 0
        try:
            while self._touched:
                key = next(iter(self._touched))
                del self._touched[key]
                self._take(key, self._mirror.values.get(key), changes)
                taken += 1
                if taken % TAKEN_MAX == 0:
                    await asyncio.sleep(0)
        finally:
            self._unreported.extend(changes)
            if self._unreported:
                self.changed.set()

    def _take(self, key: bytes, row: KeyValue | None, changes: Changes) -> None:
        if key.startswith(STREAMS):
            self._take_stream(key, row, changes)
        elif key.startswith(SETTINGS):
            kind, _, name = key[len(SETTINGS) :].partition(b"/")
            self._take_setting(kind.decode(errors="replace"), name, row, changes)
        elif key == NEXT_STREAM:
            self._next_stream = number_of(row, 1)
        elif key.startswith((NODES, CONTAINERS)):
            changes.nodes = True

    def _take_stream(self, key: bytes, row: KeyValue | None, changes: Changes) -> None:
        try:
            stream_id = int(key[len(STREAMS) :], 16)
            state = None if row is None else decode_stream(row.value)
        except (ValueError, CorruptState) as error:
            logger.error("a stream in etcd cannot be read and stays as it was here", extra={"reason": str(error)})
            return
        known = self._streams.get(stream_id)
        if state is None or row is None:
            if known is not None:
                changes.deleted.append(self._streams.pop(stream_id).state)
        elif known is None or known.row.revision < row.revision:
            self._streams[stream_id] = _Known(state, row)
            changes.streams.append(state)

    def _take_setting(self, kind: str, name: bytes, row: KeyValue | None, changes: Changes) -> None:
        of_kind = self._settings.setdefault(kind, {})
        if row is None:
            of_kind.pop(name, None)
        else:
            of_kind[name] = row.value
        changes.kinds.add(kind)

    # Changes

    async def create(self, wanted: NewStream) -> StreamState:
        name_key, counter_key = self._key(NAMES + wanted.name.encode()), self._key(NEXT_STREAM)
        alike_of_it = self._key(alike_key(wanted.name))
        counter = self._mirror.values.get(NEXT_STREAM)
        for _ in range(TRIES_MAX):
            stream_id = number_of(counter, 1)
            value = _new_state(wanted, stream_id).encode()
            outcome = await self._changed(
                (absent(name_key), absent(alike_of_it), unchanged(counter, counter_key)),
                (
                    Put(name_key, b"%d" % stream_id),
                    Put(alike_of_it, wanted.name.encode()),
                    Put(counter_key, b"%d" % (stream_id + 1)),
                    Put(self._key(stream_key(stream_id)), value),
                ),
                (Range(name_key), Range(alike_of_it), Range(counter_key)),
            )
            if outcome.succeeded:
                return decode_stream(value)
            same, looks_like_it, counters = outcome.found
            if same:
                raise StreamExists(wanted.name)
            if looks_like_it:
                raise NameCollides(wanted.name, looks_like_it[0].value.decode(errors="replace"))
            counter = next(iter(counters), None)
            await _step_aside()
        raise CoordinatorAway(f"stream {wanted.name!r} was not created: others were faster {TRIES_MAX} times")

    async def change(self, state: StreamState, held: Held = NOTHING_HELD) -> None:
        known = self._streams.get(state.id)
        if known is None:
            raise UnknownStream(state.name)
        if state.revision != known.state.revision + 1:  # made from a state that the copy has left behind since
            raise Stale(state.name)
        key, value = self._key(stream_key(state.id)), state.encode()
        compares = unchanged(known.row, key), *self._still(held)
        outcome = await self._session.change(compares, (Put(key, value),))
        if outcome.succeeded:
            self._take_own(KeyValue(key, value, known.row.created, outcome.revision), state)
            return
        async with self._looking:
            await self._catch_up()
        self._still(held)
        raise Stale(state.name)

    def _take_own(self, row: KeyValue, state: StreamState) -> None:
        """Know a change of ours, unless the watch has told of it, or of later ones, already."""
        known = self._streams.get(state.id)
        if known is not None and known.row.revision < row.revision:
            self._streams[state.id] = _Known(state, row)
            self._unreported.extend(Changes(streams=[state]))
            self.changed.set()

    def _still(self, held: Held) -> list[Compare]:
        """That these containers have the claims that they have by the mirror. Raises NotHosted if those are others."""
        found: list[Compare] = []
        for container, epoch in held.items():
            row = self._mirror.values.get(b"%s%d" % (CONTAINERS, container))
            owner = None if row is None else owner_of(row)
            if owner is None or owner.epoch != epoch:
                raise NotHosted(container)
            found.append(unchanged(row, self._key(b"%s%d" % (CONTAINERS, container))))
        return found

    async def delete(self, state: StreamState) -> None:
        known = self._streams.get(state.id)
        if known is None:
            raise UnknownStream(state.name)
        names = NAMES + state.name.encode(), alike_key(state.name)
        gone = [Delete(self._key(key)) for key in (stream_key(state.id), *names)]
        if not (await self._changed((same_life(known.row),), gone)).succeeded:
            raise UnknownStream(state.name)

    async def change_settings(self, kind: str, decide: Decide) -> SettingChanges:
        below, mark = SETTINGS + kind.encode() + b"/", DECIDED + kind.encode()
        async with self._deciding[kind]:  # so only other processes come between
            for _ in range(TRIES_MAX):
                async with self._looking:
                    await self._catch_up()  # a decision against the change needs it as well
                    last, changes = self._mirror.values.get(mark), decide(self.settings(kind))
                if not changes:
                    return changes
                keys = ((self._key(below + key), value) for key, value in changes.items())
                made = [Delete(key) if value is None else Put(key, value) for key, value in keys]
                compares = (unchanged(last, self._key(mark)),)
                if (await self._changed(compares, [*made, Put(self._key(mark), b"")])).succeeded:
                    # A look meanwhile may have told of this change and of others' later ones: the caller is behind.
                    self._unreported.kinds.add(kind)
                    self.changed.set()
                    return changes
                await _step_aside()
        raise Stale(kind)

    async def take_writer_ids(self, count: int) -> range:
        first = await self._count(NEXT_WRITER, count, 0)
        return range(first, first + count)

    async def next_epoch(self) -> int:
        return await self._count(EPOCH, 1, 0) + 1

    async def _changed(
        self, compares: Sequence[Compare], changes: Sequence[Put | Delete], otherwise: Sequence[Range] = ()
    ) -> Outcome:
        """Make a change, or not, and take over its effect, or what was in its way."""
        outcome = await self._session.change(compares, changes, otherwise)
        async with self._looking:
            if outcome.succeeded:
                await self._mirror.reached(outcome.revision)
                await self._take_over()
            else:
                await self._catch_up()
        return outcome

    async def _count(self, name: bytes, more: int, first: int) -> int:
        """Raise a counter; returns what it was."""
        key, counter = self._key(name), self._mirror.values.get(name)
        for _ in range(TRIES_MAX):
            before = number_of(counter, first)
            raised = (Put(key, b"%d" % (before + more)),)
            outcome = await self._session.change((unchanged(counter, key),), raised, (Range(key),))
            if outcome.succeeded:
                return before
            counter = next(iter(outcome.found[0]), None)
            await _step_aside()
        raise CoordinatorAway(f"{name.decode()} was not counted up: others were faster {TRIES_MAX} times")

    def _key(self, key: bytes) -> bytes:
        return self._mirror.prefix + key


def _new_state(wanted: NewStream, stream_id: int) -> StreamState:
    return new_stream(
        stream_id=stream_id,
        name=wanted.name,
        uuid=wanted.uuid,
        slots=wanted.slots,
        created_ms=wanted.created_ms,
        container=REGISTRY_DECIDES,
        config=wanted.config,
        segments=wanted.segments,
        placement=wanted.placement,
    )


async def _step_aside() -> None:
    await asyncio.sleep(random.uniform(0, PAUSE_S_MAX))
