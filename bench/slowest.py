"""`python -m bench.slowest`: where the slowest 1 % of produce requests spend their time, at a steady rate.

A gateway whose parts note their times (`bench.trace.serve`) is loaded in an open loop, with nothing else up. The first
table has the stations of a request's way: their mean over all requests and over the slowest, and the p99 of each. Then
the same writes, at the same times, are carried out again by a bare writer on the resting disk: what is beyond that is
not the disk's own. The second table has what went on meanwhile: how many of all requests, and how many of the slowest,
met it. The third has the longest incidents: slow requests whose times touch are one, and mostly have one cause.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import disk, loadgen
from bench.comparison import PROMPT_LINGER_MS
from bench.servers import Penstock
from bench.trace import serve

RECORD_BYTES: Final = 1000
WARM_SECONDS: Final = 5.0
SLOWEST: Final = 0.01
INCIDENTS: Final = 10
INCIDENT_NS_MIN: Final = 2_000_000
WAITS_MAX: Final = 1_000
"""Notes of a thread within one request's time that are looked at."""
STATIONS: Final = (
    "arrived: found and begun",
    "begun: appended",
    "appended: handed to the writer",
    "handed on: the group before is done",
    "handed on: the thread has it",
    "taken: staged",
    "staged: the system call begins",
    "write and sync",
    "synced: the thread has the interpreter",
    "reported: heard on the loop",
    "heard: the answer is with the socket",
)


@dataclass(slots=True)
class Group:
    """What the writer wrote and synced at once."""

    taken: int
    lsns: list[int]
    before: int  # when the group before was done
    staged: int = 0
    asked: int = 0
    began: int = 0
    ended: int = 0
    back: int = 0
    heard: int = 0
    size: int = 0  # bytes; 0 for a group that was not one write


@dataclass(slots=True)
class Request:
    """One Produce."""

    arrived: int
    begun: int
    appended: int = 0
    lsn: int = 0
    sent: int = 0


@dataclass(slots=True)
class Trace:
    """The notes of one gateway."""

    requests: list[Request] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    queued: dict[int, int] = field(default_factory=dict)
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    waits: list[tuple[int, int]] = field(default_factory=list)
    """Of the loop's thread for a processor: until then, nanoseconds in all."""
    writer_waits: list[tuple[int, int]] = field(default_factory=list)


def main() -> int:
    options = _options()
    scratch = Path(os.environ.get("BENCH_DIR", loadgen.BUILD / "scratch")).resolve() / "slowest"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    disk.require_disk(scratch)
    loadgen.build()
    try:
        for rate in options.rates:
            _measure(rate, options, scratch / str(rate))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.slowest", description=__doc__)
    parser.add_argument("--rates", nargs="+", type=int, default=[10, 30, 50], metavar="MB/S")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the gateway")
    parser.add_argument("--notes", type=Path, help="keep the notes in this file")
    return parser.parse_args()


def _measure(rate: int, options: argparse.Namespace, scratch: Path) -> None:
    notes = scratch / "notes"
    settings: dict[str, object] = dict(pair.split("=", 1) for pair in options.set)
    server = Penstock(
        scratch, settings, {serve.FILE: str(notes), "PYTHONPATH": str(loadgen.ROOT)}, module=serve.__name__
    )
    with contextlib.closing(_Stopping(server)):
        server.create_topic("slowest", options.partitions)
        load = loadgen.run(
            "produce",
            server.bootstrap,
            "slowest",
            size=RECORD_BYTES,
            rate=rate * 1_000_000 // RECORD_BYTES,
            partitions=options.partitions,
            latency=1,
            linger_ms=PROMPT_LINGER_MS,
            seconds=options.seconds,
            warmup=WARM_SECONDS,
        )
    print(f"\n{rate} MB/s, p50, p99, p99.9 of the client: {load.p50_ms:.2f}, {load.p99_ms:.2f}, {load.p99_9_ms:.2f} ms")
    if options.notes:
        shutil.copyfile(notes, options.notes)
    _report(read(notes.read_text().splitlines()), scratch)


class _Stopping:
    def __init__(self, server: Penstock) -> None:
        self.close = server.stop


