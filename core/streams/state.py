"""Streams: name, slots, configuration, and the history of their epochs. Pure state and its encoding.

An epoch is one cut of the key space into active segments. A scale seals neighbouring segments, opens others over the
same slots and so begins the next epoch; the other segments go on. Growing a stream is a scale as well: it seals every
segment, and the next epoch has more slots; slots keep their numbers, sequence numbers and state.

**Invariants**

- The segments of an epoch are runs of slots in key order that cover all slots once.
- Epochs and segment numbers only grow: a segment's number is never used again, so it is the segment's id in its stream.
- A segment's slots never change. It is sealed when the stream grows.
- A stream's id is never used again. A sealed segment or stream stays sealed.
- A segment's slots lie in one container. A scale stays within a container; a slot that moves gets a segment of its own
  in its new one.
- Every change of a stream that lies in several containers has a higher `revision` than the one before it.

A stream's value in table ``streams`` (key: its id, u32 big-endian) is a JSON object, version 1 or 2:
``{"v", "id", "name", "uuid", "slots", "created_ms", "container", "config": {key: value}, "sealed_ms"?,
"epochs": [{"epoch", "started_ms", "reason", "slots", "segments": [[number, first, last], …]}, …]}``; first and last
are positions in key order among that epoch's slots, last exclusive. `segments` has those that it opened, or all in
the first epoch listed. An earlier segment goes on if it overlaps none of them. An epoch that sealed some also has
``"sealed": [[number, bytes appended to it], …]``. `sealed_ms` is there once the stream takes no more entries.

`container` decides about the stream: it exists as long as its row is there. Version 2 is for a stream whose segments do
not all lie in that container, or did not once: then ``"rev"`` is its revision, and such a segment is
``[number, first, last, container]``. Each container that has some of its slots keeps a copy of the row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

from core.errors import CorruptState, StreamSealed
from core.streams.keyspace import KeyRange, covers, is_power_of_two, position_of_slot, run_range, slot_at_position

STREAMS_TABLE: Final = "streams"
STREAM_IDS_TABLE: Final = STREAMS_TABLE + ".ids"
NEXT_STREAM_KEY: Final = b"next stream id"
"""The row in `STREAM_IDS_TABLE` with an id above all that were ever given, u32 big-endian."""
STATE_VERSION: Final = 1
PLACED_VERSION: Final = 2
"""The version of a stream that lies in other containers, too."""
REGISTRY_DECIDES: Final = -1
"""In place of the container that decides about a stream: a registry outside of all containers does."""
EPOCHS_MAX: Final = 10_000
"""The most epochs that a stream remembers, a hundred bytes each in every record of its state. Older ones are forgotten.
One scale every ten minutes, the scaler's own pace, takes ten weeks to get there."""

NAMED_MAX: Final = 20
"""The most segments that a reason or a message names, because every record of the state keeps the reasons."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of an epoch: slots at positions `first` to `last` - 1 in key order."""

    number: int
    first: int
    last: int
    container: int | None = None  # None: the one that decides about the stream


