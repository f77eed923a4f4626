"""A client that does the same in several places at once, and what of that may be there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tests.faults.client import Connection
from tests.faults.history import Partition
from tests.faults.load import Client
from tests.faults.transactional import TransactionalProducer, read_committed

COMMIT_SHARE: Final = 0.7
VALUE_BYTES: Final = 4_000


class Transfers(Client):
    """Writes each number to all partitions and commits it as a group's offset, in one transaction, or aborts that."""

    def __init__(self, address: Callable[[], str], partitions: Sequence[Partition], seed: str) -> None:
        super().__init__("transfers", address, seed)
        self._partitions = partitions
        self._number = 0
        self.tried: set[int] = set()  # to commit
        self.committed: set[int] = set()  # acknowledged
        self.aborted = 0

    def session(self, connection: Connection) -> None:
        producer = TransactionalProducer(connection, self.name)
        while not self.finished():
            number, commits = self._number, self.random.random() < COMMIT_SHARE
            self._number += 1
            for partition in self._partitions:
                producer.produce(*partition, [(b"%d/" % number).ljust(VALUE_BYTES, b".")])
            producer.commit_offset(self.name, *self._partitions[0], number + 1)
            if commits:
                self.tried.add(number)
            producer.end(commit=commits)
            if commits:
                self.committed.add(number)
            else:
                self.aborted += 1
            self.pause()

    def check(self, connection: Connection) -> list[str]:
        """The faults in the present view of committed readers."""
        seen = [
            [int(value.split(b"/", 1)[0]) for _, value in read_committed(connection, *partition)]
            for partition in self._partitions
        ]
        found = [f"{seen[0]} and {other} are not the same" for other in seen[1:] if other != seen[0]]
        if seen[0] != sorted(set(seen[0])):
            found.append(f"not in order, or twice: {seen[0]}")
        if lost := self.committed.difference(seen[0]):
            found.append(f"committed and lost: {sorted(lost)}")
        if torn := set(seen[0]) - self.tried:
            found.append(f"never committed: {sorted(torn)}")
        offset = connection.committed_offset(self.name, *self._partitions[0])
        if seen[0] and offset != seen[0][-1] + 1:
            found.append(f"the group is at {offset}, the last transaction at {seen[0][-1]}")
        return found
