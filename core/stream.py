"""Streams: name, slots, configuration, and the history of their epochs. Pure state and its encoding.

An epoch is one cut of the key space into active segments. Growing a stream is a scale: it seals every segment and
begins the next epoch with more slots; slots keep their numbers, sequence numbers and state.

**Invariant**: the segments of an epoch are runs of slots in key order that cover all slots once; epochs and segment
numbers only grow; a stream's id is never used again.

A stream's value in table ``streams`` (key: its id, u32 big-endian) is a JSON object, version 1:
``{"v", "id", "name", "uuid", "slots", "created_ms", "container", "config": {key: value},
"epochs": [{"epoch", "started_ms", "reason", "slots", "segments": [[number, first, last], …]}, …]}``; first and last
are positions in key order among that epoch's slots, last exclusive.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from core.errors import CorruptState
from core.keyspace import covers

if TYPE_CHECKING:
    from core.slot import Slot

STATE_VERSION: Final = 1


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
    segments: tuple[SegmentRun, ...]

    def __post_init__(self) -> None:
        if not covers([(s.first, s.last) for s in self.segments], self.slots):
            raise ValueError(f"segments of epoch {self.epoch} do not cover {self.slots} slots")

    def segment_id(self, run: SegmentRun) -> int:
        """Unique in the stream for ever."""
        return self.epoch << 32 | run.number


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

    @property
    def current(self) -> Epoch:
        return self.epochs[-1]

    def grown(self, slots: int, now_ms: int) -> StreamState:
        """The stream with more slots: the next epoch. Raises ValueError when that is no growth."""
        if slots <= self.slots:
            raise ValueError(f"stream {self.name!r} has {self.slots} slots and cannot be made to have {slots}")
        number = max(run.number for epoch in self.epochs for run in epoch.segments) + 1
        epoch = Epoch(
            self.current.epoch + 1,
            now_ms,
            f"grown from {self.slots} to {slots} slots",
            slots,
            (SegmentRun(number, 0, slots),),
        )
        return replace(self, slots=slots, epochs=(*self.epochs, epoch))

    def configured(self, config: Mapping[str, str]) -> StreamState:
        """The stream with other configuration."""
        return replace(self, config=dict(config))

    def encode(self) -> bytes:
        """The value of table ``streams``."""
        return json.dumps(
            {
                "v": STATE_VERSION,
                "id": self.id,
                "name": self.name,
                "uuid": self.uuid.hex,
                "slots": self.slots,
                "created_ms": self.created_ms,
                "container": self.container,
                "config": dict(self.config),
                "epochs": [
                    {
                        "epoch": epoch.epoch,
                        "started_ms": epoch.started_ms,
                        "reason": epoch.reason,
                        "slots": epoch.slots,
                        "segments": [[run.number, run.first, run.last] for run in epoch.segments],
                    }
                    for epoch in self.epochs
                ],
            },
            separators=(",", ":"),
        ).encode()


def new_stream(
    *, stream_id: int, name: str, uuid: UUID, slots: int, created_ms: int, container: int, config: Mapping[str, str]
) -> StreamState:
    """A stream in its first epoch, all of its slots in one segment."""
    first = Epoch(0, created_ms, "created", slots, (SegmentRun(0, 0, slots),))
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
            epochs=tuple(map(_decode_epoch, fields["epochs"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"a stream's state cannot be read: {error!r}") from error


def _decode_epoch(fields: Mapping[str, Any]) -> Epoch:
    return Epoch(
        fields["epoch"],
        fields["started_ms"],
        fields["reason"],
        fields["slots"],
        tuple(SegmentRun(*run) for run in fields["segments"]),
    )


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


class Stream:
    """A live stream: its state, its slots as they are written, and what the gateway keeps beside it."""

    __slots__ = ("_make_slot", "_slots", "changing", "deleted", "extension", "policy", "state")

    def __init__(self, state: StreamState, policy: StreamPolicy, make_slot: Callable[[Stream, int], Slot]) -> None:
        self.state = state
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

    def written_slots(self) -> Iterator[Slot]:
        """The slots that memory holds: each one that was ever written or asked for."""
        return iter(self._slots.values())

    def segment_id_of(self, number: int) -> int:
        """The active segment that owns a slot."""
        epoch = self.state.current
        if len(epoch.segments) == 1:
            return epoch.segment_id(epoch.segments[0])
        from core.keyspace import position_of_slot

        position = position_of_slot(number, epoch.slots)
        return next(epoch.segment_id(run) for run in epoch.segments if run.first <= position < run.last)
