"""Penstock with a bug planted in it, to see whether the checker finds it. Nothing of this is in the gateway itself.

python -m compat_tests.histories.broken_gateway fencing -- serve --listen 127.0.0.1:0 ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from kio.schema.errors import ErrorCode

import gateway.transactions.participant
from core.streams.live import Slot
from gateway.cli.app import main as serve
from gateway.refusals import Refusal
from gateway.transactions.participant import Participant
from gateway.transactions.transaction import PREPARED, Identity, Place, Transaction


@dataclass(frozen=True)
class Bug:
    """A planted bug, and the kinds of anomaly of which at least one must be found."""

    plant: Callable[[], None]
    shows: frozenset[str]


def turn_off_fencing() -> None:
    """The coordinator takes a producer that has been succeeded for the newest one."""

    def admit(self: Transaction, identity: Identity) -> None:
        if self.state in PREPARED:
            raise Refusal(ErrorCode.concurrent_transactions)

    Transaction.admit = admit  # type: ignore[method-assign]
    Transaction._admit_identity = lambda self, identity: None  # type: ignore[method-assign]


def forget_a_marker() -> None:
    """A transaction ends in all of its partitions but the last."""
    all_slots = Participant._slots

    def slots(self: Participant, places: Iterable[Place]) -> Iterator[Slot]:
        found = list(all_slots(self, places))
        yield from found[:-1] if len(found) > 1 else found

    Participant._slots = slots  # type: ignore[method-assign]


def commit_what_is_aborted() -> None:
    """Every marker says commit."""
    ends: Any = gateway.transactions.participant.transaction_ends

    def transaction_ends(*arguments: Any, committed: bool, **named: Any) -> Any:
        return ends(*arguments, committed=True, **named)

    gateway.transactions.participant.transaction_ends = transaction_ends


def forget_offsets() -> None:
    """A commit leaves the group's offsets where they were."""
    Participant._committed = lambda self, pending: {}  # type: ignore[method-assign]


BUGS: Final[Mapping[str, Bug]] = {
    "fencing": Bug(turn_off_fencing, frozenset({"zombie", "aborted read", "torn"})),
    "marker": Bug(forget_a_marker, frozenset({"stuck", "torn", "unseen"})),
    "abort": Bug(commit_what_is_aborted, frozenset({"aborted read"})),
    "offsets": Bug(forget_offsets, frozenset({"consumed twice"})),
}


def main() -> None:
    bug, separator, *arguments = sys.argv[1:]
    if bug not in BUGS or separator != "--":
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(BUGS)} -- ARGUMENTS OF penstock")
    BUGS[bug].plant()
    sys.argv[1:] = arguments
    serve()


if __name__ == "__main__":
    main()
