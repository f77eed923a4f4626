"""What a read returns: entries as they were appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from core.log.format import Buffer
    from core.streams.transactions import Aborted


ENTRIES_AT_ONCE: Final = 4096
"""Entries that one read takes from memory at most, where each is found alone: about a millisecond of the event loop."""


class ReadResult(NamedTuple):
    """The bytes of whole entries in order, cut anywhere into parts; `size` is their sum, `end` where to go on.

    `aborted` are all aborted transactions that overlap what was read, in the order of their markers: from the offset
    that was asked for up to `end`.
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
    """Patience ended before long-term storage answered; a later request will find the answer."""
