"""What others keep beside a slot, in tables of its container, when the slot moves.

A keeper of such rows either says that the slot must stay because of them, or brings them along. What it brings is
queued in the target's log before the slot's state there, so both are synced, and decided about, together.

**Invariant**: a keeper writes no row beside a slot between its first bringing and the end of the freeze. It hears of
both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.streams.live import Slot

Hindrance = Callable[["Slot"], "str | None"]
"""Why a slot must stay where it is, because something beside it would be left behind; None if nothing would be. It is
asked at the beginning of a move, and again when the slot is frozen: from then on nothing may be put beside it."""

Companion = Callable[["Slot", int], None]
"""Brings along what lies beside a slot and has to be with it: it queues updates in the log of the container of this id.
It is called when the slot is frozen, and again once all is durable that was on its way at the source: what is queued
last counts, and is durable before anything is decided. A move may have several freezes. Raises StorageFull if there is
no room, and NotMovedYet if it cannot bring it just now."""

Ended = Callable[["Slot"], None]
"""A freeze has ended, whether or not something was brought along in it: callers find the slot in its target, or it goes
on where it was. If nobody knows yet, it still leaves (`Container.is_leaving`)."""


class Beside:
    """All who keep something beside slots."""

    def __init__(self) -> None:
        self._hindrances: list[Hindrance] = []
        self._companions: list[Companion] = []
        self._ended: list[Ended] = []

    def __repr__(self) -> str:
        return f"<Beside: {len(self._hindrances)} hindrances, {len(self._companions)} companions>"

    def hinders(self, hindrance: Hindrance) -> None:
        """Ask this before each move, and once more when the slot is frozen: what begins beside it from then on has to
        be refused (`Container.check_not_frozen`)."""
        self._hindrances.append(hindrance)

    def comes_along(self, companion: Companion, ended: Ended | None = None) -> None:
        """Call this before a frozen slot's state is logged in its target, and `ended` when the freeze has ended."""
        self._companions.append(companion)
        if ended is not None:
            self._ended.append(ended)

    def why_stays(self, slot: Slot) -> str | None:
        """The first reason why a slot must stay."""
        return next((why for ask in self._hindrances if (why := ask(slot)) is not None), None)

    def bring(self, slot: Slot, target: int) -> None:
        """Queue in the target's log all that comes along. Raises NotMovedYet, StoreError."""
        for bring in self._companions:
            bring(slot, target)

    def ended(self, slot: Slot) -> None:
        for tell in self._ended:
            tell(slot)