def read(lines: Sequence[str]) -> Trace:
    """Put the notes together. The first seconds, while everything is new, are left out."""
    trace, running = Trace(), dict[int, Request]()
    group: Group | None = None
    for kind, *values in map(json.loads, lines):
        if kind == "begin":
            running[values[0]] = Request(values[1], values[2])
        elif kind == "appended":
            running[values[0]].appended, running[values[0]].lsn = values[1:]
        elif kind == "sent":
            for number in values[1:]:
                if (request := running.pop(number, None)) is not None:
                    request.sent = values[0]
                    trace.requests.append(request)
        elif kind == "queued":
            trace.queued[values[0]] = values[1]
        elif kind == "taken":
            before = trace.groups[-1].back if trace.groups else 0
            group = Group(values[0], values[1], before)
            trace.groups.append(group)
        elif kind == "staged" and group is not None:
            group.staged = values[0]
        elif kind == "sync" and group is not None:
            group.asked, group.began, group.ended, group.back = values[:4]
            group.size = values[5]
            trace.writer_waits.append((values[2], values[4]))
        elif kind == "heard":
            trace.waits.append((values[1], values[2]))
            found = bisect.bisect_left(trace.groups, values[0], key=lambda one: one.lsns[-1])
            if found < len(trace.groups):
                trace.groups[found].heard = values[1]
        elif kind == "span":
            trace.spans[values[0]].append((values[1], values[2]))
    from_ns = trace.requests[0].arrived + int(WARM_SECONDS * 1e9) if trace.requests else 0
    trace.requests = [request for request in trace.requests if request.arrived >= from_ns]
    return trace


def stations(trace: Trace) -> Iterator[tuple[Request, list[int]]]:
    """Each request with the nanoseconds of its way, station by station."""
    ends = sorted(trace.queued)
    lasts = [group.lsns[-1] for group in trace.groups]
    for request in trace.requests:
        at, of = bisect.bisect_left(ends, request.lsn), bisect.bisect_left(lasts, request.lsn)
        if at == len(ends) or of == len(lasts) or not trace.groups[of].heard:
            continue
        group, queued = trace.groups[of], trace.queued[ends[at]]
        free = max(queued, min(group.before, group.taken))
        way = [
            *(request.arrived, request.begun, request.appended, queued, free, group.taken, group.staged),
            *(group.began, group.ended, group.back, group.heard, request.sent),
        ]
        yield request, [after - before for before, after in itertools.pairwise(way)]


