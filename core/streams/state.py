"""Streams: name, slots, configuration, and the history of their epochs. Pure state and its encoding.

An epoch is one cut of the key space into active segments. A scale seals neighbouring segments, opens others over the
same slots and so begins the next epoch; the other segments go on. Growing a stream is a scale as well: it seals every
segment, and the next epoch has more slots; slots keep their numbers, sequence numbers and state.

**Invariants**

- The segments of an epoch are runs of slots in key order that cover all slots once.
- Epochs and segment numbers only grow: a segment's number is never used again, so it is the segment's id in its stream.
- A segment's slots never change, save that it is sealed when the stream grows.
- A stream's id is never used again. What is sealed stays sealed, segment or stream.

A stream's value in table ``streams`` (key: its id, u32 big-endian) is a JSON object, version 1:
``{"v", "id", "name", "uuid", "slots", "created_ms", "container", "config": {key: value}, "sealed_ms"?,
"epochs": [{"epoch", "started_ms", "reason", "slots", "segments": [[number, first, last], …]}, …]}``; first and last
are positions in key order among that epoch's slots, last exclusive. `segments` has those that the epoch opened (the
first that is listed: all); of those before, what overlaps none of them goes on. An epoch that sealed some has
``"sealed": [[number, bytes appended to it], …]`` as well. `sealed_ms` is there once the stream takes no more entries.
"""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from core.errors import CorruptState, StreamSealed
from core.streams.keyspace import KeyRange, covers, position_of_slot, run_range, slot_at_position

if TYPE_CHECKING:
    from core.streams.live import Slot

STATE_VERSION: Final = 1
EPOCHS_MAX: Final = 10_000
"""Epochs that a stream remembers, a hundred bytes each in every record of its state; older ones are forgotten. One
scale every ten minutes, the scaler's own pace, takes ten weeks to get there."""

