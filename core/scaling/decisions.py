"""When segments split and merge. Pure: rates in, decisions out.

Thresholds and windows are Pravega's. A segment splits if it gets more than five times the target over two minutes,
twice the target over five, or the target over ten. Neighbours merge if each got less than half of it over twenty.

Four rules prevent flapping:

- A segment younger than the cool-down is left alone. It does not merge before it has lived for the merging window.
- The load that merges is clearly less, in every window, than the load that splits.
- A split is cut where it balances the measured load.
- A stream scales once at a time.

**Invariants**: a merge never leaves fewer segments than `min_segments`, a split never makes more than `factor` pieces,
and a cut never lies inside a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from core.streams.averages import FIVE, MINUTE_S, TEN, TWENTY, TWO, WINDOWS_S, Averages
from core.streams.policy import ScalingKind, ScalingPolicy
from core.streams.state import Epoch, Segment

SPLITS: Final = ((TWO, 5.0), (FIVE, 2.0), (TEN, 1.0))
"""The windows, and the multiple of the target that makes a segment split."""
MERGE_BELOW: Final = 0.5
MERGED_BELOW: Final = 0.8
"""The share of the target, in every window, that keeps a merged segment clear of the next split."""
COOL_DOWN_S: Final = 10 * MINUTE_S
KIB: Final = 1 << 10
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SegmentLoad:
    """An active segment: how long it has been active (seconds, divided by the time factor), and its rates."""

    segment: Segment
    age_s: float
    averages: Averages


@dataclass(frozen=True, slots=True)
class Decision:
    """A scale to carry out on a stream; see `StreamState.scaled`."""

    kind: str  # split, merge
    sealed: tuple[int, ...]
    cuts: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AtLimit:
    """A segment that ought to split and cannot, because it has one slot."""

    segment: Segment
    rate: float
    why: str


SlotRates = Callable[[Segment], Sequence[float]]
"""The rates of a segment's slots, in key order; asked for only if it is to be cut."""


def decide(
    policy: ScalingPolicy,
    epoch: Epoch,
    loads: Sequence[SegmentLoad],
    slot_rates: SlotRates,
    time_factor: float = 1.0,
) -> Decision | None:
    """The one scale that a stream needs most, if any. `loads`: the active segments of one container, in key order.

    `time_factor` is that of the rates, so that reasons tell the time that really passed.
    """
    decision = _to_the_minimum(policy, epoch, loads, slot_rates)
    if decision is None and policy.kind is not ScalingKind.FIXED:
        decision = _split(policy, loads, slot_rates, time_factor) or _merge(policy, epoch, loads, time_factor)
    return decision


def at_limit(policy: ScalingPolicy, loads: Sequence[SegmentLoad], time_factor: float = 1.0) -> list[AtLimit]:
    """The segments that ought to split and have one slot."""
    if policy.kind is ScalingKind.FIXED:
        return []
    hot = ((load, _why_hot(policy, load, time_factor)) for load in loads if load.segment.last - load.segment.first == 1)
    return [AtLimit(load.segment, _rate(load), why) for load, why in hot if why is not None]


def balanced_cuts(segment: Segment, rates: Sequence[float], pieces: int) -> tuple[int, ...]:
    """The cuts that give each piece of a segment about the same load; `rates` are its slots', in key order.

    Without any load, pieces have about the same number of slots. Fewer cuts than asked for if there are few slots.
    """
    slots = segment.last - segment.first
    pieces = min(pieces, slots)
    weights = rates if sum(rates) > 0 else [1.0] * slots
    before = [0.0, *accumulate(weights)]
    cuts: list[int] = []
    for n in range(1, pieces):
        ideal = before[-1] * n / pieces
        low, high = (cuts[-1] if cuts else 0) + 1, slots - (pieces - n)  # each piece has a slot
        cuts.append(min(range(low, high + 1), key=lambda place: abs(before[place] - ideal)))
    return tuple(segment.first + cut for cut in cuts)


