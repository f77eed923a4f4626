"""Transactions: `transaction.py` is the state machine (no I/O, no clock), `persistence.py` what is stored,
`coordinator.py` the shell around both, `partitions.py` what there is of a transaction in its partitions, `writes.py`
what a Produce must pass."""

from gateway.transactions.coordinator import TransactionCoordinator

__all__ = ["TransactionCoordinator"]