NAMED_MAX: Final = 20
"""Segments that a reason or a message names: reasons are kept, in every record of the state."""


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """One segment of an epoch: slots at positions `first` to `last` - 1 in key order."""

    number: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """One cut of a stream's key space."""

    epoch: int
    started_ms: int
    reason: str
    slots: int
    segments: tuple[SegmentRun, ...]  # in key order
    opened: tuple[SegmentRun, ...]  # of these, the ones that this epoch began with
    sealed_bytes: tuple[tuple[int, int], ...] = ()  # number and size of those that ended with the epoch before
    encoded: str = field(init=False, repr=False, compare=False)  # once for all: a state holds thousands of epochs

    def __post_init__(self) -> None:
        if not covers([(s.first, s.last) for s in self.segments], self.slots):
            raise ValueError(f"segments of epoch {self.epoch} do not cover {self.slots} slots")
        fields: dict[str, object] = {
            "epoch": self.epoch,
            "started_ms": self.started_ms,
            "reason": self.reason,
            "slots": self.slots,
            "segments": [[run.number, run.first, run.last] for run in self.opened],
        }
        if self.sealed_bytes:
            fields["sealed"] = self.sealed_bytes
        object.__setattr__(self, "encoded", json.dumps(fields, separators=(",", ":")))

    def segment_id(self, run: SegmentRun) -> int:
        """Unique in the stream for ever."""
        return run.number

    def key_range(self, run: SegmentRun) -> KeyRange:
        return run_range(run.first, run.last, self.slots)

    def run(self, number: int) -> SegmentRun:
        """The segment of that number. Raises ValueError when it is not one of this epoch's."""
        found = next((run for run in self.segments if run.number == number), None)
        if found is None:
            raise ValueError(
                f"segment {number} is not active; active are {numbers([run.number for run in self.segments])}"
            )
        return found

    def runs(self, wanted: Collection[int]) -> list[SegmentRun]:
        """The segments of these numbers, each once. Raises ValueError as `run` does."""
        active = {run.number: run for run in self.segments}
        return [active.get(number) or self.run(number) for number in set(wanted)]

    def run_at(self, position: int) -> SegmentRun:
        """The segment that owns the slot at a position in key order."""
        low, high = 0, len(self.segments)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self.segments[middle].first <= position else (low, middle)
        return self.segments[low]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """All that the log says of a stream; a change makes a new one."""

    id: int
    name: str
    uuid: UUID
    slots: int
    created_ms: int
    container: int
    config: Mapping[str, str]
    epochs: tuple[Epoch, ...]
    sealed_ms: int | None = None  # since when it takes no more entries

    @property
    def current(self) -> Epoch:
        return self.epochs[-1]

    @property
    def is_sealed(self) -> bool:
        return self.sealed_ms is not None

    def grown(self, slots: int, now_ms: int) -> StreamState:
        """The stream with more slots, cut where it was cut: the next epoch.

        Raises StreamSealed, ValueError when that is no growth.
        """
        self._check_open()
        if slots <= self.slots:
            raise ValueError(f"stream {self.name!r} has {self.slots} slots and cannot be made to have {slots}")
        number = self._next_number()
        old = self.current.segments
        cuts = [run.first * slots // self.slots for run in old] + [slots]
        opened = tuple(SegmentRun(number + n, *cut) for n, cut in enumerate(pairwise(cuts)))
        return self._next(now_ms, f"grown from {self.slots} to {slots} slots", slots, opened, opened)

    def scaled(self, sealed: Collection[int], cuts: Collection[int], now_ms: int, reason: str) -> StreamState:
        """The stream with some neighbouring segments sealed, and others over their slots, cut at the positions `cuts`.

        One segment and a cut is a split, several and no cut a merge.
        Raises StreamSealed, ValueError for anything that is no scale.
        """
        self._check_open()
        current = self.current
        old = sorted(current.runs(sealed), key=lambda run: run.first)
        if not old:
            raise ValueError("a scale seals at least one segment")
        for left, right in pairwise(old):
            if left.last != right.first:
                raise ValueError(f"segments {left.number} and {right.number} are not neighbours")
        first, last = old[0].first, old[-1].last
        places = [first, *sorted(set(cuts)), last]
        if any(not first < cut < last for cut in places[1:-1]):
            raise ValueError(f"cuts lie between {first} and {last} in key order, not at {sorted(set(cuts))}")
        if [run.first for run in old] == places[:-1]:
            raise ValueError(f"segments {numbers([run.number for run in old])} are cut like that already")
        number = self._next_number()
        opened = tuple(SegmentRun(number + n, *cut) for n, cut in enumerate(pairwise(places)))
        return self._next(now_ms, reason, self.slots, _continued(current.segments, opened), opened)

    def sealed_at(self, now_ms: int) -> StreamState:
        """The stream without an end to be appended to. Raises StreamSealed when it is."""
        self._check_open()
        return replace(self, sealed_ms=now_ms)

    def configured(self, config: Mapping[str, str]) -> StreamState:
        """The stream with other configuration."""
        return replace(self, config=dict(config))

    def measured(self, sealed_bytes: Mapping[int, int]) -> StreamState:
        """The stream with the sizes of the segments that the newest epoch sealed."""
        newest = replace(self.current, sealed_bytes=tuple(sorted(sealed_bytes.items())))
        return replace(self, epochs=(*self.epochs[:-1], newest))

    def successors(self, number: int) -> tuple[int, ...]:
        """The segments that took over a segment's key range when it was sealed; none while it is active."""
        for before, after in pairwise(self.epochs):
            run = next((run for run in before.segments if run.number == number), None)
            if run is not None and run not in _kept(after):
                return tuple(other.number for other in after.opened if _overlap(run, before, other, after))
        return ()

    def predecessors(self, number: int) -> tuple[int, ...]:
        """The segments whose key ranges a segment took over when it was opened; none for one of the first epoch."""
        for before, after in pairwise(self.epochs):
            run = next((run for run in after.opened if run.number == number), None)
            if run is not None:
                return tuple(other.number for other in before.segments if _overlap(run, after, other, before))
        return ()

    def encode(self) -> bytes:
        """The value of table ``streams``."""
        fields = {
            "v": STATE_VERSION,
            "id": self.id,
            "name": self.name,
            "uuid": self.uuid.hex,
            "slots": self.slots,
            "created_ms": self.created_ms,
            "container": self.container,
            "config": dict(self.config),
        }
        if self.sealed_ms is not None:
            fields["sealed_ms"] = self.sealed_ms
        head = json.dumps(fields, separators=(",", ":")).removesuffix("}")
        epochs = ",".join(epoch.encoded for epoch in self.epochs)
        return f'{head},"epochs":[{epochs}]}}'.encode()

    def _check_open(self) -> None:
        if self.is_sealed:
            raise StreamSealed(self.name)

    def _next_number(self) -> int:
        return max(run.number for run in self.current.segments) + 1  # the newest epoch opened the newest segments

    def _next(
        self, now_ms: int, reason: str, slots: int, segments: tuple[SegmentRun, ...], opened: tuple[SegmentRun, ...]
    ) -> StreamState:
        epoch = Epoch(self.current.epoch + 1, now_ms, reason, slots, segments, opened)
        epochs = (*self.epochs, epoch)
        if len(epochs) > EPOCHS_MAX:
            oldest = epochs[1]
            epochs = (replace(oldest, opened=oldest.segments), *epochs[2:])
        return replace(self, slots=slots, epochs=epochs)


def numbers(segments: Sequence[int]) -> str:
    """Segments as a sentence names them: the first `NAMED_MAX`, and how many more."""
    named = ", ".join(map(str, segments[:NAMED_MAX]))
    return named if len(segments) <= NAMED_MAX else f"{named} and {len(segments) - NAMED_MAX} more"


def _continued(before: Sequence[SegmentRun], opened: Sequence[SegmentRun]) -> tuple[SegmentRun, ...]:
    """An epoch's segments in key order: the opened ones, and those before that overlap none of them."""
    first, last = min(run.first for run in opened), max(run.last for run in opened)
    kept = [run for run in before if run.last <= first or last <= run.first]
    return tuple(sorted((*kept, *opened), key=lambda run: run.first))


def _kept(epoch: Epoch) -> set[SegmentRun]:
    return set(epoch.segments) - set(epoch.opened)


def _overlap(one: SegmentRun, its: Epoch, other: SegmentRun, others: Epoch) -> bool:
    """Whether two segments share a part of the key space."""
    return one.first * others.slots < other.last * its.slots and other.first * its.slots < one.last * others.slots


def new_stream(
    *,
    stream_id: int,
    name: str,
    uuid: UUID,
    slots: int,
    created_ms: int,
    container: int,
    config: Mapping[str, str],
    segments: int = 1,
) -> StreamState:
    """A stream in its first epoch: its slots in so many segments, as far as there are slots for them."""
    count = max(1, min(segments, slots))
    runs = tuple(SegmentRun(n, slots * n // count, slots * (n + 1) // count) for n in range(count))
    first = Epoch(0, created_ms, "created", slots, runs, runs)
    return StreamState(
        id=stream_id,
        name=name,
        uuid=uuid,
        slots=slots,
        created_ms=created_ms,
        container=container,
        config=dict(config),
        epochs=(first,),
    )


def decode_stream(value: bytes) -> StreamState:
    """Read a value of table ``streams``. Raises CorruptState."""
    try:
        fields: dict[str, Any] = json.loads(value)
        if fields["v"] != STATE_VERSION:
            raise CorruptState(f"stream state version {fields['v']} is newer than this release")
        return StreamState(
            id=fields["id"],
            name=fields["name"],
            uuid=UUID(hex=fields["uuid"]),
            slots=fields["slots"],
            created_ms=fields["created_ms"],
            container=fields["container"],
            config=fields["config"],
            epochs=tuple(_decode_epochs(fields["epochs"])),
            sealed_ms=fields.get("sealed_ms"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"a stream's state cannot be read: {error!r}") from error


def _decode_epochs(rows: Sequence[Mapping[str, Any]]) -> Iterator[Epoch]:
    before: tuple[SegmentRun, ...] = ()
    for row in rows:
        opened = tuple(SegmentRun(*run) for run in row["segments"])
        before = _continued(before, opened)
        sealed = tuple((number, size) for number, size in row.get("sealed", ()))
        yield Epoch(row["epoch"], row["started_ms"], row["reason"], row["slots"], before, opened, sealed)


class ScalingKind(enum.Enum):
    """What a stream's scaling goes by."""

    FIXED = "fixed"  # nothing: it has the segments that it has, or `min_segments`
    BYTES = "bytes"
    EVENTS = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """When a stream's segments split and merge."""

    kind: ScalingKind = ScalingKind.FIXED
    target_rate: float = 8 * 2**20  # per segment and second, bytes or events
    factor: int = 4  # into how many pieces at most one split cuts
    min_segments: int = 1

    def __post_init__(self) -> None:
        if self.target_rate <= 0 or self.factor < 2 or self.min_segments < 1:
            raise ValueError(f"{self} makes no sense")


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """What the store itself does with a stream's entries; -1 means without limit."""

    retention_ms: int = -1
    retention_bytes: int = -1  # per slot
    delete: bool = True  # entries leave by time and size, and when all of `consumers` are behind them

    consumers: tuple[str, ...] = ()  # whose progress lets entries leave early; what they are, the gateway knows
    keep_ms: int = -1  # entries younger than this stay, however far the consumers are
    keep_bytes: int = -1  # per slot: as much stays, however far the consumers are

    compact: bool = False  # the last entry per key stays
    min_dirty_ratio: float = 0.5
    min_lag_ms: int = 0  # how long entries stay as they are
    max_lag_ms: int = 2**63 - 1  # how long they stay uncompacted
    tombstone_ms: int = 86_400_000

    scaling: ScalingPolicy = ScalingPolicy()


class Stream:
    """A live stream: its state, its slots as they are written, and what the gateway keeps beside it."""

    __slots__ = ("_make_slot", "_slots", "changing", "deleted", "extension", "is_sealed", "logged", "policy", "state")

    def __init__(self, state: StreamState, policy: StreamPolicy, make_slot: Callable[[Stream, int], Slot]) -> None:
        self.state = state
        self.logged = state  # the newest that the log was given: what appends go by
        self.is_sealed = state.is_sealed  # of `logged`: it takes no more entries
        self.policy = policy
        self.deleted = False
        self.changing = asyncio.Lock()  # held while a change of the state is on its way to the log
        self.extension: Any = None
        self._slots: dict[int, Slot] = {}
        self._make_slot = make_slot

    def __repr__(self) -> str:
        return f"<Stream {self.state.id} {self.name!r} {self.slot_count} slots{' deleted' if self.deleted else ''}>"

    @property
    def id(self) -> int:
        return self.state.id

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def uuid(self) -> UUID:
        return self.state.uuid

    @property
    def slot_count(self) -> int:
        return self.state.slots

    @property
    def config(self) -> Mapping[str, str]:
        return self.state.config

    @property
    def created_ms(self) -> int:
        return self.state.created_ms

    def slot(self, number: int) -> Slot:
        """The slot of that number. Raises IndexError when the stream has no such slot."""
        found = self._slots.get(number)
        if found is not None:
            return found
        if not 0 <= number < self.state.slots:
            raise IndexError(f"stream {self.name!r} has no slot {number}")
        made = self._slots[number] = self._make_slot(self, number)
        return made

    def known_slot(self, number: int) -> Slot | None:
        """The slot of that number, if it was ever written or asked for."""
        return self._slots.get(number)

    def written_slots(self) -> Iterator[Slot]:
        """The slots that memory holds: each one that was ever written or asked for."""
        return iter(self._slots.values())

    def segment_bytes(self, run: SegmentRun) -> int:
        """What was appended to an active segment."""
        slots = (self.known_slot(slot_at_position(place, self.slot_count)) for place in range(run.first, run.last))
        return sum(slot.appended_to(run.number) for slot in slots if slot is not None)

    def go_by(self, state: StreamState) -> None:
        """From here on appends lie behind this state in the log."""
        is_cut_anew = state.epochs is not self.logged.epochs
        self.logged = state
        self.is_sealed = state.is_sealed
        if is_cut_anew:
            for slot in self._slots.values():
                slot.segment_id = self.segment_id_of(slot.number)

    def segment_id_of(self, number: int) -> int:
        """The active segment that owns a slot, as of what the log takes next."""
        epoch = self.logged.current
        return epoch.segment_id(epoch.run_at(position_of_slot(number, epoch.slots)))
