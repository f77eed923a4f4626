"""The epochs of containers' claims in etcd, read linearizably: what the guard before acknowledgements asks.

A question that says what it expects is a transaction without changes. It compares the revision of each row that it is
about, and has a range for the other case: while nothing has changed, etcd sends no row, and there is none to decode.

**Invariants**

- An equal revision proves that the mirror has the row as it is, late or not; every other row is read again.
- No question compares more rows than etcd takes: one about more is a read.
- No question is a transaction without a range. etcd answers one that could read nothing from the copy of the member
  that was asked, which may be old (`isTxnSerializable` in its server).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.wire import OPERATIONS_MAX, EtcdError, KeyValue, Range, end_of, unchanged
from core.cluster.etcd_keys import CONTAINERS
from core.cluster.etcd_values import id_of, owner_of
from core.errors import CoordinatorRefuses

EPOCHS_S: Final = 3.0
"""How long a read is tried: a guard that does not answer keeps acknowledgements waiting, and loses nothing."""

RowOfClaim = Callable[[int, int], KeyValue | None]
"""The row of a container in the mirror, if it is that of the claim with this epoch."""


class Epochs:
    """See the module."""

    def __init__(self, client: EtcdClient, prefix: bytes, row_of_claim: RowOfClaim) -> None:
        self._client = client
        self._below = prefix + CONTAINERS
        self._row_of_claim = row_of_claim

    def __repr__(self) -> str:
        return f"<Epochs below {self._below!r}>"

    async def read(self, expected: Mapping[int, int]) -> Mapping[int, int]:
        """The epoch of each container's claim, or those that are expected, if they are so. Raises CoordinatorAway,
        CoordinatorRefuses."""
        all_rows = Range(self._below, end_of(self._below))
        known = [self._row_of_claim(container, epoch) for container, epoch in expected.items()]
        same = [unchanged(row, row.key) for row in known if row is not None]
        if 0 < len(same) <= OPERATIONS_MAX and len(same) == len(known):
            try:
                decided = await self._client.decide(same, (), (all_rows,), EPOCHS_S)
            except EtcdError as error:  # of a lease, of which this names none: so says who answers in etcd's place
                raise CoordinatorRefuses(f"etcd refuses to compare claims: {error}") from error
            if decided.succeeded:
                return expected
            (found,) = decided.found
        else:
            found = (await self._client.read(all_rows, EPOCHS_S)).keys
        rows = ((id_of(row.key[len(self._below) :]), owner_of(row)) for row in found)
        return {container: owner.epoch for container, owner in rows if container is not None and owner is not None}
