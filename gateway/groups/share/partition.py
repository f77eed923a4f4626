"""One share-partition (KIP-932): which records of a partition a share group has yet to settle, and who holds them.

A pure state machine. The offsets from `start` to `end` are covered by runs: neighbours in the same state. Below `start`
everything is settled, from `end` on nothing was delivered yet. Settled is a record that was accepted, or that never was
one (a gap, a marker). One that was rejected, or delivered as often as the limit allows, is settled too, but for a group
with a dead-letter topic: there it is dead, and settled when it lies in that topic.

Keeps: a record has one holder at most; a delivery is counted when a holder gets the record; the first run is never a
settled one, no two neighbours could be one. So there are at most two runs for each record that is not settled, and of
those there are no more than a group's limit.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, NamedTuple

from kio.schema.errors import ErrorCode

from gateway.refusals import Refusal


class State(enum.IntEnum):
    """What a run of records is; the numbers are stored, all but that of HELD."""

    AVAILABLE = 0
    HELD = 1
    SETTLED = 2
    REJECTED = 3
    """Dead: by a member's word."""
    EXHAUSTED = 4
    """Dead: delivered too often."""


DEAD: Final = frozenset({State.REJECTED, State.EXHAUSTED})


class Verdict(enum.IntEnum):
    """What a member says of a record; Kafka's numbers."""

    GAP = 0
    ACCEPT = 1
    RELEASE = 2
    REJECT = 3
    RENEW = 4


class Span(NamedTuple):
    """Offsets from `first` to `last`, both included; `is_data`: records that a member may get; `is_free`: this one."""

    first: int
    last: int
    is_data: bool = True
    is_free: bool = True

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Dead(NamedTuple):
    """Records that wait for their place in a dead-letter topic; `state` says why."""

    first: int
    last: int
    deliveries: int
    state: State


class Acquired(NamedTuple):
    """Records that a member holds now, and how often each was delivered, this time included."""

    first: int
    last: int
    deliveries: int


class Judgement(NamedTuple):
    """What a member says of its records from `first` to `last`: one verdict for all, or one for each."""

    first: int
    last: int
    verdicts: Sequence[int]

    def since(self, start: int) -> Judgement:
        """What it says of records from an offset on."""
        if self.first >= start:
            return self
        verdicts = self.verdicts if len(self.verdicts) == 1 else self.verdicts[start - self.first :]
        return Judgement(start, self.last, verdicts)


def in_order(judgements: Iterable[Judgement]) -> Iterator[Judgement]:
    """Judgements as a member may say them: in the order of offsets, with verdicts that there are. Raises Refusal at the
    first that is not."""
    before = -1
    for judgement in judgements:
        if judgement.first <= before or judgement.last < judgement.first:
            raise Refusal(ErrorCode.invalid_request, "Acknowledgement batches must be in order.")
        before = judgement.last
        size = judgement.last - judgement.first + 1
        if len(judgement.verdicts) not in (1, size) or not _VERDICTS.issuperset(judgement.verdicts):
            raise Refusal(ErrorCode.invalid_request, "Invalid acknowledge type.")
        yield judgement


def judged(first: int, last: int, verdicts: Sequence[int]) -> Judgement:
    """A judgement in its shortest form: clients say the same of each record in most cases."""
    if len(verdicts) == last - first + 1 and len(set(verdicts)) == 1:
        verdicts = verdicts[:1]
    return Judgement(first, last, verdicts)


class Limits(NamedTuple):
    """A group's settings, as they are now."""

    lock_s: float
    deliveries: int
    in_flight: int
    keeps_dead: bool = False
    """There is a dead-letter topic."""


@dataclass(slots=True)
class Run:
    """Neighbouring records in the same state. `count`: deliveries; `holder` and `until_s` of records that are held."""

    first: int
    last: int
    state: State
    count: int = 0
    holder: str = ""
    until_s: float = math.inf

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def split(self, offset: int) -> Run:
        """Have this run end before an offset; what lay from there on."""
        rest = Run(offset, self.last, self.state, self.count, self.holder, self.until_s)
        self.last = offset - 1
        return rest

    def continues(self, before: Run) -> bool:
        """Could this run and its left neighbour be one?"""
        if self.state is State.SETTLED:
            return before.state is State.SETTLED
        same = self.state is before.state and self.count == before.count and self.holder == before.holder
        return same and self.until_s == before.until_s


NOT_ACQUIRED: Final = "The offset cannot be acknowledged. The offset is not acquired."
"""Kafka's words."""


