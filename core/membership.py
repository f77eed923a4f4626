"""A node of a cluster: it carries out what `core.cluster.ownership` decides, with a coordinator and a store.

**Invariants**

- The machine looks after each change of the coordinator's mirror, and each second; it never waits for an action.
- Between a put's answer and its acknowledgement the coordinator is asked (`Fence`), if it is to be.
- Whoever serves a container waits for no answer of the coordinator longer than its claim is certainly there, and for no
  end of its log longer than `CLOSE_S`: then others may have it.
- A read is answered only while the lease is certainly there under which the container was claimed: whoever woke from a
  long sleep answers nothing, and neither does its next life for what the former one has not closed yet.
- What serves clients beside the log (`Services`) is begun after the container, and ends before it.
- Each action has an outcome, after an error that nobody foresaw as well: that is told with its traceback, and the
  container is let go of, or the action comes again, at most each `DEFECT_S`. None is left to nobody in silence.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from core.background import REASON_CHARS_MAX
from core.cluster.coordination import Claim, Coordination, Stage, Wish
from core.cluster.guard import Guard
from core.cluster.levels import Feature, allows
from core.cluster.ownership import (
    Action,
    Ask,
    Close,
    Confirm,
    GiveUp,
    HandOver,
    Open,
    Ownership,
    Phase,
    Prepare,
    Serve,
    StepDown,
    TakeClaim,
    View,
    Warm,
)
from core.cluster.reaching import Reaching
from core.errors import Deposed, NotHosted, StorageFailure, StoreError
from core.log.objects.home import Claimed
from core.log.objects.protocol import Link
from core.stations import Stations
from core.store import Store
from core.streams.live import Slot
from core.warming import Warming
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
PAUSE_S: Final = 0.2
"""Before the coordinator is asked again that was away, or has refused; twice as long each time, up to `PAUSE_S_MAX`."""
PAUSE_S_MAX: Final = 3.2
DEFECT_S: Final = 3.0
"""Before what follows an error that nobody foresaw."""
CLOSE_S: Final = 30.0
"""How long the end of a log that is handed over waits for the object store: another node may reach it."""

_T = TypeVar("_T")


class Fence(enum.StrEnum):
    """What keeps a deposed owner from acknowledging anything. The values are those of a configuration."""

    BOTH = "both"
    CONDITIONAL = "conditional"  # the store's conditional puts alone
    VERIFY = "verify"  # the coordinator's word alone: for a store that ignores conditions


class Services(Protocol):
    """What serves clients of a container beside its log."""

    def expect(self, container_id: int) -> None:
        """It is being opened."""

    async def begin(self, container_id: int) -> None:
        """It is open: load what lies in it, and serve. Raises an error if that cannot be read."""

    async def end(self, container_id: int) -> None:
        """It is about to be closed: answer all who wait. Nothing happens if it had not begun."""


class Membership:
    """See the module. For the event loop."""

    def __init__(
        self,
        coordination: Coordination,
        store: Store,
        services: Services,
        fence: Fence = Fence.BOTH,
        *,
        weights: Callable[[], Mapping[int, float]] = dict,
        rebalances: bool = True,
    ) -> None:
        """`weights`: how heavy containers are, see `core.cluster.loads`; `rebalances`: some move to a node without."""
        self._coordination = coordination
        self._store = store
        self._services = services
        self._guard = None if fence is Fence.CONDITIONAL else Guard(coordination.read_epochs)
        self._ownership = Ownership(coordination.containers)
        self._reaching = Reaching(store.reach_log, coordination.tell_reach, self._shown_reach)
        self._weights = weights
        self._rebalances = rebalances
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._actions: set[asyncio.Task[None]] = set()
        self._claims: dict[int, Claim] = {}  # of containers that are open here
        self._stations: dict[int, Stations] = {}  # of takeovers and hand-overs under way, by container
        self._warming = Warming(store.joining)
        self._epochs = asyncio.Lock()  # held while an epoch is given: of two the later one is the higher

    def __repr__(self) -> str:
        return f"<Membership {self._coordination.node} {self._ownership!r}>"

    @property
    def serving(self) -> set[int]:
        """The containers that this node serves."""
        return self._ownership.serving

    @property
    def unready(self) -> str:
        """Why this node serves no container although it should; empty if it serves one, or rightly none."""
        ownership, seen = self._ownership, self._coordination
        if ownership.is_draining:
            return "this node gives its containers to others"
        if not seen.is_fresh():
            return "this node's lease has ended, and its containers go to others"
        if ownership.serving:
            return ""
        if not ownership.is_rid:
            return "no container is open yet"
        counts = Counter(owner.node for owner in seen.owners().values() if owner.stage is Stage.SERVING)
        is_right = counts.total() == len(seen.containers) and (not self._rebalances or max(counts.values()) <= 1)
        return "" if is_right else "this node has no container yet"

    def start(self) -> None:
        """Take containers, and serve them, from now on."""
        self._store.is_ours = self._is_ours
        self._store.on_lost = self._lost
        self._store.raises = self._raise
        self._store.on_move(self._keeps)
        self._coordination.on_changed(self._changed.set)
        self._looking = asyncio.create_task(self._look_for_ever(), name="membership")
        self._reaching.start()

    async def drain(self, timeout_s: float) -> None:
        """Give all containers to other nodes, each cleanly. Returns when that is done, or the time is over."""
        self._ownership.drain()
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_answered(self._coordination.drain)
                while not self._ownership.is_rid:
                    self._changed.set()
                    await asyncio.sleep(PAUSE_S / 4)
        except TimeoutError:
            logger.warning("containers are left without a hand-over", extra={"containers": sorted(self._claims)})

    async def stop(self) -> None:
        """Take and give no more. Containers that are open are left to the store's end, before which what is on its way
        into their logs still asks whose they are: `close` follows behind that."""
        await self._reaching.stop()
        for task in (self._looking, *self._actions):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._actions, return_exceptions=True)
        await self._warming.stop()
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)

    async def close(self) -> None:
        """The store has been closed: nobody asks any more."""
        if self._guard is not None:
            await self._guard.close()

    def _shown_reach(self) -> bool | None:
        life = self._coordination.lives().get(self._coordination.node)
        return None if life is None else life.reaches_store

    def _is_ours(self, container_id: int) -> bool:
        claim, coordination = self._claims.get(container_id), self._coordination
        return claim is not None and claim.life == coordination.life and coordination.is_fresh()

    def _keeps(self, _: Slot) -> str | None:
        """Why slots stay in their containers."""
        level, needed = self._coordination.level, int(Feature.SLOT_MOVES)
        why = f"the cluster is at level {level}, and slots move from level {needed} on: see `penstock cluster finalize`"
        return None if allows(level, Feature.SLOT_MOVES) else why

    async def _raise(self, container_id: int) -> None:
        """Have the next epoch of the cluster as a container's leader epoch. Raises NotHosted, CoordinatorAway."""
        async with self._epochs:
            claim = self._claims.get(container_id)
            if claim is None or not self._ownership.stays(container_id):
                raise NotHosted(container_id)
            risen = await self._coordination.rise(claim)
            if risen is None:
                raise NotHosted(container_id)
        self._go_by(container_id, risen)

    def _go_by(self, container_id: int, epoch: int) -> None:
        """The coordinator has this leader epoch: also by a call that went through unseen."""
        hosted = self._store.containers.get(container_id)
        if hosted is not None and hosted.container.epoch < epoch:
            hosted.container.risen(epoch)

    # Looking

    async def _look_for_ever(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._look()
            except Exception:
                logger.exception("a defect: this node did not look at its cluster, and looks again. Please report it")
                await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        view = self._view()
        self._carry_out(self._ownership.look(view, _now_s()))
        for container, claim in self._claims.items():
            if (owner := view.owners.get(container)) is not None and owner.epoch == claim.epoch:
                self._go_by(container, owner.leader_epoch)
        for container in self._warming.containers - view.wishes.keys():
            if self._ownership.phase(container) is Phase.ELSEWHERE and view.owners.get(container) is not None:
                await self._warming.cool(container)

    def _view(self) -> View:
        seen = self._coordination
        return View(
            seen.node,
            seen.life,
            seen.owners(),
            seen.lives(),
            seen.is_fresh(),
            seen.wishes(),
            seen.warmed(),
            self._weights(),
            allows(seen.level, Feature.WISHES),
        )

    def _lost(self, container_id: int, _: StorageFailure) -> None:
        claim = self._claims.get(container_id)
        if claim is not None:
            self._carry_out(self._ownership.lost(claim, _now_s()))

    # Actions

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            task = asyncio.create_task(self._act(action), name=type(action).__name__)
            self._actions.add(task)
            task.add_done_callback(self._actions.discard)

    async def _act(self, action: Action) -> None:
        ownership, coordination = self._ownership, self._coordination
        match action:
            case TakeClaim(container):  # one that was made all the same is found by the next look
                stations = self._stations[container] = Stations()
                claim = await self._outcome(action, self._until_answered(partial(coordination.claim, container)), None)
                stations.reached("claimed")
                self._carry_out(ownership.claimed(container, claim))
            case Open(claim):
                links = await self._outcome(action, self._open(claim), None)
                self._carry_out(ownership.opened(claim, links, _now_s()))
            case Confirm(claim, links):
                stands = await self._outcome(
                    action, self._until_answered(partial(coordination.confirm, claim, links)), False
                )
                self._stations[claim.container].reached("confirmed")
                self._carry_out(ownership.confirmed(claim, stands=stands))
            case Serve(claim):
                is_well = await self._outcome(action, self._serve(claim), False)
                self._carry_out(ownership.serves(claim, well=is_well, now_s=_now_s()))
            case Warm(container, wish):
                await self._outcome(action, self._warm(container, wish), None)
            case Ask(claim, node):
                await self._outcome(
                    action, self._while_ours(claim, partial(coordination.ask, claim.container, node)), None
                )
                self._carry_out(ownership.asked(claim))
            case Prepare(claim):
                next_epoch = await self._outcome(action, self._prepare(claim), None)
                self._carry_out(ownership.prepared(claim, next_epoch, _now_s()))
            case Close(claim, next_epoch):
                link = await self._outcome(action, self._close(claim, next_epoch), None)
                self._carry_out(ownership.closed(claim, link))
            case HandOver(claim, wish, link):
                await self._outcome(action, self._hand_over(claim, wish, link), None)
                self._carry_out(ownership.handed_over(claim))
            case StepDown(claim, is_lost):
                await self._outcome(action, self._step_down(claim, is_lost=is_lost), None)
                self._carry_out(ownership.stepped_down(claim))
            case GiveUp(claim):  # a claim that is kept in silence would keep its container from all others
                while not await self._outcome(action, self._gave_up(claim), False):
                    pass
                ownership.gave_up(claim)
                self._changed.set()

    async def _outcome(self, action: Action, work: Awaitable[_T], otherwise: _T) -> _T:
        """What came of it, or the other outcome after an error that nobody foresaw."""
        try:
            return await work
        except Exception:
            logger.exception(
                "a defect: a step with a container failed. It is taken again, or the container goes to another node. "
                "Please report it",
                extra={"step": repr(action)[:REASON_CHARS_MAX]},
            )
            await asyncio.sleep(DEFECT_S)
            return otherwise

    # Handing over

    async def _warm(self, container: int, wish: Wish) -> None:
        """Read ahead, and tell the owner; it does not wait for ever, so a failure is only logged."""
        found = await self._warming.warm(container)
        if found is not None:
            await self._until_answered(partial(self._coordination.tell_warm, container, wish))
            await self._warming.keep(container, found)

    async def _prepare(self, claim: Claim) -> int | None:
        try:
            await self._store_last(claim)
        except (StoreError, StorageError, OSError) as error:  # the heir has more to read
            logger.warning("no last checkpoint", extra={"container": claim.container, "reason": str(error)})
        async with self._epochs:
            return await self._while_ours(claim, self._coordination.reserve_epoch)

    async def _store_last(self, claim: Claim) -> None:
        """Have a last checkpoint stored, for as long as the claim is ours: the store may not answer for minutes."""
        storing = asyncio.create_task(self._store.joining.prepare(claim.container), name="last checkpoint")
        try:
            while not storing.done() and self._stands(claim):
                await asyncio.wait((storing,), timeout=PAUSE_S)
        finally:
            storing.cancel()  # nothing, if it has ended
            (error,) = await asyncio.gather(storing, return_exceptions=True)
        if isinstance(error, Exception):
            raise error

    async def _close(self, claim: Claim, next_epoch: int) -> Link | None:
        container, joining = claim.container, self._store.joining
        stations = self._stations[container] = Stations()
        try:
            joining.stop_appends(container)
            await self._services.end(container)
            stations.reached("coordinators ended")
            async with asyncio.timeout(CLOSE_S):
                link = await joining.seal(container, next_epoch)
            stations.reached("log ended")
            return link
        except Exception as error:  # whatever it is, the container goes to another node
            reason = str(error) or f"the object store has not taken the end of its log within {CLOSE_S:g} s"
            logger.warning("a container was not handed over", extra={"container": container, "reason": reason})
            return None

    async def _hand_over(self, claim: Claim, wish: Wish, link: Link) -> None:
        self._claims.pop(claim.container, None)  # it says nothing any more of what its heir may have changed
        done = await self._until_answered(partial(self._coordination.hand_over, claim, wish, link))
        stations = self._stations[claim.container]
        stations.reached("claim given")
        told = {"container": claim.container, "node": wish.node, "epoch": link.next_epoch, "ms": stations.told()}
        if done:
            logger.info("container handed over", extra=told)
        else:
            logger.warning("a container is nobody's: the node that was to have it has gone", extra=told)

    async def _open(self, claim: Claim) -> Sequence[Link] | None:
        self._services.expect(claim.container)
        guard = self._guard
        is_ours = None if guard is None else partial(guard.is_ours, claim.container, claim.epoch)
        ahead = await self._warming.take(claim.container)
        claimed = Claimed(claim.epoch, claim.links, is_ours, ahead, self._stations[claim.container])
        try:
            hosted = await self._store.joining.open(claim.container, claimed)
        except Exception as error:  # whatever it is, another node may be able to
            logger.error("a container cannot be opened", extra={"container": claim.container, "reason": str(error)})
            await self._services.end(claim.container)
            return None
        finally:
            if ahead is not None:
                ahead.forget()
        self._claims[claim.container] = claim
        return hosted.links

    async def _serve(self, claim: Claim) -> bool:
        stations = self._stations[claim.container]
        try:
            await self._store.joining.serve(claim.container, stations)
            await self._services.begin(claim.container)
            stations.reached("coordinators begun")
        except Exception as error:
            logger.error("a container cannot be served", extra={"container": claim.container, "reason": str(error)})
            return False
        told = {"container": claim.container, "epoch": claim.epoch, "ms": stations.told()}
        logger.info("container served", extra=told)
        return True

    async def _step_down(self, claim: Claim, *, is_lost: bool) -> None:
        container, joining = claim.container, self._store.joining
        lost = Deposed(container, f"our claim, epoch {claim.epoch}, has ended") if is_lost else None
        self._claims.pop(container, None)
        joining.stop_appends(container, lost)
        for end in (self._services.end, joining.leave):
            try:
                await end(container)
            except Exception:  # the others are ended all the same, and the container is given up
                logger.exception("a container was not ended well", extra={"container": container})
        logger.info("container released", extra={"container": container, "epoch": claim.epoch, "lost": is_lost})

    async def _gave_up(self, claim: Claim) -> bool:
        async def given_up() -> None:
            if claim.life == self._coordination.life:  # else it has ended with that life
                await self._coordination.give_up(claim)

        await self._until_answered(given_up)
        return True

    def _stands(self, claim: Claim) -> bool:
        """Whether the claim is certainly ours, and its log as well, as far as this node has heard."""
        return self._is_ours(claim.container) and not self._ownership.is_lost(claim.container)

    async def _while_ours(self, claim: Claim, call: Callable[[], Awaitable[_T]]) -> _T | None:
        """The answer, if it comes while the claim is certainly ours: then its container is left at once."""
        pause_s = PAUSE_S
        while self._stands(claim):
            try:
                return await call()
            except StoreError as error:
                pause_s = await _paused(pause_s, error)
        return None

    async def _until_answered(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """A container waits for the outcome of its action: a refusal, too, may pass, as of rights or of a full disk."""
        pause_s = PAUSE_S
        while True:
            try:
                return await call()
            except StoreError as error:
                pause_s = await _paused(pause_s, error)


async def _paused(seconds: float, error: StoreError) -> float:
    """Wait for so long after a refusal; returns how long to wait after the next one."""
    logger.warning("the coordinator is asked again", extra={"reason": str(error)})
    await asyncio.sleep(seconds)
    return min(PAUSE_S_MAX, 2 * seconds)


def _now_s() -> float:
    return time.monotonic()
