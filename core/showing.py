"""The streams that this process shows, each in the state that all of its containers here have in their logs.

A decision of a caller here, of another process, or of a container that is recovered is taken over here.

**Invariants**

- A change of a stream is seen once each of its containers has it in its log.
- A slot belongs to a container that this process has opened, or is an address without entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.cluster.following import Changed
from core.cluster.placement import Loads
from core.container.container import Container
from core.errors import NotHosted
from core.streams.known_writers import KnownWriters
from core.streams.live import Slot, Stream
from core.streams.policy import StreamPolicy
from core.streams.registry import Streams
from core.streams.state import StreamState
from core.streams.telling import Telling

PolicyFor = Callable[[Mapping[str, str]], StreamPolicy]
Followed = Callable[[Changed], None]


class Showing:
    """See the module. `is_shared`: other processes have a part of the containers."""

    def __init__(
        self, streams: Streams, policy_for: PolicyFor, known_writers: KnownWriters, *, is_shared: bool
    ) -> None:
        self.policy_for = policy_for
        self.loads = Loads()
        self.is_settled = False  # copies of streams agree: recovery is over
        self._streams = streams
        self._known_writers = known_writers
        self._is_shared = is_shared
        self._known: dict[int, Container] = {}  # all that were ever opened, by id: the owners of slots
        self._followed: list[Followed] = []
        self._telling = Telling()

    def __repr__(self) -> str:
        return f"<Showing {len(self._streams)} streams>"

    def policy_of(self, state: StreamState) -> StreamPolicy:
        """The policy of a stream in this state."""
        return self.policy_for(state.config)

    def know(self, container: Container) -> None:
        """A container owns its slots from now on."""
        self._known[container.id] = container

    def forget(self, container_id: int) -> None:
        """The slots of a container are addresses from now on."""
        self._known.pop(container_id, None)

    def begin(self, state: StreamState) -> Stream:
        """Know a stream, which has no name yet."""
        stream = Stream(state, self.policy_for(state.config), self._make_slot)
        self._streams.add(stream)
        self.loads.add(state)
        return stream

    def followed(self, changed: Changed) -> None:
        """Tell those who asked of what all processes have changed in the registry."""
        for told in self._followed:
            told(changed)

    def on_followed(self, told: Followed) -> None:
        """Call `told` on the loop with what changed in the registry, here or elsewhere; only where it is shared."""
        self._followed.append(told)

    def show(self, stream: Stream) -> None:
        """Make visible what was decided about a stream: all of its containers have it."""
        self._take(stream, stream.logged)
        self._streams.name(stream)
        self.look_for_left(stream)

    def look_for_left(self, stream: Stream) -> None:
        """Slots that have left for a container of another node are addresses from now on."""
        for slot in stream.forget_left(self._known):
            slot.changed()

    def _take(self, stream: Stream, state: StreamState) -> None:
        if state.current is not stream.state.current:
            self.loads.add(stream.state, -1)
            self.loads.add(state)
        stream.state = state
        stream.policy = self.policy_for(state.config)

    def leader_epochs(self, stream: Stream) -> dict[int, int]:
        """The leader epoch of each container that takes appends for some of a stream's slots, by the container's id."""
        known = self._known
        return {
            one: known[one].epoch for one in sorted(stream.state.containers) if one in known and not known[one].is_left
        }

    def refresh_policies(self) -> None:
        """Ask for every stream's policy again (a default changed)."""
        for stream in self._streams:
            stream.policy = self.policy_for(stream.config)

    def stream_changed(self, container: Container, stream_id: int, state: StreamState | None) -> Stream | None:
        """A container's row of a stream is durable: the decision about it, or a copy."""
        self._known[container.id] = container
        stream = self._streams.by_id(stream_id)
        if state is None:
            if stream is not None and stream.state.container == container.id:
                self.end(stream)
            return stream
        decides = container.id == state.container
        if stream is None:
            stream = self.begin(state)
        elif not state.is_behind(stream.state, container.id) and not (self.is_settled and state.is_elsewhere):
            self._take(stream, state)
        if decides and not state.is_elsewhere:
            self._streams.name(stream)
        return stream

    def end(self, stream: Stream) -> None:
        """A stream is gone: its watchers hear of it, soon."""
        stream.deleted = True
        self._streams.remove(stream)
        self.loads.add(stream.state, -1)
        self._telling.changed(stream.written_slots())

    def _make_slot(self, stream: Stream, number: int) -> Slot:
        container_id = stream.logged.container_of_slot(number)
        container = self._known.get(container_id)
        if container is not None:
            return container.make_slot(stream, number)
        if not self._is_shared:
            raise NotHosted(container_id)
        return Slot(_Elsewhere(container_id, self._known_writers), stream, number)


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The owner of a slot that another process has: the slot is an address here, without entries."""

    id: int
    known_writers: KnownWriters
    epoch: int = -1  # not known here