class SharePartition:
    """See the module. `changed`: something that must survive a restart has changed since it was last set to False."""

    def __init__(self, start: int, runs: Iterable[Run] = ()) -> None:
        self.start = start
        self.runs: list[Run] = list(runs)
        self.changed = False

    def __repr__(self) -> str:
        return f"<SharePartition {self.start} to {self.end}, {len(self.runs)} runs>"

    @property
    def end(self) -> int:
        """The first offset that was never delivered."""
        return self.runs[-1].last + 1 if self.runs else self.start

    @property
    def in_flight(self) -> int:
        """Records between start and end that are not settled."""
        return sum(run.size for run in self.runs if run.state is not State.SETTLED)

    @property
    def has_available(self) -> bool:
        """Were records given back that nobody has taken yet?"""
        return any(run.state is State.AVAILABLE for run in self.runs)

    def is_full(self, limits: Limits) -> bool:
        """Are as many in flight as may be?"""
        return self.in_flight >= limits.in_flight

    def next_offset(self, limits: Limits) -> int | None:
        """The first offset that a member can get; None while so many are in flight that there is none."""
        for run in self.runs:
            if run.state is State.AVAILABLE:
                return run.first
        return None if self.is_full(limits) else self.end

    # Delivery

    def acquire(
        self,
        member_id: str,
        at: int,
        spans: Sequence[Span],
        records_max: int,
        limits: Limits,
        now_s: float,
        *,
        whole: bool = False,
    ) -> list[Acquired]:
        """Give a member available records out of what was read from the offset `at` on, in order. What nobody shall
        get, a span that is no data or a hole before a span, is settled on the way. `whole`: the span in which
        `records_max` is reached is given whole."""
        room = limits.in_flight - self.in_flight
        until_s = now_s + limits.lock_s
        acquired: list[Acquired] = []
        index = 0
        while index < len(spans) and records_max > 0:
            span, index = _joined(spans, index, records_max)
            if span.first > at:
                self._settle_unread(at, span.first - 1)
            at = span.last + 1
            if not span.is_data:
                self._settle_unread(span.first, span.last)
                continue
            wanted = self._available(span) if span.is_free else []
            wants = span.size if whole or not span.is_free else records_max - sum(run.size for run in wanted)
            new = min(span.last + 1 - max(self.end, span.first), room, wants)
            if new > 0:
                room -= new
                unseen = self._extend(max(self.end, span.first) + new - 1, State.AVAILABLE)
                wanted += [unseen] if span.is_free else []
            for run in wanted:
                if records_max <= 0 and not whole:
                    break
                if run.size > records_max and not whole:
                    self._cut(run.first + records_max)
                records_max -= run.size
                run.state, run.count, run.holder, run.until_s = State.HELD, run.count + 1, member_id, until_s
                acquired.append(Acquired(run.first, run.last, run.count))
            if self.end <= span.last:
                break  # there was no room for all of it
        self._tidy()
        return acquired

    def _available(self, span: Span) -> list[Run]:
        return [run for run in self._between(span.first, span.last) if run.state is State.AVAILABLE]

    def _settle_unread(self, first: int, last: int) -> None:
        for run in self._between(first, last):
            if run.state is State.AVAILABLE:
                self._settle(run)
        if last >= self.end:
            self._extend(last, State.SETTLED)
            self.changed = True

    def _extend(self, last: int, state: State) -> Run:
        """Take new offsets in, up to `last`."""
        run = Run(self.end, last, state)
        self.runs.append(run)
        return run

    # Acknowledgement

    def acknowledge(self, member_id: str, judgements: Sequence[Judgement], limits: Limits, now_s: float) -> None:
        """Carry out what a member says of records that it holds: all of it, or, if any is not held by it, nothing. What
        it says of records below the start changes nothing and is no error, as in Kafka: a member whose answer was lost
        says it again. Raises Refusal."""
        judgements = [one.since(self.start) for one in in_order(judgements) if one.last >= self.start]
        if not judgements:
            return
        self._require_held(member_id, judgements, now_s)
        self._judge(itertools.chain.from_iterable(map(_pieces, judgements)), limits, now_s)
        self._tidy()

    def _require_held(self, member_id: str, judgements: Sequence[Judgement], now_s: float) -> None:
        runs = self.runs
        index = bisect.bisect_left(runs, judgements[0].first, key=_last)
        for judgement in judgements:
            at = judgement.first
            while index < len(runs) and runs[index].last < at:
                index += 1
            while at <= judgement.last:
                run = runs[index] if index < len(runs) else None
                if run is None or run.first > at or run.holder != member_id or run.until_s <= now_s:
                    raise Refusal(ErrorCode.invalid_record_state, NOT_ACQUIRED)
                at = run.last + 1
                index += at <= judgement.last  # the next judgement may be of the rest of this run

    def _judge(self, pieces: Iterable[tuple[int, int, Verdict]], limits: Limits, now_s: float) -> None:
        """Cut the runs where the verdict changes, and carry it out. The pieces are in order, and covered by runs."""
        judged: list[Run] = []
        runs = iter(self.runs)
        run = next(runs)
        for first, last, verdict in pieces:
            while run.last < first:
                judged.append(run)
                run = next(runs)
            if run.first < first:
                rest = run.split(first)
                judged.append(run)
                run = rest
            while run.last < last:
                self._carry_out(run, verdict, limits, now_s)
                judged.append(run)
                run = next(runs)
            behind = run.split(last + 1) if run.last > last else None
            self._carry_out(run, verdict, limits, now_s)
            if behind is not None:
                judged.append(run)
                run = behind
        self.runs = [*judged, run, *runs]

    def _carry_out(self, run: Run, verdict: Verdict, limits: Limits, now_s: float) -> None:
        if verdict is Verdict.RENEW:
            run.until_s = now_s + limits.lock_s
        elif verdict is Verdict.RELEASE:
            self._give_back(run, limits)
        elif verdict is Verdict.REJECT:
            self._give_up(run, State.REJECTED, limits)
        else:
            self._settle(run)

    def take_back(self, member_id: str, acquired: Iterable[Acquired], limits: Limits) -> None:
        """What a member was given, and was never told of, is available to others."""
        for one in acquired:
            for run in self._between(one.first, one.last):
                if run.holder == member_id:
                    self._give_back(run, limits)
        self._tidy()

    def release(self, member_id: str, limits: Limits) -> None:
        """A member is gone: what it held is available to others."""
        for run in self.runs:
            if run.holder == member_id:
                self._give_back(run, limits)
        self._tidy()

    def expire(self, limits: Limits, now_s: float) -> None:
        """What was held for too long is available to others."""
        for run in self.runs:
            if run.until_s <= now_s:
                self._give_back(run, limits)
        self._tidy()

    def next_expiry_s(self) -> float:
        """When the first lock times out; infinite if nothing is held."""
        return min((run.until_s for run in self.runs), default=math.inf)

    def _give_back(self, run: Run, limits: Limits) -> None:
        if run.count >= limits.deliveries:
            self._give_up(run, State.EXHAUSTED, limits)
            return
        run.state, run.holder, run.until_s = State.AVAILABLE, "", math.inf
        self.changed = True

    def _give_up(self, run: Run, state: State, limits: Limits) -> None:
        if not limits.keeps_dead:
            self._settle(run)
            return
        run.state, run.holder, run.until_s = state, "", math.inf
        self.changed = True

    def _settle(self, run: Run) -> None:
        run.state, run.count, run.holder, run.until_s = State.SETTLED, 0, "", math.inf
        self.changed = True

    # Dead letters

    def dead(self) -> Dead | None:
        """The first records that wait for their place in a dead-letter topic."""
        for run in self.runs:
            if run.state in DEAD:
                return Dead(run.first, run.last, run.count, run.state)
        return None

    def buried(self, first: int, last: int) -> None:
        """Dead records have their place, or need none any more."""
        for run in self._between(first, last):
            if run.state in DEAD:
                self._settle(run)
        self._tidy()

    # Start

    def move_start(self, log_start: int) -> None:
        """The log begins later now: what lay before is gone."""
        if log_start <= self.start:
            return
        self.changed = True
        self._cut(log_start)
        self.runs = [run for run in self.runs if run.first >= log_start]
        self.start = log_start
        self._tidy()

    # Runs

    def _between(self, first: int, last: int) -> list[Run]:
        """The runs of exactly these offsets, as far as they are covered."""
        self._cut(first)
        self._cut(last + 1)
        return self._overlapping(first, last)

    def _overlapping(self, first: int, last: int) -> list[Run]:
        begin = bisect.bisect_left(self.runs, first, key=_last)
        return self.runs[begin : bisect.bisect_right(self.runs, last, lo=begin, key=_first)]

    def _cut(self, offset: int) -> None:
        """Have a run begin at an offset, if one covers it."""
        index = bisect.bisect_left(self.runs, offset, key=_last)
        if index < len(self.runs) and self.runs[index].first < offset:
            self.runs.insert(index + 1, self.runs[index].split(offset))

    def _tidy(self) -> None:
        tidied: list[Run] = []
        for run in self.runs:
            if run.state is State.SETTLED and not tidied:
                self.start = run.last + 1
                self.changed = True
            elif tidied and run.continues(tidied[-1]):
                tidied[-1].last = run.last
            else:
                tidied.append(run)
        self.runs = tidied


def _joined(spans: Sequence[Span], index: int, enough: int) -> tuple[Span, int]:
    """The span at an index with those that continue it, until they are `enough` records; the index behind them."""
    first, last, is_data, is_free = spans[index]
    index += 1
    while index < len(spans) and last - first + 1 < enough:
        after = spans[index]
        if after.first != last + 1 or after.is_data != is_data or after.is_free != is_free:
            break
        last = after.last
        index += 1
    return Span(first, last, is_data, is_free), index


_VERDICTS: Final = frozenset(Verdict)
_first: Final = attrgetter("first")
_last: Final = attrgetter("last")


def _pieces(judgement: Judgement) -> Iterable[tuple[int, int, Verdict]]:
    """A judgement by neighbours with the same verdict."""
    if len(judgement.verdicts) == 1:
        yield judgement.first, judgement.last, Verdict(judgement.verdicts[0])
        return
    first = judgement.first
    for verdict, same in itertools.groupby(judgement.verdicts):
        behind = first + len(list(same))
        yield first, behind - 1, Verdict(verdict)
        first = behind