@dataclass(frozen=True, slots=True)
class Epoch:
    """One cut of a stream's key space."""

    epoch: int
    started_ms: int
    reason: str
    slots: int
    segments: tuple[Segment, ...]  # in key order
    opened: tuple[Segment, ...]  # of these, the ones that this epoch began with
    sealed_bytes: tuple[tuple[int, int], ...] = ()  # number and size of the segments that ended with the epoch before
    encoded: str = field(init=False, repr=False, compare=False)  # taken once, as a state holds thousands of epochs

    def __post_init__(self) -> None:
        if not covers([(s.first, s.last) for s in self.segments], self.slots):
            raise ValueError(f"segments of epoch {self.epoch} do not cover {self.slots} slots")
        fields: dict[str, object] = {
            "epoch": self.epoch,
            "started_ms": self.started_ms,
            "reason": self.reason,
            "slots": self.slots,
            "segments": [_encode_segment(segment) for segment in self.opened],
        }
        if self.sealed_bytes:
            fields["sealed"] = self.sealed_bytes
        object.__setattr__(self, "encoded", json.dumps(fields, separators=(",", ":")))

    def segment_id(self, segment: Segment) -> int:
        """Unique in the stream for ever."""
        return segment.number

    def key_range(self, segment: Segment) -> KeyRange:
        return run_range(segment.first, segment.last, self.slots)

    def segment(self, number: int) -> Segment:
        """The segment of that number. Raises ValueError when it is not one of this epoch's."""
        found = next((segment for segment in self.segments if segment.number == number), None)
        if found is None:
            raise ValueError(
                f"segment {number} is not active; active are {numbers([segment.number for segment in self.segments])}"
            )
        return found

    def segments_of(self, wanted: Collection[int]) -> list[Segment]:
        """The segments of these numbers, each once. Raises ValueError as `segment` does."""
        active = {segment.number: segment for segment in self.segments}
        return [active.get(number) or self.segment(number) for number in set(wanted)]

    def segment_at(self, position: int) -> Segment:
        """The segment that owns the slot at a position in key order."""
        low, high = 0, len(self.segments)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self.segments[middle].first <= position else (low, middle)
        return self.segments[low]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """A stream's whole state in the log; a change makes a new one."""

    id: int
    name: str
    uuid: UUID
    slots: int
    created_ms: int
    container: int
    config: Mapping[str, str]
    epochs: tuple[Epoch, ...]
    sealed_ms: int | None = None  # when it was sealed; None while it takes entries
    revision: int = 0  # of a stream that lies in several containers: says which of two copies is newer
    containers: frozenset[int] = field(init=False, repr=False, compare=False)  # those that its slots lie in

    def __post_init__(self) -> None:
        object.__setattr__(self, "containers", frozenset(map(self.container_of, self.current.segments)))

    @property
    def current(self) -> Epoch:
        return self.epochs[-1]

    @property
    def is_sealed(self) -> bool:
        return self.sealed_ms is not None

    @property
    def is_elsewhere(self) -> bool:
        """Whether any of its slots lies in another container than the one that decides about it."""
        return self.containers != {self.container}

    def container_of(self, segment: Segment) -> int:
        """The container that a segment's slots lie in."""
        return self.container if segment.container is None else segment.container

    def container_of_slot(self, number: int) -> int:
        """The container that a slot lies in."""
        epoch = self.current
        return self.container_of(epoch.segment_at(position_of_slot(number, epoch.slots)))

    def slots_by_container(self) -> dict[int, list[int]]:
        """All slots, by the container that they lie in."""
        found: dict[int, list[int]] = {}
        for segment in self.current.segments:
            places = range(segment.first, segment.last)
            slots = (slot_at_position(place, self.slots) for place in places)
            found.setdefault(self.container_of(segment), []).extend(slots)
        return found

    def grown(self, slots: int, now_ms: int, containers: Sequence[int] = ()) -> StreamState:
        """The stream with more slots and the same cuts: the next epoch.

        `containers` get the new slots, run by run. Without them a new slot lies beside its neighbour. So it does where
        slots are doubled, and it takes half of that one's keys, if the stream has slots in all `containers`.
        Raises StreamSealed, ValueError if it has as many already.
        """
        self._check_open()
        if slots <= self.slots:
            raise ValueError(f"stream {self.name!r} has {self.slots} slots and cannot be made to have {slots}")
        number = self._next_number()
        runs = self._grown_runs(slots, containers)
        opened = tuple(Segment(number + n, first, last, where) for n, (first, last, where) in enumerate(runs))
        return self._next(now_ms, f"grown from {self.slots} to {slots} slots", slots, opened, opened)

    def _grown_runs(self, slots: int, containers: Sequence[int]) -> list[tuple[int, int, int | None]]:
        """The cuts of the stream with more slots, each with its container: old slots stay where they are."""
        old = self.current.segments
        cuts = [segment.first * slots // self.slots for segment in old] + [slots]
        if not self.is_elsewhere and set(containers) <= {self.container}:
            return [(first, last, None) for first, last in pairwise(cuts)]
        # Then a new slot follows the one it halves, if there is no other container to spread to.
        is_doubled = is_power_of_two(self.slots) and is_power_of_two(slots) and set(containers) <= self.containers
        runs: list[tuple[int, int, int | None]] = []
        for segment, (first, last) in zip(old, pairwise(cuts), strict=True):
            begun = first
            for place in range(first, last):
                where = segment.container
                if not is_doubled:
                    number = slot_at_position(place, slots)
                    where = self._place_of_grown(number, where, slots, containers)
                if place == begun:
                    current = where
                elif where != current:
                    runs.append((begun, place, current))
                    begun, current = place, where
            if begun < last:
                runs.append((begun, last, current))
        return runs

    def _place_of_grown(self, number: int, beside: int | None, slots: int, containers: Sequence[int]) -> int | None:
        if number < self.slots:
            found = self.container_of_slot(number)
        elif containers:
            found = containers[(number - self.slots) * len(containers) // (slots - self.slots)]
        else:
            return beside
        return None if found == self.container else found

    def scaled(self, sealed: Collection[int], cuts: Collection[int], now_ms: int, reason: str) -> StreamState:
        """The stream with some neighbouring segments sealed, and others over their slots, cut at the positions `cuts`.

        One segment with a cut is a split, several without a cut are a merge.
        Raises StreamSealed, ValueError if the arguments describe no scale.
        """
        self._check_open()
        current = self.current
        old = sorted(current.segments_of(sealed), key=lambda segment: segment.first)
        if not old:
            raise ValueError("a scale seals at least one segment")
        for left, right in pairwise(old):
            if left.last != right.first:
                raise ValueError(f"segments {left.number} and {right.number} are not neighbours")
        first, last = old[0].first, old[-1].last
        places = [first, *sorted(set(cuts)), last]
        if any(not first < cut < last for cut in places[1:-1]):
            raise ValueError(f"cuts lie between {first} and {last} in key order, not at {sorted(set(cuts))}")
        if [segment.first for segment in old] == places[:-1]:
            raise ValueError(f"segments {numbers([segment.number for segment in old])} are cut like that already")
        where = {segment.container for segment in old}
        if len(where) > 1:
            told = numbers([segment.number for segment in old])
            raise ValueError(f"segments {told} lie in several containers, and a scale stays within one")
        number = self._next_number()
        opened = tuple(Segment(number + n, *cut, *where) for n, cut in enumerate(pairwise(places)))
        return self._next(now_ms, reason, self.slots, _continued(current.segments, opened), opened)

    def moved(self, number: int, container: int, now_ms: int, reason: str) -> StreamState:
        """The stream with a slot in another container: its segment is cut around it.

        Raises StreamSealed, ValueError for a slot that is there already, or that the stream does not have.
        """
        self._check_open()
        if not 0 <= number < self.slots:
            raise ValueError(f"stream {self.name!r} has {self.slots} slots, and none of number {number}")
        current, place = self.current, position_of_slot(number, self.slots)
        old = current.segment_at(place)
        if self.container_of(old) == container:
            raise ValueError(f"slot {number} of stream {self.name!r} lies in container {container} already")
        where = None if container == self.container else container
        runs = [(old.first, place, old.container), (place, place + 1, where), (place + 1, old.last, old.container)]
        begun = self._next_number()
        opened = tuple(Segment(begun + n, *run) for n, run in enumerate(run for run in runs if run[0] < run[1]))
        return self._next(now_ms, reason, self.slots, _continued(current.segments, opened), opened)

    def runs_in(self, container: int) -> list[tuple[int, int]]:
        """The places in key order that a container has, as runs."""
        runs: list[tuple[int, int]] = []
        for segment in self.current.segments:
            if self.container_of(segment) != container:
                continue
            if runs and runs[-1][1] == segment.first:
                runs[-1] = runs[-1][0], segment.last
            else:
                runs.append((segment.first, segment.last))
        return runs

    def placed(self, places: Sequence[int], now_ms: int, reason: str) -> StreamState:
        """The stream with as many slots as there are `places`, each in the container that is named there.

        For a stream that is put together from what is left of it: here a slot may change its container.
        """
        number, slots = self._next_number(), len(places)
        where = [places[slot_at_position(place, slots)] for place in range(slots)]
        cuts = [0, *(place for place in range(1, slots) if where[place] != where[place - 1]), slots]
        opened = tuple(
            Segment(number + n, first, last, None if where[first] == self.container else where[first])
            for n, (first, last) in enumerate(pairwise(cuts))
        )
        return self._next(now_ms, reason, slots, opened, opened)

    def sealed_at(self, now_ms: int) -> StreamState:
        """The stream, sealed: it takes no more entries. Raises StreamSealed if it is sealed already."""
        self._check_open()
        return replace(self, sealed_ms=now_ms)._revised(self)

    def configured(self, config: Mapping[str, str]) -> StreamState:
        """The stream with other configuration."""
        return replace(self, config=dict(config))._revised(self)

    def after(self, other: StreamState) -> StreamState:
        """This state once more, as the change that follows another one."""
        return replace(self, revision=other.revision + 1)

    def decided_by(self, container: int) -> StreamState:
        """The same stream, with another container that decides about it."""

        def moved(segment: Segment) -> Segment:
            where = self.container_of(segment)
            return replace(segment, container=None if where == container else where)

        epochs = tuple(
            replace(epoch, segments=tuple(map(moved, epoch.segments)), opened=tuple(map(moved, epoch.opened)))
            for epoch in self.epochs
        )
        return replace(self, container=container, epochs=epochs)._revised(self)

    def is_behind(self, known: StreamState, container: int) -> bool:
        """Whether this copy of a container may be older than what is known.

        A stream in one container may have no revisions. A copy beside that container's own is of the moment at which a
        slot began to arrive.
        """
        if self.revision != known.revision:
            return self.revision < known.revision
        return container != self.container and not self.is_elsewhere

    def _revised(self, before: StreamState) -> StreamState:
        """A stream that was always in one container needs no revision: its log has all of its changes in order."""
        is_or_was = self.is_elsewhere or before.is_elsewhere or before.revision
        return replace(self, revision=before.revision + 1 if is_or_was else 0)

    def measured(self, sealed_bytes: Mapping[int, int]) -> StreamState:
        """The stream with the sizes of the segments that the newest epoch sealed."""
        newest = replace(self.current, sealed_bytes=tuple(sorted(sealed_bytes.items())))
        return replace(self, epochs=(*self.epochs[:-1], newest))

    def successors(self, number: int) -> tuple[int, ...]:
        """The segments that took over a segment's key range when it was sealed; none while it is active."""
        for before, after in pairwise(self.epochs):
            segment = next((segment for segment in before.segments if segment.number == number), None)
            if segment is not None and segment not in _kept(after):
                return tuple(other.number for other in after.opened if _overlap(segment, before, other, after))
        return ()

    def predecessors(self, number: int) -> tuple[int, ...]:
        """The segments whose key ranges a segment took over when it was opened; none for one of the first epoch."""
        for before, after in pairwise(self.epochs):
            segment = next((segment for segment in after.opened if segment.number == number), None)
            if segment is not None:
                return tuple(other.number for other in before.segments if _overlap(segment, after, other, before))
        return ()

    def encode(self) -> bytes:
        """The value of table ``streams``."""
        fields = {
            "v": PLACED_VERSION if self.is_elsewhere or self.revision else STATE_VERSION,
            "id": self.id,
            "name": self.name,
            "uuid": self.uuid.hex,
            "slots": self.slots,
            "created_ms": self.created_ms,
            "container": self.container,
            "config": dict(self.config),
        }
        if self.is_elsewhere or self.revision:
            fields["rev"] = self.revision
        if self.sealed_ms is not None:
            fields["sealed_ms"] = self.sealed_ms
        head = json.dumps(fields, separators=(",", ":")).removesuffix("}")
        epochs = ",".join(epoch.encoded for epoch in self.epochs)
        return f'{head},"epochs":[{epochs}]}}'.encode()

    def _check_open(self) -> None:
        if self.is_sealed:
            raise StreamSealed(self.name)

    def _next_number(self) -> int:
        return max(one.number for one in self.current.segments) + 1  # the newest epoch opened the newest ones

    def _next(
        self, now_ms: int, reason: str, slots: int, segments: tuple[Segment, ...], opened: tuple[Segment, ...]
    ) -> StreamState:
        epoch = Epoch(self.current.epoch + 1, now_ms, reason, slots, segments, opened)
        epochs = (*self.epochs, epoch)
        if len(epochs) > EPOCHS_MAX:
            oldest = epochs[1]
            epochs = (replace(oldest, opened=oldest.segments), *epochs[2:])
        return replace(self, slots=slots, epochs=epochs)._revised(self)


def numbers(segments: Sequence[int]) -> str:
    """Segments as a sentence names them: the first `NAMED_MAX`, and the number of the others."""
    named = ", ".join(map(str, segments[:NAMED_MAX]))
    return named if len(segments) <= NAMED_MAX else f"{named} and {len(segments) - NAMED_MAX} more"


def _encode_segment(segment: Segment) -> list[int]:
    fields = [segment.number, segment.first, segment.last]
    return fields if segment.container is None else [*fields, segment.container]


def _continued(before: Sequence[Segment], opened: Sequence[Segment]) -> tuple[Segment, ...]:
    """An epoch's segments in key order: the opened ones, and the earlier ones that overlap none of them."""
    first, last = min(segment.first for segment in opened), max(segment.last for segment in opened)
    kept = [segment for segment in before if segment.last <= first or last <= segment.first]
    return tuple(sorted((*kept, *opened), key=lambda segment: segment.first))


def _kept(epoch: Epoch) -> set[Segment]:
    return set(epoch.segments) - set(epoch.opened)


def _overlap(one: Segment, its: Epoch, other: Segment, others: Epoch) -> bool:
    """Whether two segments share a part of the key space."""
    return one.first * others.slots < other.last * its.slots and other.first * its.slots < one.last * others.slots


def stream_key(stream_id: int) -> bytes:
    """The key of a stream in table ``streams``."""
    return stream_id.to_bytes(4, "big")


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
    placement: Sequence[int] = (),
) -> StreamState:
    """A stream in its first epoch: its slots in `segments` segments, or fewer if it has fewer slots.

    `container` decides about it. The segments lie, run by run, in the containers of `placement`, and there is one for
    each of them at least, as far as there are slots; without a placement all lie in `container`.
    """
    placed = placement or (container,)
    count = min(max(1, segments, len(placed)), slots)
    containers = [placed[n * len(placed) // count] for n in range(count)]
    made = tuple(
        Segment(n, slots * n // count, slots * (n + 1) // count, None if where == container else where)
        for n, where in enumerate(containers)
    )
    first = Epoch(0, created_ms, "created", slots, made, made)
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
        if fields["v"] not in (STATE_VERSION, PLACED_VERSION):
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
            revision=fields.get("rev", 0),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"a stream's state cannot be read: {error!r}") from error


def _decode_epochs(rows: Sequence[Mapping[str, Any]]) -> Iterator[Epoch]:
    before: tuple[Segment, ...] = ()
    for row in rows:
        opened = tuple(Segment(*segment) for segment in row["segments"])
        before = _continued(before, opened)
        sealed = tuple((number, size) for number, size in row.get("sealed", ()))
        yield Epoch(row["epoch"], row["started_ms"], row["reason"], row["slots"], before, opened, sealed)
