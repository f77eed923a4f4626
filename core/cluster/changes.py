"""What a look at a shared registry has found: all that came, changed or went since the look before."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.streams.state import StreamState


@dataclass(slots=True)
class Changes:
    """What a look found: streams that came or changed, the ids of deleted ones, kinds of settings; nodes or not."""

    streams: list[StreamState] = field(default_factory=list)
    deleted: list[StreamState] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    nodes: bool = False

    def __bool__(self) -> bool:
        return bool(self.streams or self.deleted or self.kinds or self.nodes)

    def extend(self, later: Changes) -> None:
        """Take in what a later look found."""
        came = {state.id for state in (*later.streams, *later.deleted)}
        self.streams = [state for state in self.streams if state.id not in came] + later.streams
        self.deleted += later.deleted
        self.kinds |= later.kinds
        self.nodes |= later.nodes
