"""In which partition of an internal topic a name is told. Pure.

Partitions are dealt out to the containers in turn: partition p belongs to the container in place p modulo their number.
A name's rows lie in one container, its home, and are told in one of that container's partitions: which one says the
hash by which Kafka chooses among all. With one container that is the partition in which a Kafka would keep the name.

Keeps: a name has one partition as long as the data directory has the same containers, and who has its home leads that
partition. So a view needs the rows of one container alone, whichever process has the others; and as in a Kafka, a
group's coordinator leads the partition that tells of it. Each container leads at least one.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from gateway.coordination.homes import Homes


class Partitions:
    """The partitions of one topic: `wanted`, but at least one for each container."""

    __slots__ = ("_homes", "count")

    def __init__(self, homes: Homes, wanted: int) -> None:
        self._homes = homes
        self.count = max(wanted, len(homes))

    def __repr__(self) -> str:
        return f"<{self.count} partitions of {self._homes!r}>"

    def container_of(self, partition: int) -> int:
        """The id of the container that a partition belongs to."""
        return self._homes.container_ids[partition % len(self._homes)]

    def of(self, name: str) -> int:
        """The partition of a group or of a transactional id."""
        several, first = len(self._homes), self._homes.place_of(name)
        own = (self.count - first + several - 1) // several
        return first + several * (kafka_hash(name) % own)


@lru_cache(maxsize=10_000)
def kafka_hash(name: str) -> int:
    """What Kafka takes modulo the number of partitions: Java's hash of a name's UTF-16, without its sign."""
    hashed = 0
    for (unit,) in struct.iter_unpack(">H", name.encode("utf-16-be")):
        hashed = (31 * hashed + unit) & 0xFFFF_FFFF
    signed = hashed - 2**32 if hashed >= 2**31 else hashed
    return 0 if signed == -(2**31) else abs(signed)
