"""The report of `penstock recover`, for a person and as JSON.

Keeps: known and unknown losses are never mixed. A count of lost records covers the records that the last snapshot
knew, partition by partition; the report adds that the number of later ones is not known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from core.tiering.snapshots.recovered import Report, SlotLoss
from core.tiering.snapshots.tails import MarkerPlace, TornTransaction
from gateway.transactions.transaction import Transaction, TransactionState

if TYPE_CHECKING:
    from rich.console import Console

FINDINGS_SHOWN: Final = 200
PLACES_SHOWN: Final = 10
_UNKNOWN: Final = SlotLoss(known_end=-1, untiered=0, lost=0, left_out=0)
_OPEN: Final = (TransactionState.ONGOING, TransactionState.PREPARE_COMMIT, TransactionState.PREPARE_ABORT)


@dataclass(frozen=True, slots=True)
class Told:
    """The facts of the report."""

    report: Report
    groups: Sequence[str]
    offsets_moved: int
    offsets_dropped: int
    ids: dict[int, str]  # transactional ids by producer id
    open_ids: Sequence[str]  # with an open transaction at the time of the snapshot
    findings: Sequence[str]

    @property
    def snapshot_ms(self) -> int | None:
        """The time of the oldest of the containers' snapshots; None if there is none."""
        return min(self.report.snapshots.values(), default=None)

    @property
    def losses(self) -> Iterator[SlotLoss]:
        return (loss for stream in self.report.streams for loss in stream.losses.values())

    @property
    def gone(self) -> int:
        """Records that the snapshot knew and that had not reached long-term storage."""
        return sum(loss.untiered for loss in self.losses)


def told_of(
    report: Report, groups: Sequence[str], moved: int, dropped: int, transactions: Sequence[Transaction]
) -> Told:
    """Make the report of a recovery's findings."""
    ids = {
        producer_id: one.transactional_id
        for one in transactions
        for producer_id in (one.last.producer_id, one.producer_id)
        if producer_id >= 0
    }
    open_ids = sorted(one.transactional_id for one in transactions if one.state in _OPEN)
    findings = list(report.findings)
    if dropped:
        findings.append(f"{dropped} group offsets of topics that are not there were left out")
    findings += (_told_of_torn(one, report, ids) for one in report.transactions)
    if report.transactions_more:
        findings.append(f"and {report.transactions_more} more transactions are torn")
    return Told(report, groups, moved, dropped, ids, open_ids, findings)


def _told_of_torn(torn: TornTransaction, report: Report, ids: dict[int, str]) -> str:
    name = ids.get(torn.writer_id)
    whose = f"producer {torn.writer_id} epoch {torn.epoch}" + ("" if name is None else f", {name!r},")
    parts = [f"a committed transaction of {whose}{_ended(torn)} is torn"]
    if torn.here:
        parts.append(f"there in {_places(torn.here, report)}")
    if torn.cut:
        parts.append(f"without its end in {_places(torn.cut, report)}")
    if gone := {place for place in torn.gone if place[:2] not in {cut[:2] for cut in torn.cut}}:
        parts.append(f"gone from {_places(gone, report)}")
    if (rest := torn.slots - len(torn.here) - len(torn.gone)) > 0:
        parts.append(f"of {rest} more partitions it is not known, or they were deleted")
    return ": ".join((parts[0], "; ".join(parts[1:])))


def _ended(torn: TornTransaction) -> str:
    return "" if torn.ended_ms < 0 else f" that ended at {_when(torn.ended_ms)}"


def _places(places: set[MarkerPlace], report: Report) -> str:
    shown = sorted(places)[:PLACES_SHOWN]
    more = f" and {len(places) - len(shown)} more" if len(places) > len(shown) else ""
    return ", ".join(f"{report.stream_names[p.stream_id]}-{p.slot} (offset {p.offset})" for p in shown) + more


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at_ms / 1000))


# As JSON


def in_json(told: Told) -> dict[str, Any]:
    """The report as JSON. Counts are of records; null means unknown."""
    report = told.report
    return {
        "topics": [
            {
                "name": stream.name,
                "partitions": [{"id": slot.slot, "start": slot.start, "end": slot.end} for slot in stream.slots],
            }
            for stream in report.streams
        ],
        "groups": list(told.groups),
        "snapshot_ms": told.snapshot_ms,
        "newest_chunk_ms": report.newest_chunk_ms if report.newest_chunk_ms >= 0 else None,
        "lost": {
            "known_to_snapshot": told.gone if told.snapshot_ms is not None else None,
            "after_snapshot": None,
            "from_long_term_storage": sum(loss.lost for loss in told.losses),
            "left_out": sum(loss.left_out for loss in told.losses),
            "partitions": list(_losses_in_json(report)),
        },
        "group_offsets": {"moved": told.offsets_moved, "dropped": told.offsets_dropped},
        "torn_transactions": [_torn_in_json(torn, told) for torn in report.transactions],
        "torn_transactions_not_listed": report.transactions_more,
        "transactional_ids_open": list(told.open_ids),
        "findings": list(told.findings),
    }


