"""Slots that go to containers of other nodes: a node carries out what `core.cluster.wanted_moves` decides.

**Invariants**

- What goes wrong here leaves a row as it is, to be tried again, or refused by name; nothing else is kept from its work.
- Whoever wants a move is told how it ended, for as long as `ENDED_MAX` later ones have not ended, also by a node that
  had no part in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from core.background import Background
from core.cluster.coordination import Life, Owner, Wish
from core.cluster.levels import Feature, allows
from core.cluster.wanted_moves import WANTED_MAX, Action, Bring, Carry, Forget, Place, Refuse, Travels, View, WantedMove
from core.errors import CannotMove, CoordinatorAway, NotHosted, NotMovedYet, StoreError, UnknownStream
from core.store import Store
from core.streams.live import Stream

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
WAIT_S: Final = 0.1
"""How often it is looked at while something is wanted: not all that counts is told."""
RETRY_S: Final = 1.0
"""After an error that nobody foresaw."""
ENDED_MAX: Final = 1_000
"""The most moves whose end is remembered."""


class Rows(Protocol):
    """The moves that are wanted, as all nodes see them; see `core.cluster.etcd_moves`."""

    def wanted(self) -> Sequence[WantedMove]: ...

    def on_changed(self, told: Callable[[], None]) -> None: ...

    async def want(self, move: WantedMove) -> bool: ...

    async def refuse(self, move: WantedMove, why: str) -> None: ...

    async def forget(self, move: WantedMove) -> None: ...


class Cluster(Protocol):
    """What is needed of the coordinator, see `core.cluster.coordination`."""

    @property
    def node(self) -> int: ...

    @property
    def level(self) -> int: ...

    @property
    def containers(self) -> Sequence[int]: ...

    def owners(self) -> Mapping[int, Owner]: ...

    def lives(self) -> Mapping[int, Life]: ...

    def wishes(self) -> Mapping[int, Wish]: ...

    def is_fresh(self) -> bool: ...

    def on_changed(self, told: Callable[[], None]) -> None: ...

    async def ask(self, container: int, node: int) -> bool: ...


class Relocation:
    """See the module. For the event loop; end it with `stop`."""

    def __init__(self, cluster: Cluster, rows: Rows, store: Store) -> None:
        self._cluster = cluster
        self._rows = rows
        self._store = store
        self._travels = Travels()
        self._changed = asyncio.Event()
        self._ended: dict[Place, tuple[int, str]] = {}  # the target, and why the slot has stayed; newest last
        self._known: dict[Place, WantedMove] = {}
        self._background = Background(
            "moves of slots between nodes", None, self._step, retry_s=RETRY_S, wait=self._until_changed
        )

    def __repr__(self) -> str:
        return f"<Relocation of node {self._cluster.node}: {self._travels!r}>"

    @property
    def is_at_work(self) -> bool:
        """Whether any node is to move anything: until then containers stay where they are."""
        return bool(self._rows.wanted())

    def start(self) -> None:
        """Look, and do what this node is to do, from now on."""
        self._cluster.on_changed(self._changed.set)
        self._rows.on_changed(self._heard)
        self._heard()
        self._store.relocates = self.move
        self._background.start()

    async def stop(self) -> None:
        """End. What is wanted is done by others, or later."""
        await self._background.stop()

    # Whoever wants a move

    async def move(self, stream: Stream, number: int, target: int) -> None:
        """`want` a move, and wait until the slot is there. Raises CannotMove if it was refused, and as `want`."""
        await self.want(stream, number, target)
        while not self.ended(stream, number, target):
            if stream.deleted:
                raise UnknownStream(stream.name)
            await asyncio.sleep(WAIT_S)

    async def want(self, stream: Stream, number: int, target: int) -> None:
        """Have a slot moved to a container of any node, by whoever has to do with it. Nothing happens if it is wanted
        already. `ended` tells what came of it.

        Raises CannotMove, NotHosted for a container that does not exist, NotMovedYet, CoordinatorAway.
        """
        place = stream.id, number
        if self._where(place) == target:
            return
        if target not in self._cluster.containers:
            raise NotHosted(target)
        if not 0 <= number < stream.slot_count:
            raise CannotMove(stream.name, number, f"the stream has {stream.slot_count} slots")
        if stream.is_sealed:
            raise CannotMove(stream.name, number, "its stream is sealed, and takes no more entries anywhere")
        if not allows(self._cluster.level, Feature.SLOT_MOVES):
            level = int(Feature.SLOT_MOVES)
            raise CannotMove(stream.name, number, f"slots move from level {level} of the cluster on: finalize it")
        wanted = self._rows.wanted()
        before = next((one for one in wanted if one.place == place and not one.why_not), None)
        if before is not None and before.target == target:
            return
        if before is not None:
            raise NotMovedYet(stream.name, number, f"it is on its way to container {before.target}")
        owner = self._cluster.owners().get(target)
        if owner is None or len(wanted) >= WANTED_MAX:
            why = f"container {target} is nobody's just now" if owner is None else f"{WANTED_MAX} moves are wanted"
            raise NotMovedYet(stream.name, number, why)
        self._ended.pop(place, None)
        home = next((one.home for one in wanted if one.target == target), owner.node)  # it may be on a trip
        if not await self._rows.want(WantedMove(place=place, target=target, home=home)):
            raise NotMovedYet(stream.name, number, "another move of it has not come to its end")

    def ended(self, stream: Stream, number: int, target: int) -> bool:
        """Whether the slot is there. Raises CannotMove if it was refused."""
        ended = self._ended.get((stream.id, number))
        if ended is not None and ended[0] == target and ended[1]:
            raise CannotMove(stream.name, number, ended[1])
        return self._where((stream.id, number)) == target

    def _heard(self) -> None:
        """Rows have come, have gone, or say why a slot stays."""
        self._changed.set()
        now = {one.place: one for one in self._rows.wanted()}
        for place, move in self._known.items():
            if place not in now:
                self._ended.pop(place, None)
                self._ended[place] = move.target, move.why_not
        self._ended |= {place: (one.target, one.why_not) for place, one in now.items() if one.why_not}
        while len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._known = now

    # What this node does

    async def _until_changed(self, pause_s: float) -> None:
        """Wait, the whole pause after a failure whatever changes."""
        if self._background.last_error is not None:
            await asyncio.sleep(pause_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._changed.wait()

    async def _step(self) -> float:
        self._changed.clear()
        try:
            while (action := self._look()) is not None:
                await self._act(action)
        except Exception:
            self._travels.told()
            raise
        return WAIT_S if self.is_at_work else LOOK_S

    def _look(self) -> Action | None:
        seen = self._cluster
        if not seen.is_fresh():
            return None
        view = View(
            node=seen.node,
            owners=seen.owners(),
            lives=seen.lives(),
            wishes=seen.wishes(),
            moves=self._rows.wanted(),
            where=self._where,
            is_open=self._store.serves,
            stays=self._stays,
        )
        return self._travels.look(view, time.monotonic())

    def _where(self, place: Place) -> int | None:
        stream = self._store.stream_of(place[0])
        if stream is None or stream.deleted or not 0 <= place[1] < stream.logged.slots:
            return None
        return stream.logged.container_of_slot(place[1])

    def _stays(self, place: Place) -> str | None:
        stream = self._store.stream_of(place[0])
        return None if stream is None else self._store.mover.why_stays(stream.slot(place[1]))

    async def _act(self, action: Action) -> None:
        travels = self._travels
        try:
            match action:
                case Bring(container, node):
                    told = {"container": container, "to": node}
                    if await self._cluster.ask(container, node):
                        logger.info("a container is to come for slots that move, or to go home", extra=told)
                case Carry(move):
                    await self._carry(move)
                case Refuse(move, why):
                    logger.warning("a slot stays where it is", extra={**_told(move), "reason": why})
                    await self._rows.refuse(move, why)
                case Forget(moves):
                    for move in moves:
                        await self._rows.forget(move)
        except StoreError as error:  # of the coordinator: the next look decides anew
            logger.warning("a step of a move was not taken", extra={"step": repr(action)[:99], "reason": str(error)})
            await asyncio.sleep(RETRY_S)
        finally:
            if isinstance(action, Bring):
                travels.asked(action.container, time.monotonic())
            elif not isinstance(action, Carry):
                travels.told()

    async def _carry(self, move: WantedMove) -> None:
        stream = self._store.stream_of(move.place[0])
        try:
            if stream is not None:
                await self._store.mover.move(stream, move.place[1], move.target)
            self._travels.carried()
        except CannotMove as error:
            await self._refuse(move, error.why)
        except (NotMovedYet, NotHosted, UnknownStream, CoordinatorAway) as error:
            logger.info("a slot has not moved yet", extra={**_told(move), "reason": str(error)})
            self._travels.failed(move, time.monotonic())
        except StoreError as error:
            logger.warning("a slot has not moved", extra={**_told(move), "reason": str(error)})
            self._travels.failed(move, time.monotonic())
        except BaseException:
            self._travels.failed(move, time.monotonic())
            raise

    async def _refuse(self, move: WantedMove, why: str) -> None:
        logger.warning("a slot stays where it is", extra={**_told(move), "reason": why})
        try:
            await self._rows.refuse(move, why)
        finally:
            self._travels.failed(move, time.monotonic())


def _told(move: WantedMove) -> Mapping[str, object]:
    return {"stream_id": move.place[0], "slot": move.place[1], "to": move.target}
