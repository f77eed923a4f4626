"""Memory that the members of all groups may hold together, in addition to the memory of their requests.

Keeps: `used` is the sum of the metadata and assignments of all present members.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.groups.classic.messages import Protocol


class Allowance:
    """Bytes of members' metadata, for all groups of a node."""

    __slots__ = ("all_max_bytes", "member_max_bytes", "used")

    def __init__(self, member_max_bytes: int, all_max_bytes: int) -> None:
        self.member_max_bytes = member_max_bytes
        self.all_max_bytes = all_max_bytes
        self.used = 0

    def admits(self, protocols: Iterable[Protocol], held: Iterable[Protocol] = ()) -> bool:
        """May a member replace the protocols that it holds with these?"""
        size = size_of(protocols)
        return size <= self.member_max_bytes and self.used + size - size_of(held) <= self.all_max_bytes

    def admits_assignments(self, assignments: Mapping[str, bytes], members: int) -> bool:
        """May a leader assign these to the members of its group?"""
        size = sum(map(len, assignments.values()))
        return size <= self.member_max_bytes * members and self.used + size <= self.all_max_bytes


def size_of(protocols: Iterable[Protocol]) -> int:
    """Bytes that a member's protocols hold."""
    return sum(len(protocol.name) + len(protocol.metadata) for protocol in protocols)
