"""The streams of a rebuilt store: those that snapshots list, and those that only chunks name.

The home of the registry is rebuilt first, because it knows which ids were given out. Then each container finds the
streams of its own snapshot and chunks, and in the end `agree` makes one state of what they know.

**Invariants**

- A stream that the snapshot does not list, although it had given out the id, was deleted and stays deleted.
- A name belongs to its newest stream.
- A stream has as many slots as the snapshot says, or as chunks name, whichever is more.
- A slot lies in the container that the newest state names, or that has chunks of it.
- No stream id is given out twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core.streams.state import (
    NEXT_STREAM_KEY,
    STREAM_IDS_TABLE,
    STREAMS_TABLE,
    StreamState,
    decode_stream,
    new_stream,
    stream_key,
)
from core.tiering.rows import chunk_key
from tier2.chunk_format import ChunkIndex, Run


@dataclass(slots=True)
class _Found:
    """A found stream."""

    state: StreamState
    slots: int  # highest number + 1
    adopted: bool  # the snapshot does not list it
    seen: set[int] = field(default_factory=set)  # slots that chunks have something of


class FoundStreams:
    """The found streams of one container. `tell` takes a sentence for the operator; `home`: None for itself."""

    def __init__(self, container_id: int, tell: Callable[[str], None], home: FoundStreams | None = None) -> None:
        self._container_id = container_id
        self._tell = tell
        self._home = home or self
        self._streams: dict[int, _Found] = {}
        self._next_id = 1

    def __iter__(self) -> Iterator[StreamState]:
        return (found.state for found in self._streams.values())

    def get(self, stream_id: int) -> StreamState | None:
        found = self._streams.get(stream_id)
        return None if found is None else found.state

    def use_snapshot(self, tables: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Take over what a snapshot's tables list."""
        for value in tables.get(STREAMS_TABLE, {}).values():
            state = decode_stream(value)
            self._streams[state.id] = _Found(state, state.slots, adopted=False)
        if self._home is not self:  # a deleted stream may still be listed
            self._streams = {one: found for one, found in self._streams.items() if not self._home.was_deleted(one)}
        highest = tables.get(STREAM_IDS_TABLE, {}).get(NEXT_STREAM_KEY, b"")
        self._next_id = max(int.from_bytes(highest, "big"), max(self._streams, default=0) + 1)

    def was_deleted(self, stream_id: int) -> bool:
        """Whether the id was given out before the home's snapshot, and the stream is not there."""
        return stream_id < self._next_id and stream_id not in self._streams

    def admit(self, run: Run, index: ChunkIndex) -> bool:
        """Whether the stream of a run of this chunk is there. A stream that only chunks know is adopted."""
        stream = run.segment.stream
        found = self._streams.get(stream.id)
        if found is None:
            if self._home.was_deleted(stream.id):
                return False
            state = self._home.get(stream.id)
            is_known = state is not None
            state = state or new_stream(
                stream_id=stream.id,
                name=stream.name,
                uuid=stream.uuid,
                slots=1,
                created_ms=index.created_ms,
                container=self._home.container_id,
                config={},
                placement=(self._container_id,),
            )
            found = self._streams[stream.id] = _Found(state, state.slots, adopted=not is_known)
        if found.state.uuid != stream.uuid:
            self._tell(f"chunk {chunk_key(index.id)}: stream {stream.id} there is not {found.state.name!r}")
            return False
        found.slots = max(found.slots, run.slot + 1)
        found.seen.add(run.slot)
        return True

    @property
    def container_id(self) -> int:
        return self._container_id

    def _settle(self) -> None:
        """Settle which stream has which name, and the number of slots of each."""
        by_name: dict[str, _Found] = {}
        for stream_id in sorted(self._streams):
            found = self._streams[stream_id]
            name = found.state.name
            older = by_name.get(name)
            if older is not None:
                self._tell(f"topic {name!r} was deleted and made again after the snapshot: the newer one is recovered")
                del self._streams[older.state.id]
            by_name[name] = found
            if found.adopted:
                self._tell(
                    f"topic {name!r} is newer than the snapshot: it has {found.slots} partitions, as far as they "
                    "hold anything, and default configuration"
                )

    def tables(self) -> dict[str, dict[bytes, bytes]]:
        """The new container's tables about streams."""
        rows = {STREAMS_TABLE: {stream_key(state.id): state.encode() for state in self}}
        if self._home is not self:
            return rows
        next_id = max(self._next_id, max(self._streams, default=0) + 1)
        return rows | {STREAM_IDS_TABLE: {NEXT_STREAM_KEY: next_id.to_bytes(4, "big")}}


def agree(containers: Sequence[FoundStreams]) -> None:
    """Make one store of what the containers have found, the home first."""
    home = containers[0]
    for one in containers[1:]:
        for stream_id, found in one._streams.items():
            at_home = home._streams.setdefault(stream_id, found)
            at_home.slots = max(at_home.slots, found.slots)
            if not found.adopted and (at_home.adopted or found.state.revision > at_home.state.revision):
                at_home.state, at_home.adopted = found.state, False
    home._settle()
    for stream_id, found in home._streams.items():
        seen = {
            slot: one.container_id for one in containers if (own := one._streams.get(stream_id)) for slot in own.seen
        }
        found.state = _whole(found, seen, home._tell)
    for one in containers[1:]:
        here = {id: found for id, found in home._streams.items() if one.container_id in found.state.containers}
        one._streams = here


def _whole(found: _Found, seen: Mapping[int, int], tell: Callable[[str], None]) -> StreamState:
    """The state of a stream with all of its slots; `seen`: the containers that have chunks of some."""
    state = found.state
    if found.slots <= state.slots and not found.adopted:
        return state
    if not found.adopted:
        tell(
            f"topic {state.name!r} grew after the snapshot: it has {found.slots} partitions, as far as they hold "
            "anything"
        )
    grown = state.grown(found.slots, state.created_ms) if found.slots > state.slots else state
    places = [
        state.container_of_slot(slot)
        if slot < state.slots and not found.adopted
        else seen.get(slot, grown.container_of_slot(slot))
        for slot in range(found.slots)
    ]
    if places == [grown.container_of_slot(slot) for slot in range(found.slots)]:
        if not found.adopted:
            return grown
        return _made(state, found.slots, places[:1])
    return (_made(state, found.slots, ()) if found.adopted else state).placed(places, state.created_ms, "recovered")


def _made(state: StreamState, slots: int, placement: Sequence[int]) -> StreamState:
    """An adopted stream as if it had been created like that."""
    return new_stream(
        stream_id=state.id,
        name=state.name,
        uuid=state.uuid,
        slots=slots,
        created_ms=state.created_ms,
        container=state.container,
        config=state.config,
        placement=placement,
    )
