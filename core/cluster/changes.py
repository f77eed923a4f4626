"""What a look at a shared registry has found: all that came, changed or went since the look before."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.streams.state import StreamState


@dataclass(slots=True)
class Changes:
    """What a look found: streams that came or changed, deleted ones as they were, kinds of settings; nodes or not."""

    streams: list[StreamState] = field(default_factory=list)
    deleted: list[StreamState] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    nodes: bool = False

    def __bool__(self) -> bool:
        return bool(self.streams or self.deleted or self.kinds or self.nodes)

    def give_way(self, later: Changes) -> None:
        """Leave out streams of which a later look found more."""
        came = {state.id for state in (*later.streams, *later.deleted)}
        self.streams = [state for state in self.streams if state.id not in came]

    def extend(self, later: Changes) -> None:
        """Take in what a later look found."""
        self.give_way(later)
        self.streams += later.streams
        known = {state.id for state in self.deleted}
        self.deleted += [state for state in later.deleted if state.id not in known]
        self.kinds |= later.kinds
        self.nodes |= later.nodes
