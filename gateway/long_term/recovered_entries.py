"""The two facts of a stored batch that a recovery needs: its writer, and a marker's outcome of its transaction.

Keeps: a batch that cannot be read gives no facts and does not end a recovery.
"""

from __future__ import annotations

from core.tiering.snapshots.tails import EntryWriter, MarkerPlace, TransactionMark
from gateway.records.control_batch import read_marker
from gateway.records.record_batch import read_header
from gateway.wire.errors import InvalidBatch


def entry_writer(payload: memoryview) -> EntryWriter | None:
    """An `EntryWriterOf`."""
    try:
        header = read_header(payload)
        if not header.has_producer_id:
            return None
        mark = None
        if header.is_control:
            marker = read_marker(payload)
            places = tuple(MarkerPlace(*end) for end in marker.ends)
            mark = TransactionMark(marker.committed, header.max_timestamp, marker.partitions, places)
    except InvalidBatch:
        return None
    return EntryWriter(header.producer_id, header.producer_epoch, header.base_sequence, header.is_transactional, mark)
