"""When a slot that moves is frozen, and for how long: its owner copies what is missing in passes, and asks after each.

A freeze costs writers, a pass costs nobody anything. So a freeze begins only when little is left, and when the last
pass, which did much the same as a freeze has to do, was so fast that the freeze is likely to be in time.

No I/O and no clock.

**Invariants**

- A freeze ends within its limit: the slot has moved as far as its decision, or goes on where it is.
- Limits are `FREEZE_S`, or a multiple of it up to `LENGTHS_MAX` where the store has been slow for many passes.
- Passes end: with a decision, or after `PASSES_MAX` of them by a reason.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LEFT_BYTES_MAX: Final = 4 << 20
LEFT_ENTRIES_MAX: Final = 4_000
"""What may be left to copy when the slot is frozen."""
FREEZE_S: Final = 0.35
"""The longest time that appends are refused before the decision; the decision itself takes a transaction more."""
SHARE: Final = 2.0
"""The length of a freeze by that of the last pass: what is on its way settles, then the rest is copied."""
SHARE_AT_ONCE: Final = 1.5
"""The same where both happen at the same time: it takes as long as the slower one, and a pass is that of one alone."""
PASSES_OF_ONE_LENGTH: Final = 10
LENGTHS_MAX: Final = 4
"""Behind each ten passes a freeze may take `FREEZE_S` longer, up to four times as long: slots must move on slow stores,
too."""
PASSES_MAX: Final = 60
PAUSE_S: Final = 0.2
"""Between two passes, once little is left: the store may have been slow for a moment only."""


class Left(NamedTuple):
    """What was appended to the slot and is not copied yet."""

    bytes: int
    entries: int

    @property
    def is_little(self) -> bool:
        return self.bytes <= LEFT_BYTES_MAX and self.entries <= LEFT_ENTRIES_MAX


class Freezes:
    """The freezes of one move. `share`: how long they are by the last pass."""

    def __init__(self, share: float = SHARE) -> None:
        self._share = share
        self._passes = 0
        self._begun = 0
        self._left = Left(0, 0)

    def __repr__(self) -> str:
        return f"<Freezes: {self._begun} after {self._passes} passes>"

    def limit_s(self, left: Left, pass_s: float) -> float | None:
        """A pass took so long, and this was left when it ended: the limit of a freeze that begins now, or None."""
        limit_s = FREEZE_S * min(LENGTHS_MAX, 1 + self._passes // PASSES_OF_ONE_LENGTH)
        self._passes += 1
        self._left = left
        if not left.is_little or self._share * pass_s > limit_s:
            return None
        self._begun += 1
        return limit_s

    @property
    def pause_s(self) -> float:
        """How long to wait before the next pass."""
        return PAUSE_S if self._left.is_little else 0.0

    @property
    def why_not(self) -> str | None:
        """Why the move is given up; None while another pass may follow."""
        if self._passes < PASSES_MAX:
            return None
        if not self._left.is_little:
            return (
                f"appends come faster than they are copied: after {self._passes} passes {self._left.bytes} bytes in "
                f"{self._left.entries} entries are missing"
            )
        return f"it was frozen {self._begun} times, after {self._passes} passes, and never settled in time"
