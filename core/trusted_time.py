"""The rule by which time is believed when something expires. Pure; `trusted_clock` asks it.

The wall clock may be wrong: set by hand or by NTP while the process runs, reset to 1970 or 2099 while the machine was
off. No other clock runs while the process is stopped, so a stop looks like a jump. The rule:

- A gain of the wall clock on the monotonic one between two looks, up to `JUMP_MS`, is time that has passed. A short
  stop is such a gain, so a process that restarts every hour loses no time.
- A larger gain is *held*: it is believed once it has stood for `HOLD_MS` of running time, over as many restarts as
  that takes. After a month's stop things expire an hour later; a wrong date leaves an hour to mend it. Each jump and
  each stop is held by itself, so all of them are believed in the end.
- A jump back takes back held time, newest first.

The rule gives two readings. No jump moves either forward before it has stood:

- `timestamps_ms` is the wall clock less the held time. The timestamps of records are judged by it, because other
  machines' clocks made them. It goes back when the wall clock does, and then less expires.
- `ages_ms` never goes back. Stamps made here with `stamp_ms` are judged by it, so only differences count. It advances
  by the time that the process runs, and by a stop once the stop is believed. It does not advance by a jump while the
  process runs: a jump says nothing about time passed. Nor does it by a gain over a stop while the clock is *behind*:
  the clock was then set right.
  While a stop is held, stamps are ahead of `ages_ms` by its length, so believing the stop does not age them. A stamp
  from a time that was taken back is too large; it counts as made at the moment of taking back (`Withdrawn`).

**Invariants** (properties in `tests/core/test_trusted_time.py`)

- While each wrong jump forward is taken back before it has stood for `HOLD_MS`, nothing seems older than it is.
- If the clock is right, everything seems as old as it is, at the latest `HOLD_MS` of running time after the last stop.
  Time that the process has run always counts, whatever the clock did.

As it is stored, little-endian:

    8s magic ``PSTKTIM\\n``, u16 version (1), u16 count of jumps held, u16 count of withdrawals, u16 zero,
    i64 wall clock ms, i64 how far stamps are ahead of it ms,
    of each jump: i64 ms, i64 of these, what may have passed ms, i64 how long it has stood ms,
    of each withdrawal: i64 largest stamp until then ms, i64 the stamp of then without it ms,
    u32 CRC-32C of all before it
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from crc32c import crc32c

JUMP_MS: Final = 600_000
"""The wall clock may gain this much on the monotonic one between two looks, or over a stop, before it is a jump."""
HOLD_MS: Final = 3_600_000
HELD_MAX: Final = 32
"""The most jumps that are held each by itself. One more joins the newest, whose time begins again."""
WITHDRAWN_MAX: Final = 16

MAGIC: Final = b"PSTKTIM\n"
VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sHHHHqq")
_HELD: Final = struct.Struct("<qqq")
_WITHDRAWN: Final = struct.Struct("<qq")
_CRC: Final = struct.Struct("<I")


class BadTime(Exception):
    """The bytes are no state of a clock, or are damaged."""


class Held(NamedTuple):
    """A jump forward, or a stop, that is not believed yet."""

    ms: int
    passed_ms: int  # of these: the time that will count as passed when it is believed
    stood_ms: int

    def less(self, taken_ms: int) -> Held:
        left = self.ms - taken_ms
        return Held(left, min(self.passed_ms, left), self.stood_ms)


class Withdrawn(NamedTuple):
    """A held stop that was taken back: stamps larger than now, up to `stamp_ms`, are from before that."""

    stamp_ms: int
    real_ms: int  # the stamp of that moment without the time taken back


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """The knowledge of time at one look."""

    wall_ms: int
    ahead_ms: int = 0  # how far stamps are ahead of the wall clock: more than `JUMP_MS`, and it is behind
    held: tuple[Held, ...] = ()
    withdrawn: tuple[Withdrawn, ...] = ()

    @property
    def timestamps_ms(self) -> int:
        """The reading by which the timestamps of records are judged."""
        return self.wall_ms - sum(jump.ms for jump in self.held)

    @property
    def stamp_ms(self) -> int:
        """The stamp to write down when something happens, so that its age can be judged later."""
        return self.wall_ms + self.ahead_ms

    @property
    def ages_ms(self) -> int:
        """The reading by which stamps are judged."""
        return self.stamp_ms - sum(jump.passed_ms for jump in self.held)

    def age_ms(self, stamp_ms: int) -> int:
        """The least time that has passed since this stamp; never negative."""
        if stamp_ms > self.stamp_ms:
            known = (one.real_ms for one in self.withdrawn if one.stamp_ms >= stamp_ms)
            stamp_ms = max(known, default=self.stamp_ms)
        return max(0, self.ages_ms - stamp_ms)

    def after(self, passed_ms: int, wall_ms: int) -> TrustedTime:
        """Take the next look of a run: the monotonic time since the last one, and the wall clock now."""
        stood = replace(self, held=tuple(jump._replace(stood_ms=jump.stood_ms + passed_ms) for jump in self.held))
        gained = wall_ms - self.wall_ms - passed_ms
        if gained > JUMP_MS:
            return stood._believing()._holding(Held(gained, 0, 0), wall_ms, self.ahead_ms - gained)
        if gained < -JUMP_MS:
            return stood._back(-gained, wall_ms, self.stamp_ms + passed_ms)._believing()
        return stood._slewed(wall_ms)._believing()

    def after_stop(self, wall_ms: int) -> TrustedTime:
        """Take the first look of the next run: nobody knows how much time passed meanwhile."""
        gained = wall_ms - self.wall_ms
        if gained > JUMP_MS:
            is_behind = self.ahead_ms > JUMP_MS
            jump = Held(gained, 0 if is_behind else gained, 0)
            return self._holding(jump, wall_ms, self.ahead_ms - gained if is_behind else self.ahead_ms)
        if gained < -JUMP_MS:
            return self._back(-gained, wall_ms, self.stamp_ms)
        return self._slewed(wall_ms)

    def _slewed(self, wall_ms: int) -> TrustedTime:
        """Let pass the time that the wall clock shows; if it went back, none passed."""
        return replace(self, wall_ms=wall_ms, ahead_ms=self.ahead_ms + max(0, self.wall_ms - wall_ms))

    def _holding(self, jump: Held, wall_ms: int, ahead_ms: int) -> TrustedTime:
        held = self.held
        if len(held) >= HELD_MAX:
            jump = Held(jump.ms + held[-1].ms, jump.passed_ms + held[-1].passed_ms, 0)
            held = held[:-1]
        return replace(self, wall_ms=wall_ms, ahead_ms=ahead_ms, held=(*held, jump))

    def _back(self, back_ms: int, wall_ms: int, stamp_ms: int) -> TrustedTime:
        """Note that the wall clock went back; without that, stamps would have been `stamp_ms` by now."""
        held, left_ms = list(self.held), back_ms
        while held and left_ms:
            jump = held.pop()
            taken = min(left_ms, jump.ms)
            left_ms -= taken
            if taken < jump.ms:
                held.append(jump.less(taken))
        withdrawn_ms = sum(jump.passed_ms for jump in self.held) - sum(jump.passed_ms for jump in held)
        after = replace(self, wall_ms=wall_ms, ahead_ms=stamp_ms - withdrawn_ms - wall_ms, held=tuple(held))
        if not withdrawn_ms:
            return after
        return replace(after, withdrawn=(*self.withdrawn, Withdrawn(stamp_ms, after.stamp_ms)))

    def _believing(self) -> TrustedTime:
        """Believe jumps that have stood for `HOLD_MS`, and forget withdrawals that no stamp can come from."""
        if not self.held and not self.withdrawn:
            return self
        held = tuple(jump for jump in self.held if jump.stood_ms < HOLD_MS)
        withdrawn = [one for one in self.withdrawn if one.stamp_ms > self.stamp_ms]
        while len(withdrawn) > WITHDRAWN_MAX:
            one, other = withdrawn[:2]
            withdrawn[:2] = [Withdrawn(max(one.stamp_ms, other.stamp_ms), max(one.real_ms, other.real_ms))]
        return replace(self, held=held, withdrawn=tuple(withdrawn))

    # Saving and loading

    def encode(self) -> bytes:
        data = b"".join(
            (
                _HEAD.pack(MAGIC, VERSION, len(self.held), len(self.withdrawn), 0, self.wall_ms, self.ahead_ms),
                *(_HELD.pack(*jump) for jump in self.held),
                *(_WITHDRAWN.pack(*one) for one in self.withdrawn),
            )
        )
        return data + _CRC.pack(crc32c(data))


def decode_time(data: bytes) -> TrustedTime:
    """Raises BadTime."""
    if len(data) < _HEAD.size + _CRC.size or _CRC.unpack(data[-_CRC.size :])[0] != crc32c(data[: -_CRC.size]):
        raise BadTime("it is cut off or damaged")
    magic, version, jumps, withdrawals, _, wall_ms, ahead_ms = _HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise BadTime(f"version {version} is not known to this release")
    held_end = _HEAD.size + jumps * _HELD.size
    if len(data) != held_end + withdrawals * _WITHDRAWN.size + _CRC.size:
        raise BadTime("its length is not what it says")
    return TrustedTime(
        wall_ms,
        ahead_ms,
        tuple(map(Held._make, _HELD.iter_unpack(data[_HEAD.size : held_end]))),
        tuple(map(Withdrawn._make, _WITHDRAWN.iter_unpack(data[held_end : -_CRC.size]))),
    )


def time_at_start(saved: TrustedTime | None, known_ms: int | None, wall_ms: int) -> TrustedTime:
    """The first look after a start.

    `saved` is the state that the last run left. If it left none (an earlier release, a copy without the file),
    `known_ms` is a time known to be past, or None.
    """
    if saved is None:
        if known_ms is None:
            return TrustedTime(wall_ms)
        if known_ms > wall_ms:  # one of the two is wrong: neither stamps made until then nor later ones expire by it
            return TrustedTime(wall_ms)
        saved = TrustedTime(known_ms)
    return saved.after_stop(wall_ms)