def _to_the_minimum(
    policy: ScalingPolicy, epoch: Epoch, loads: Sequence[SegmentLoad], slot_rates: SlotRates
) -> Decision | None:
    missing = min(policy.min_segments, epoch.slots) - len(epoch.segments)
    wide = [load for load in loads if load.segment.last - load.segment.first > 1]
    if missing <= 0 or not wide:
        return None
    widest = max(wide, key=lambda load: (_rate(load), load.segment.last - load.segment.first))
    cuts = balanced_cuts(widest.segment, slot_rates(widest.segment), min(missing + 1, policy.factor))
    return Decision("split", (widest.segment.number,), cuts, f"min.segments is {policy.min_segments}")


def _split(
    policy: ScalingPolicy, loads: Sequence[SegmentLoad], slot_rates: SlotRates, time_factor: float
) -> Decision | None:
    wide = [load for load in loads if load.segment.last - load.segment.first > 1]
    hot = [(load, why) for load in wide if (why := _why_hot(policy, load, time_factor))]
    if not hot:
        return None
    load, why = max(hot, key=lambda one: _rate(one[0]))
    pieces = max(2, min(policy.factor, -int(-_rate(load) // policy.target_rate)))
    return Decision("split", (load.segment.number,), balanced_cuts(load.segment, slot_rates(load.segment), pieces), why)


def _why_hot(policy: ScalingPolicy, load: SegmentLoad, time_factor: float) -> str | None:
    """Why a segment should split; None if it should not."""
    if load.age_s < COOL_DOWN_S:
        return None
    for window, times in SPLITS:
        average = load.averages[window]
        if average > times * policy.target_rate:
            limit = "the target" if times == 1 else f"{times:g} times the target"
            period = _period(window, time_factor)
            return f"{_told(policy, average)} over {period}, more than {limit} of {_told(policy)}"
    return None


def _rate(load: SegmentLoad) -> float:
    """The load of a segment, as far as it matters for a split."""
    return max(load.averages[window] for window, _ in SPLITS)


def _merge(policy: ScalingPolicy, epoch: Epoch, loads: Sequence[SegmentLoad], time_factor: float) -> Decision | None:
    spare = len(epoch.segments) - max(1, policy.min_segments)
    if spare <= 0:
        return None
    target = policy.target_rate
    found: list[Sequence[SegmentLoad]] = []
    for begin in range(len(loads) - 1):
        end = begin
        sums = [0.0] * len(WINDOWS_S)
        while end < len(loads) and end - begin <= spare and _is_cold(loads[end], target):
            if end > begin and loads[end].segment.first != loads[end - 1].segment.last:
                break  # between them lies a segment of another container
            sums = [a + b for a, b in zip(sums, loads[end].averages, strict=True)]
            if max(sums[TWO:]) >= MERGED_BELOW * target:
                break
            end += 1
        if end - begin > 1:
            found.append(loads[begin:end])
    if not found:
        return None
    chosen = max(found, key=lambda some: (len(some), -sum(load.averages[TWENTY] for load in some)))
    total = sum(load.averages[TWENTY] for load in chosen)
    period = _period(TWENTY, time_factor)
    why = f"{_told(policy, total)} together over {period}, each less than half of the target of {_told(policy)}"
    return Decision("merge", tuple(load.segment.number for load in chosen), (), why)


def _is_cold(load: SegmentLoad, target: float) -> bool:
    return load.age_s >= WINDOWS_S[TWENTY] and load.averages[TWENTY] < MERGE_BELOW * target


def _period(window: int, time_factor: float) -> str:
    seconds = WINDOWS_S[window] * time_factor
    return f"{seconds:g} s" if seconds <= MINUTE_S else f"{seconds / MINUTE_S:g} minutes"


def _told(policy: ScalingPolicy, rate: float | None = None) -> str:
    rate = policy.target_rate if rate is None else rate
    if policy.kind is ScalingKind.EVENTS:
        return f"{rate:,.0f} events/s"
    if rate < 10 * KIB:
        return f"{rate:,.0f} bytes/s"
    return f"{rate / KIB:,.0f} KiB/s" if rate < 10 * MIB else f"{rate / MIB:,.1f} MiB/s"
