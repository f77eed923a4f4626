"""Answers of several workers as one: what the REST API tells of the whole gateway.

Every worker knows all streams, and counts what lies in its own containers. So counts, bytes and rates are added up;
what is decided in one place (names, cuts, states) is taken from the worker that knows the newest.

Invariant: all functions are pure, take at least one answer, and give the same whatever the order of the workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from math import fsum
from typing import Any, Final, TypeVar

from gateway.http.health_models import FailedRequests, HealthReport, ThroughputHistory, WarningList
from gateway.http.heat import SAMPLES
from gateway.http.models import (
    EpochView,
    EventList,
    GroupList,
    HeatHistory,
    MapSegment,
    Overview,
    SegmentHeat,
    SegmentView,
    StreamList,
    StreamMap,
    StreamSummary,
    StreamView,
    Tiers,
)
from gateway.http.node_models import NodeList
from gateway.http.topic_models import PartitionList, PartitionRow, TopicList, TopicRow
from gateway.metrics.merging import merged

OF_OTHERS: Final = ("silent", "gone", "stopped")
"""States that a node tells of others only."""

_S = TypeVar("_S", bound=StreamSummary)


def overview(answers: Sequence[Overview]) -> Overview:
    """The totals. The phase is the worst of all: one worker that does not serve is worth to know."""
    added = (
        *("groups", "connections", "produced_bytes", "produced_records", "fetched_bytes", "log_bytes"),
        *("log_limit_bytes", "chunk_bytes", "cache_bytes", "cache_limit_bytes", "events_total"),
    )
    first = min(answers, key=lambda one: (one.version, one.cluster_id, one.phase))
    phases = sorted({one.phase for one in answers} - {"serving"})
    whole: dict[str, Any] = {name: sum(getattr(one, name) for one in answers) for name in added}
    return first.model_copy(
        update=whole
        | {
            "phase": phases[0] if phases else first.phase,
            "time_ms": max(one.time_ms for one in answers),
            "topics": max(one.topics for one in answers),
            "long_term": any(one.long_term for one in answers),
        }
    )


def streams(answers: Sequence[StreamList], limit: int) -> StreamList:
    """Streams by name, as many as one worker would list."""
    by_name: dict[str, list[StreamSummary]] = {}
    for answer in answers:
        for summary in answer.streams:
            by_name.setdefault(summary.name, []).append(summary)
    listed = [_summed(by_name[name]) for name in sorted(by_name)[:limit]]
    return StreamList(streams=listed, total=max(answer.total for answer in answers))


def stream(answers: Sequence[StreamView]) -> StreamView:
    """One stream with its epochs, those of the worker that knows the newest."""
    newest = max(answers, key=_age)
    known = [epoch for one in answers for epoch in one.epochs]
    epochs = [_epoch([other for other in known if other.epoch == epoch.epoch], epoch) for epoch in newest.epochs]
    limits = _limits([one.limits for one in answers])
    return _summed(answers).model_copy(update={"epochs": epochs, "limits": limits})


def stream_map(answers: Sequence[StreamMap]) -> StreamMap:
    """The rectangles of a stream, each once."""
    newest = max(answers, key=_age)
    by_id: dict[int, list[MapSegment]] = {}
    for answer in answers:
        for segment in answer.segments:
            by_id.setdefault(segment.id, []).append(segment)
    return newest.model_copy(
        update={
            "time_ms": max(one.time_ms for one in answers),
            "truncated": any(one.truncated for one in answers),
            "limits": _limits([one.limits for one in answers]),
            "segments": [
                segment.model_copy(update=_measured(by_id[segment.id]) | {"node": _leader(by_id[segment.id])})
                for segment in newest.segments
            ],
        }
    )


def heat(answers: Sequence[HeatHistory]) -> HeatHistory:
    """The loads of a stream's segments, each as the worker remembers it that had it: the others know nothing of it."""
    end_ms = max(one.end_ms for one in answers)
    known: dict[int, list[list[int | None]]] = {}
    for answer in answers:
        later = min((end_ms - answer.end_ms) // answer.period_ms, SAMPLES)  # one that has just started knows no time
        for segment in answer.segments:
            known.setdefault(segment.id, []).append([*segment.loads, *[None] * later][-SAMPLES:])
    newest = max(answers, key=lambda one: (one.end_ms, one.model_dump_json()))
    segments = [SegmentHeat(id=number, loads=_overlaid(known[number])) for number in sorted(known)]
    return newest.model_copy(update={"segments": segments})


def _overlaid(same: Sequence[Sequence[int | None]]) -> list[int | None]:
    """Samples that end at the same time: at each, the largest that is known."""
    backwards = zip_longest(*map(reversed, same))
    return [max((load for load in loads if load is not None), default=None) for loads in backwards][::-1]


def topics(answers: Sequence[TopicList]) -> TopicList:
    """The same page of all workers, which know the same names."""
    by_name: dict[str, list[TopicRow]] = {}
    for answer in answers:
        for row in answer.topics:
            by_name.setdefault(row.name, []).append(row)
    most = max(len(answer.topics) for answer in answers)
    return TopicList(
        topics=[_added(by_name[name]) for name in sorted(by_name)[:most]],
        found=max(answer.found for answer in answers),
        total=max(answer.total for answer in answers),
        truncated=any(answer.truncated for answer in answers),
    )


def _added(same: Sequence[TopicRow]) -> TopicRow:
    """One topic as several workers see it."""
    newest = max(same, key=lambda row: (row.partitions, row.state == "sealed", row.model_dump_json()))
    return newest.model_copy(
        update={
            "bytes": sum(row.bytes for row in same),
            "rate_bytes": fsum(row.rate_bytes for row in same),
            "rate_events": fsum(row.rate_events for row in same),
            "groups": sum(row.groups for row in same),
        }
    )


def partitions(answers: Sequence[PartitionList]) -> PartitionList:
    """Each partition as the worker tells it that has it; else as the one that knows the newest."""
    newest = max(answers, key=lambda one: (one.total, one.model_dump_json()))
    known: dict[int, list[PartitionRow]] = {}
    for answer in answers:
        for row in answer.partitions:
            known.setdefault(row.partition, []).append(row)
    rows = [
        max(known[number], key=lambda row: (row.here, row.end_offset or 0, row.model_dump_json()))
        for number in sorted(known)
    ]
    return newest.model_copy(update={"partitions": rows})


def groups(answers: Sequence[GroupList]) -> GroupList:
    """All groups by name. A group lives in one worker."""
    return GroupList(
        groups=sorted(
            (group for one in answers for group in one.groups), key=lambda one: (one.name, one.model_dump_json())
        ),
        found=sum(one.found for one in answers),
        total=sum(one.total for one in answers),
        measured_ms=min(one.measured_ms for one in answers),
        loading=any(one.loading for one in answers),
    )


def events(answers: Sequence[EventList], limit: int) -> EventList:
    """The newest scales of all; what several workers tell alike, once."""
    events = {event.model_dump_json(): event for one in answers for event in one.events}
    found = sorted(events.items(), key=lambda item: (-item[1].time_ms, item[1].stream, -item[1].epoch, item[0]))
    hot = {(one.stream, one.segment, one.message): one for answer in answers for one in answer.limits}
    return EventList(events=[event for _, event in found[:limit]], limits=[hot[key] for key in sorted(hot)])


def health(answers: Sequence[HealthReport]) -> HealthReport:
    """The logs of all, each disk once, failures added up."""
    failed: Counter[int] = Counter()
    for answer in answers:
        failed.update({one.api: one.count for one in answer.failed_requests})
    disks = {
        disk.path: disk for answer in sorted(answers, key=lambda one: one.model_dump_json()) for disk in answer.disks
    }
    return HealthReport(
        time_ms=max(one.time_ms for one in answers),
        concerns=sorted({line for one in answers for line in one.concerns}),
        logs=sorted(
            (log for one in answers for log in one.logs), key=lambda log: (log.container, log.model_dump_json())
        ),
        disks=[disks[path] for path in sorted(disks)],
        failed_requests=[
            FailedRequests(api=api, count=count)
            for api, count in sorted(failed.items(), key=lambda one: (-one[1], one[0]))
        ],
    )


def health_of_machines(reports: Mapping[str, HealthReport], silent: Sequence[str]) -> HealthReport:
    """The same of nodes on machines of their own: troubles and disks have the name of the node, and who has not
    answered is a trouble."""
    named = [
        report.model_copy(
            update={
                "concerns": [f"{name}: {line}" for line in report.concerns],
                "disks": [disk.model_copy(update={"path": f"{name}: {disk.path}"}) for disk in report.disks],
            }
        )
        for name, report in reports.items()
    ]
    whole = health(named)
    away = [f"{name} does not answer: its logs and disks are not shown" for name in silent]
    return whole.model_copy(update={"concerns": [*away, *whole.concerns]})


def nodes(answers: Sequence[NodeList]) -> NodeList:
    """Each node as it tells of itself, if it does; else as the others see it. Who is certain of the rest is believed,
    and of these the newest."""
    newest = max(answers, key=lambda one: (one.certain, one.time_ms, one.model_dump_json()))
    own = {row.id: row for one in answers for row in one.nodes if row.state not in OF_OTHERS}
    seen = {row.id: row for row in newest.nodes} | own
    return newest.model_copy(
        update={"time_ms": max(one.time_ms for one in answers), "nodes": [seen[number] for number in sorted(seen)]}
    )


def history(answers: Sequence[ThroughputHistory]) -> ThroughputHistory:
    """Added up from the last sample backwards: the workers' periods begin at different moments."""

    def added(name: str) -> list[int]:
        backwards = zip_longest(*(reversed(getattr(one, name)) for one in answers), fillvalue=0)
        return [sum(each) for each in backwards][::-1]

    return ThroughputHistory(
        period_ms=max(one.period_ms for one in answers),
        end_ms=max(one.end_ms for one in answers),
        bytes_in=added("bytes_in"),
        bytes_out=added("bytes_out"),
        records_in=added("records_in"),
    )


def warnings(answers: Sequence[WarningList], limit: int) -> WarningList:
    """The newest of all."""
    found = sorted(
        (line for one in answers for line in one.warnings), key=lambda line: (-line.time_ms, line.level, line.text)
    )
    return WarningList(warnings=found[:limit], total=sum(one.total for one in answers))


def _age(one: StreamSummary | StreamMap) -> tuple[int, bool, str]:
    """How much a worker knows of a stream: its last epoch, its end; the rest only makes the choice the same always."""
    return one.epoch, one.state == "sealed", one.model_dump_json()


def _summed(same: Sequence[_S]) -> _S:
    """One stream as several workers see it."""
    newest: _S = max(same, key=_age)
    return newest.model_copy(
        update={
            "appended_bytes": sum(one.appended_bytes for one in same),
            "appended_events": sum(one.appended_events for one in same),
            "tiers": Tiers(
                log=sum(one.tiers.log for one in same),
                chunks=sum(one.tiers.chunks for one in same),
            ),
            "rate_bytes": fsum(one.rate_bytes for one in same),  # whose sum knows no order
            "rate_events": fsum(one.rate_events for one in same),
        }
    )


def _limits(told: Sequence[Sequence[str]]) -> list[str]:
    """Sentences about hot segments, each worker's hottest first, then the remedies, which each tells last."""
    ranks: dict[str, int] = {}
    for sentences in told:
        for rank, sentence in enumerate(sentences[:-1]):
            ranks[sentence] = min(rank, ranks.get(sentence, rank))
    remedies = {sentences[-1] for sentences in told if sentences}
    return [*sorted(ranks, key=lambda sentence: (ranks[sentence], sentence)), *sorted(remedies)]


def _epoch(same_epoch: Sequence[EpochView], epoch: EpochView) -> EpochView:
    known: dict[int, list[SegmentView]] = {}
    for one in same_epoch:
        for segment in one.segments:
            known.setdefault(segment.id, []).append(segment)
    segments = [segment.model_copy(update=_measured(known[segment.id])) for segment in epoch.segments]
    return epoch.model_copy(update={"segments": segments})


def _measured(same: Sequence[SegmentView] | Sequence[MapSegment]) -> dict[str, Any]:
    """What was measured of one segment. Its slots lie in one container, so one worker knows, and the others say 0."""
    return {
        "bytes": max(one.bytes for one in same),
        "rate_bytes": max(one.rate_bytes for one in same),
        "rate_events": max(one.rate_events for one in same),
    }


def _leader(same: Sequence[MapSegment]) -> int | None:
    """The node of a segment, if any worker knows it."""
    return max((one.node for one in same if one.node is not None), default=None)


def exposition(texts: Mapping[str, bytes], silent: int) -> str:
    """All workers' metrics, each with its worker as a label."""
    head = (
        "# HELP penstock_workers Workers, by whether their metrics are in this exposition\n"
        "# TYPE penstock_workers gauge\n"
        f'penstock_workers{{state="answering"}} {len(texts)}\n'
        f'penstock_workers{{state="silent"}} {silent}\n'
    )
    return head + merged({worker: text.decode(errors="replace") for worker, text in texts.items()}, "worker")
