"""Rows of slots that are to go to containers of other nodes, in etcd (`core.cluster.wanted_moves`).

Key ``moves/<id of the stream, 8 hex digits>/<slot>``, value of format 1: JSON without spaces, ``v`` (1), ``target``
(the container), ``home`` (the node that had it), and ``why`` if the move was refused. They belong to no lease: whoever
owns the containers later goes on with them.

**Invariant**: a slot has one row at most, and a change of it compares the value that its writer knew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Final

from core.cluster.etcd.mirror import Change, Mirror
from core.cluster.etcd.session import Session
from core.cluster.etcd.wire import Compare, Delete, KeyValue, Put, absent, unchanged
from core.cluster.etcd_keys import FORMAT, MOVES
from core.cluster.wanted_moves import Place, WantedMove

logger = logging.getLogger(__name__)

WHY_CHARS_MAX: Final = 300


class EtcdMoves:
    """See the module."""

    def __init__(self, mirror: Mirror, session: Session) -> None:
        self._mirror = mirror
        self._session = session
        self._told: list[Callable[[], None]] = []
        self._rows: dict[WantedMove, KeyValue] = {}
        self._know()
        mirror.on_changed(self._changed)

    def __repr__(self) -> str:
        return f"<EtcdMoves {len(self._rows)} wanted>"

    def wanted(self) -> Sequence[WantedMove]:
        """All rows that can be read, oldest first."""
        return list(self._rows)

    def on_changed(self, told: Callable[[], None]) -> None:
        """Call `told` after each change of the rows."""
        self._told.append(told)

    async def want(self, move: WantedMove) -> bool:
        """Add a row. False if the slot has one. Raises CoordinatorAway, CoordinatorRefuses."""
        key = self._key(move.place)
        return await self._change((absent(key),), (Put(key, _encode(move)),))

    async def refuse(self, move: WantedMove, why: str) -> None:
        """Note in a row that the slot stays. Nothing happens to one that was changed meanwhile. Raises as `want`."""
        row = self._rows.get(move)
        if row is not None:
            refused = WantedMove(place=move.place, target=move.target, home=move.home, why_not=why[:WHY_CHARS_MAX])
            await self._change((unchanged(row, row.key),), (Put(row.key, _encode(refused)),))

    async def forget(self, move: WantedMove) -> None:
        """Remove a row, unless it was changed meanwhile. Raises as `want`."""
        row = self._rows.get(move)
        if row is not None:
            await self._change((unchanged(row, row.key),), (Delete(row.key),))

    async def _change(self, compares: Sequence[Compare], changes: Sequence[Put | Delete]) -> bool:
        outcome = await self._session.change(compares, changes)
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)
        return outcome.succeeded

    def _changed(self, changes: Sequence[Change]) -> None:
        if any(change.key.startswith(MOVES) for change in changes):
            self._know()
            for told in self._told:
                told()

    def _know(self) -> None:
        rows = sorted(self._mirror.below(MOVES), key=lambda one: (one[1].created, one[0]))
        self._rows = {move: row for key, row in rows if (move := _decode(key, row)) is not None}

    def _key(self, place: Place) -> bytes:
        return b"%s%s%08x/%d" % (self._mirror.prefix, MOVES, *place)


def _encode(move: WantedMove) -> bytes:
    value = {"v": FORMAT, "target": move.target, "home": move.home}
    return json.dumps({**value, "why": move.why_not} if move.why_not else value, separators=(",", ":")).encode()


def _decode(key: bytes, row: KeyValue) -> WantedMove | None:
    try:
        stream, _, slot = key.partition(b"/")
        value = json.loads(row.value)
        if value["v"] != FORMAT:
            raise ValueError(f"format {value['v']!r}, this release reads {FORMAT}")
        return WantedMove(
            place=(int(stream, 16), int(slot)),
            target=int(value["target"]),
            home=int(value["home"]),
            why_not=str(value.get("why", ""))[:WHY_CHARS_MAX],
        )
    except (KeyError, TypeError, ValueError) as error:
        logger.error("a wanted move in etcd cannot be read", extra={"reason": repr(error)[:99]})
        return None
