"""What a read returns: entries as they were appended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from core.log.format import Buffer


class ReadResult(NamedTuple):
    """The bytes of whole entries in order, cut anywhere into parts; `size` is their sum, `end` where to go on."""

    parts: list[Buffer]
    size: int
    end: int


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry, as it was appended."""

    first: int
    count: int
    max_timestamp: int
    payload: bytes


class StillLoading(Exception):
    """Nobody wants to wait any longer for what is on its way; who asks again later will find it."""
