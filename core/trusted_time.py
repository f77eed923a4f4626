"""Which time may be believed when something is to expire: the rule for all that does. Pure; `trusted_clock` asks it.

The wall clock may be wrong: set by hand or by NTP while the process runs, reset to 1970 or 2099 while the machine was
off. Over a stop of the process nothing else counts, so a stop looks like a jump. The rule:

- What the wall clock gains on the monotonic one between two looks, up to `JUMP_MS`, has passed. A short stop is such a
  gain: who restarts every hour loses no time.
- More than that is *held*: it is believed once it has stood for `HOLD_MS` of running time, over as many restarts as
  that takes. After a month's stop things expire an hour later; a wrong date leaves an hour to mend it. Each jump and
  each stop is held by itself, so all of them are believed in the end.
- A jump back takes back what is held, newest first.

Two readings come of it, and no jump moves either forward before it has stood:

- `timestamps_ms`, the wall clock less what is held. The timestamps of records are judged by it: their clocks are not
  ours. It goes back when the wall clock does, and then less expires.
- `ages_ms`, which never goes back. It judges what was stamped here with `stamp_ms`, and so only differences count: it
  goes on by what passes while the process runs, and by a stop once that is believed. A jump while it runs says nothing
  of what passed, nor does what the clock gains over a stop while it is *behind*: then it was set right.
  While a stop is held, stamps are ahead of `ages_ms` by it, so believing it does not age them. A stamp of a time that
  was taken back is too large, and counts as one of the moment when it was (`Withdrawn`).

**Invariants** (properties in `tests/core/test_trusted_time.py`)

- While each wrong jump forward is taken back before it has stood for `HOLD_MS`, nothing seems older than it is.
- Where the clock is right, everything is as old as it seems, `HOLD_MS` of running time after the last stop at the
  latest; what has been up for a time seems that old whatever the clock did.

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
"""Jumps that are held each by itself; one more joins the newest, whose time begins again."""
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
    passed_ms: int  # of these: what will have passed when it is believed
    stood_ms: int

    def less(self, taken_ms: int) -> Held:
        left = self.ms - taken_ms
        return Held(left, min(self.passed_ms, left), self.stood_ms)


class Withdrawn(NamedTuple):
    """A held stop was taken back: larger stamps than now, up to `stamp_ms`, are from before that."""

    stamp_ms: int
    real_ms: int  # the stamp of that moment without what was taken back


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """What is known of time at one look."""

    wall_ms: int
    ahead_ms: int = 0  # how far stamps are ahead of the wall clock: more than `JUMP_MS`, and it is behind
    held: tuple[Held, ...] = ()
    withdrawn: tuple[Withdrawn, ...] = ()

    @property
    def timestamps_ms(self) -> int:
        """By which the timestamps of records are judged."""
        return self.wall_ms - sum(jump.ms for jump in self.held)

    @property
    def stamp_ms(self) -> int:
        """What is written down when something happens, to be judged by its age later."""
        return self.wall_ms + self.ahead_ms

    @property
    def ages_ms(self) -> int:
        """By which stamps are judged."""
        return self.stamp_ms - sum(jump.passed_ms for jump in self.held)

    def age_ms(self, stamp_ms: int) -> int:
        """How long ago something was stamped, at the least; never negative."""
        if stamp_ms > self.stamp_ms:
            known = (one.real_ms for one in self.withdrawn if one.stamp_ms >= stamp_ms)
            stamp_ms = max(known, default=self.stamp_ms)
        return max(0, self.ages_ms - stamp_ms)

    def after(self, passed_ms: int, wall_ms: int) -> TrustedTime:
        """The next look of a run: what passed by the monotonic clock since the last one, and the wall clock now."""
        stood = replace(self, held=tuple(jump._replace(stood_ms=jump.stood_ms + passed_ms) for jump in self.held))
        gained = wall_ms - self.wall_ms - passed_ms
        if gained > JUMP_MS:
            return stood._believing()._holding(Held(gained, 0, 0), wall_ms, self.ahead_ms - gained)
        if gained < -JUMP_MS:
            return stood._back(-gained, wall_ms, self.stamp_ms + passed_ms)._believing()
        return stood._slewed(wall_ms)._believing()

    def after_stop(self, wall_ms: int) -> TrustedTime:
        """The first look of the next run: what passed meanwhile, nobody knows."""
        gained = wall_ms - self.wall_ms
        if gained > JUMP_MS:
            is_behind = self.ahead_ms > JUMP_MS
            jump = Held(gained, 0 if is_behind else gained, 0)
            return self._holding(jump, wall_ms, self.ahead_ms - gained if is_behind else self.ahead_ms)
        if gained < -JUMP_MS:
            return self._back(-gained, wall_ms, self.stamp_ms)
        return self._slewed(wall_ms)

    def _slewed(self, wall_ms: int) -> TrustedTime:
        """What the wall clock shows is what passed; where it went back, nothing did."""
        return replace(self, wall_ms=wall_ms, ahead_ms=self.ahead_ms + max(0, self.wall_ms - wall_ms))

    def _holding(self, jump: Held, wall_ms: int, ahead_ms: int) -> TrustedTime:
        held = self.held
        if len(held) >= HELD_MAX:
            jump = Held(jump.ms + held[-1].ms, jump.passed_ms + held[-1].passed_ms, 0)
            held = held[:-1]
        return replace(self, wall_ms=wall_ms, ahead_ms=ahead_ms, held=(*held, jump))

    def _back(self, back_ms: int, wall_ms: int, stamp_ms: int) -> TrustedTime:
        """The wall clock went back, where stamps would have been `stamp_ms` by now."""
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
        """What has stood for its time is believed; withdrawals that no stamp can be from are forgotten."""
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

    `saved` is what the last run left. Where it left nothing (an earlier release, a copy without it), `known_ms` is a
    time that has been, if anything tells one.
    """
    if saved is None:
        if known_ms is None:
            return TrustedTime(wall_ms)
        if known_ms > wall_ms:  # one of the two is wrong: what was stamped until then stays, and so does what comes
            return TrustedTime(wall_ms)
        saved = TrustedTime(known_ms)
    return saved.after_stop(wall_ms)
