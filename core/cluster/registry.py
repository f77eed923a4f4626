"""The registry: all that the containers of a cluster have in common, each thing decided in one place.

Names and ids of streams, the containers that their slots lie in, dynamic settings, blocks of writer ids, the counter of
epochs. What the containers own themselves is not here: entries, writers, transactions, groups.

**Invariants** of every implementation

- A name belongs to one stream at most, and an id is never given out twice, whatever crashes.
- What a call has returned is durable, in every sync mode that its implementation has.
- Settings are changed only by a decision from all settings of their kind as they are when the change is made. So of two
  decisions at one time, in whatever processes, the later one has seen what the earlier one made.
- A stream exists from the moment at which its creation is durable here until its deletion is. Copies of its state in
  the containers that have its slots follow (`core.cluster.shares`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol
from uuid import UUID

from core.streams.state import StreamState


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStream:
    """A stream that is to be created."""

    name: str
    uuid: UUID
    slots: int
    created_ms: int
    config: Mapping[str, str]
    segments: int  # the fewest that it begins with
    placement: Sequence[int]  # containers for its segments, run by run


Held = Mapping[int, int]
"""Claims of containers that a decision depends on: their epochs."""
NOTHING_HELD: Final[Held] = MappingProxyType({})


Settings = Mapping[bytes, bytes]
"""The dynamic settings of a kind."""
SettingChanges = Mapping[bytes, bytes | None]
"""Settings with their next values; None deletes."""
Decide = Callable[[Settings], SettingChanges]
"""Makes changes of what is there, and nothing else: it is called again if that has changed meanwhile."""


def common_form(name: str) -> str:
    """What names have in common that collide: those that differ by `.` and `_` alone have the same metrics in Kafka."""
    return name.replace(".", "_")


class Registry(Protocol):
    """Calls that change something raise StoreError when it is not durable, and then nothing has changed, except after
    StorageFailure, when the next start tells."""

    def streams(self) -> Iterable[StreamState]:
        """All streams that exist."""

    def stream(self, stream_id: int) -> StreamState | None:
        """The stream of that id, as this process knows it."""

    async def create(self, wanted: NewStream) -> StreamState:
        """Give a name and an id to a stream. Raises StreamExists; where other processes create streams, too, also
        NameCollides: of two names that are alike the first one wins."""

    async def change(self, state: StreamState, held: Held = NOTHING_HELD) -> None:
        """Make this the state of a stream; it was made from the present one. Raises UnknownStream, NotHosted.

        `held`: only if these containers still have their claims, as part of the same decision; else NotHosted, and
        nothing was changed. Where no coordinator gives claims there are none to name.
        """

    async def delete(self, state: StreamState) -> None:
        """End a stream; its name is free. Raises UnknownStream, NotHosted."""

    def was_given(self, stream_id: int) -> bool:
        """Whether this id was ever given to a stream. One that was, and is not among `streams`, was deleted."""

    def settings(self, kind: str) -> Settings:
        """The dynamic settings of a kind, which the caller names."""

    async def change_settings(self, kind: str, decide: Decide) -> SettingChanges:
        """Change some settings of a kind as one; returns what was changed.

        What `decide` raises ends the call, and nothing is changed. It sees all that was answered before this call,
        by other processes, too, and runs on the loop.
        """

    async def take_writer_ids(self, count: int) -> range:
        """As many ids of writers, which nobody ever had. They are synced."""

    async def next_epoch(self) -> int:
        """A number above all that this ever returned. It is synced."""
