"""The streams of a rebuilt container: those that a snapshot lists, and those that only chunks name.

**Invariants**

- A stream that the snapshot does not list, although it had given out the id, was deleted and stays deleted.
- A name belongs to its newest stream.
- A stream has as many slots as the snapshot says, or as chunks name, whichever is more.
- No stream id is given out twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from core.streams.state import NEXT_STREAM_KEY, STREAM_IDS_TABLE, STREAMS_TABLE, StreamState, decode_stream, new_stream
from core.tiering.rows import chunk_key
from tier2.chunk_format import ChunkIndex, Run


@dataclass(slots=True)
class _Found:
    """A found stream."""

    state: StreamState
    slots: int  # highest number + 1
    adopted: bool  # the snapshot does not list it


class FoundStreams:
    """The found streams of one container. `tell` takes a sentence for the operator."""

    def __init__(self, container_id: int, tell: Callable[[str], None]) -> None:
        self._container_id = container_id
        self._tell = tell
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
        highest = tables.get(STREAM_IDS_TABLE, {}).get(NEXT_STREAM_KEY, b"")
        self._next_id = max(int.from_bytes(highest, "big"), max(self._streams, default=0) + 1)

    def admit(self, run: Run, index: ChunkIndex) -> bool:
        """Whether the stream of a run of this chunk is there. A stream that only chunks know is adopted."""
        stream = run.segment.stream
        found = self._streams.get(stream.id)
        if found is None:
            if stream.id < self._next_id:
                return False  # deleted before the snapshot
            state = new_stream(
                stream_id=stream.id,
                name=stream.name,
                uuid=stream.uuid,
                slots=1,
                created_ms=index.created_ms,
                container=self._container_id,
                config={},
            )
            found = self._streams[stream.id] = _Found(state, 1, adopted=True)
        if found.state.uuid != stream.uuid:
            self._tell(f"chunk {chunk_key(index.id)}: stream {stream.id} there is not {found.state.name!r}")
            return False
        found.slots = max(found.slots, run.slot + 1)
        return True

    def settle(self) -> None:
        """Settle, after all chunks, which stream has which name, and the number of slots of each."""
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
            if found.slots > found.state.slots:
                found.state = self._grown(found)

    def _grown(self, found: _Found) -> StreamState:
        state = found.state
        if found.adopted:
            return new_stream(
                stream_id=state.id,
                name=state.name,
                uuid=state.uuid,
                slots=found.slots,
                created_ms=state.created_ms,
                container=state.container,
                config=state.config,
            )
        self._tell(
            f"topic {state.name!r} grew after the snapshot: it has {found.slots} partitions, as far as they hold "
            "anything"
        )
        return state.grown(found.slots, state.created_ms)

    def tables(self) -> dict[str, dict[bytes, bytes]]:
        """The new store's tables about streams."""
        next_id = max(self._next_id, max(self._streams, default=0) + 1)
        return {
            STREAMS_TABLE: {state.id.to_bytes(4, "big"): state.encode() for state in self},
            STREAM_IDS_TABLE: {NEXT_STREAM_KEY: next_id.to_bytes(4, "big")},
        }
