"""The results of a read: entries as they were appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from core.log.format import Buffer
    from core.streams.transactions import Aborted


ENTRIES_AT_ONCE: Final = 4096
"""The most entries that one read takes from memory one by one: about a millisecond of the event loop."""


class ReadResult(NamedTuple):
    """The bytes of whole entries in order, cut anywhere into parts. `size` is their sum; the next read begins at `end`.

    `aborted` are all aborted transactions that overlap the range from the requested offset to `end`, in the order of
    their markers.
    """

    parts: list[Buffer]
    size: int
    end: int
    aborted: Sequence[Aborted] = ()


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry, as it was appended."""

    first: int
    count: int
    max_timestamp: int
    payload: bytes


class StillLoading(Exception):
    """The read's patience ended before long-term storage answered; a later request will find the answer."""