def _report(trace: Trace, scratch: Path) -> None:
    ways = sorted(stations(trace), key=lambda way: sum(way[1]))
    slow = ways[-max(1, int(len(ways) * SLOWEST)) :]
    totals = [sum(way) for _, way in ways]
    percentiles = ", ".join(f"p{share * 100:g} {_at(totals, share):.2f}" for share in (0.5, 0.99, 0.999))
    print(
        f"{len(ways)} requests, from their last byte to their answer: {percentiles} ms; the slowest 1 % are {len(slow)}"
    )
    waited = [max(_waited(request, waits) for waits in (trace.waits, trace.writer_waits)) for request, _ in ways]
    rest = sorted(max(0, total - wait) for total, wait in zip(totals, waited, strict=True))
    print(f"  without the waits of one of the two threads for a processor: p99 {_at(rest, 0.99):.2f} ms")
    print(f"  {'station, ms':42} {'all':>8} {'p99':>8} {'slowest':>8} {'share':>6}")
    whole = sum(sum(way) for _, way in slow)
    for number, station in enumerate(STATIONS):
        every, some = [way[number] for _, way in ways], [way[number] for _, way in slow]
        mean, slowest = sum(every) / len(every) / 1e6, sum(some) / len(some) / 1e6
        print(f"  {station:42} {mean:8.3f} {_at(sorted(every), 0.99):8.3f} {slowest:8.3f} {sum(some) / whole:6.0%}")
    writes = [group for group in trace.groups if group.began and group.size]
    _tell_calls("write and sync by itself", [group.ended - group.began for group in writes])
    again = disk.due_writes(scratch, [((group.began - writes[0].began) / 1e9, group.size) for group in writes])
    _tell_calls("the same by a bare writer, nothing beside", [int(call_s * 1e9) for _, call_s in again])
    spans = {
        **trace.spans,
        "loop's thread without a processor, > 0.5 ms": list(_waits(trace.waits)),
        "writer's thread without a processor, > 0.5 ms": list(_waits(trace.writer_waits)),
    }
    print(f"  {'meanwhile':50} {'number':>7} {'mean ms':>8} {'max ms':>8} {'all':>6} {'slowest':>8}")
    for name, times in sorted(spans.items()):
        if times:
            lengths = [(end - start) / 1e6 for start, end in times]
            met = [sum(_meets(request, times) for request, _ in some) / len(some) for some in (ways, slow)]
            mean = sum(lengths) / len(lengths)
            print(f"  {name:50} {len(times):7} {mean:8.2f} {max(lengths):8.2f} {met[0]:6.1%} {met[1]:8.1%}")
    print("  incidents: ms, requests, the longest stations of their groups, what went on meanwhile")
    for began, ended, count in sorted(_incidents(slow), key=lambda one: one[0] - one[1])[:INCIDENTS]:
        held = sorted(_held(trace.groups, began, ended), reverse=True)[:2]
        told = ", ".join(f"{length / 1e6:.1f} {name}" for length, name in held)
        beside = ", ".join(
            f"{(end - start) / 1e6:.1f} {name}"
            for name, times in spans.items()
            for start, end in times
            if start < ended and end > began and end - start > INCIDENT_NS_MIN and name != "spare filled"
        )
        print(f"  {(ended - began) / 1e6:8.1f} {count:4}  {told} | {beside}")


def _tell_calls(who: str, calls_ns: list[int]) -> None:
    calls = sorted(calls_ns)
    print(f"  {who}: {', '.join(f'p{s * 100:g} {_at(calls, s):.2f}' for s in (0.5, 0.99, 0.999))} ms")


def _incidents(slow: list[tuple[Request, list[int]]]) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of slow requests whose times touch."""
    began, ended, count = 0, -1, 0
    for request in sorted((request for request, _ in slow), key=lambda one: one.arrived):
        if request.arrived > ended and count:
            yield began, ended, count
            count = 0
        began = began if count else request.arrived
        ended, count = max(ended, request.sent) if count else request.sent, count + 1
    if count:
        yield began, ended, count


def _held(groups: list[Group], began: int, ended: int) -> Iterator[tuple[int, str]]:
    """Time of each station of the groups that were with the writer in this stretch."""
    for group in groups:
        if group.heard > began and group.taken < ended:
            way = (group.taken, group.staged, group.began, group.ended, group.back, group.heard)
            yield from zip((after - before for before, after in itertools.pairwise(way)), STATIONS[5:10], strict=True)


def _waits(waits: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Stretches between two notes of a thread in which it was ready and did not run for long."""
    for (before, sum_before), (at, sum_at) in itertools.pairwise(waits):
        if sum_at - sum_before > serve.TURN_NS_MIN:
            yield before, at


def _waited(request: Request, waits: list[tuple[int, int]]) -> int:
    """Nanoseconds of the request's time in which a thread was ready and had no processor, at most."""
    first = max(1, bisect.bisect_right(waits, request.arrived, key=lambda note: note[0]))
    waited = 0
    for (before, sum_before), (at, sum_at) in itertools.pairwise(waits[first - 1 : first + WAITS_MAX]):
        if before >= request.sent:
            break
        waited += min(sum_at - sum_before, min(at, request.sent) - max(before, request.arrived))
    return waited


def _meets(request: Request, times: list[tuple[int, int]]) -> bool:
    """Whether any of these stretches, which are in the order of their ends, lies in the request's time."""
    first = bisect.bisect_left(times, request.arrived, key=lambda span: span[1])
    return any(start < request.sent for start, _ in times[first : first + 4])


def _at(values: Sequence[Any], share: float) -> float:
    return float(values[int(share * (len(values) - 1))]) / 1e6


if __name__ == "__main__":
    main()