def _losses_in_json(report: Report) -> Iterator[dict[str, Any]]:
    """The known losses, by partition."""
    for stream in report.streams:
        for number, loss in sorted(stream.losses.items()):
            if loss.gone:
                yield {
                    "topic": stream.name,
                    "partition": number,
                    "end_in_snapshot": loss.known_end if loss.known_end >= 0 else None,
                    "known_to_snapshot": loss.untiered,
                    "from_long_term_storage": loss.lost,
                    "left_out": loss.left_out,
                }


def _torn_in_json(torn: TornTransaction, told: Told) -> dict[str, Any]:
    names = told.report.stream_names

    def places(found: set[MarkerPlace]) -> list[dict[str, Any]]:
        return [{"topic": names[p.stream_id], "partition": p.slot, "offset": p.offset} for p in sorted(found)]

    return {
        "transactional_id": told.ids.get(torn.writer_id),
        "producer_id": torn.writer_id,
        "producer_epoch": torn.epoch,
        "ended_ms": torn.ended_ms if torn.ended_ms >= 0 else None,
        "partitions": torn.slots or None,
        "there": places(torn.here),
        "without_end": places(torn.cut),
        "gone": places(torn.gone),
    }


# To a person


def show(told: Told, cluster_id: str, ready: str) -> None:
    """Print tables and sentences on standard output; `ready`, the next step, is the last one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    columns = "topic", "partition", "start", "end", "end in snapshot", "gone"
    shown = Table(*columns, title=f"Cluster {cluster_id}", title_justify="left")
    for stream in told.report.streams:
        empty = 0
        for slot in stream.slots:
            loss = stream.losses.get(slot.slot, _UNKNOWN)
            known_end = "not known" if loss.known_end < 0 else str(loss.known_end)
            if slot.start == slot.end and not loss.gone:
                empty += 1
                continue
            shown.add_row(Text(stream.name), str(slot.slot), str(slot.start), str(slot.end), known_end, str(loss.gone))
        if empty:
            shown.add_row(Text(stream.name), f"{empty} empty", "", "", "", "")
    console.print(shown)
    _show_findings(console, told)
    for line in (*_sentences(told), ready):
        console.print(line, markup=False, soft_wrap=True)


def _show_findings(console: Console, told: Told) -> None:
    for finding in told.findings[:FINDINGS_SHOWN]:
        console.print(f"! {finding}", markup=False, soft_wrap=True)
    if len(told.findings) > FINDINGS_SHOWN:
        console.print(f"! and {len(told.findings) - FINDINGS_SHOWN} more like these: --json has all", markup=False)


def _sentences(told: Told) -> Iterator[str]:
    report = told.report
    yield f"{len(report.streams)} topics in {report.chunks} chunks of {report.bytes} bytes; {report.unused} are unused."
    taken_ms = told.snapshot_ms
    if taken_ms is None:
        yield f"{len(told.groups)} groups: there is no metadata snapshot."
        yield "How many acknowledged records had not reached long-term storage is not known: they are gone."
    else:
        when = _when(taken_ms)
        yield f"{len(told.groups)} groups as of {when}; {told.offsets_moved} offsets moved to existing records."
        yield f"{told.gone} acknowledged records of which that snapshot knew had not reached long-term storage: gone."
        yield (
            "How many were acknowledged after it, and had not reached long-term storage, is not known: they are gone "
            "too. Deletions, configurations and group offsets since then are undone."
        )
    lost, left_out = sum(loss.lost for loss in told.losses), sum(loss.left_out for loss in told.losses)
    if lost:
        yield f"{lost} records had reached long-term storage, and are not there."
    if left_out:
        yield f"{left_out} records are there and were left out, as what lies before them is missing."
    if report.newest_chunk_ms >= 0:
        yield f"The newest object is of {_when(report.newest_chunk_ms)}."
    if report.transactions or report.transactions_more:
        count = len(report.transactions) + report.transactions_more
        yield f"{count} committed transactions are torn: a part of each is readable, the rest is gone."
    yield (
        "Transactional ids begin without state"
        + (f"; {len(told.open_ids)} had a transaction open: its records are gone." if told.open_ids else ".")
    )
