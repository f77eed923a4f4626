"""Whether this node reaches the object store: one that does not could not open a container, and is given none.

It would claim what a dead node had, and keep it from all others while its reads wait for their time-outs, minutes; and
as its own containers stand still it would soon have the least load, and be given those of others.

**Invariants**

- One question is on its way at a time, and waits for its answer however long that takes: the state is bad from
  `ANSWER_S` on, and good again with the first answer.
- What is so is told until the coordinator shows it. A life that begins meanwhile may say what was so before: the next
  answer finds that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from core.background import Background
from core.errors import StoreError
from tier2.storage import StorageError

logger = logging.getLogger(__name__)

LOOK_S: Final = 3.0
ANSWER_S: Final = 3.0
AGAIN_S: Final = 1.0
"""After an answer that was none, or that the coordinator has not heard."""
REASON_CHARS_MAX: Final = 300

Look = Callable[[], Awaitable[object]]
"""Ask the store for anything. Raises StorageError."""
Tell = Callable[[bool], Awaitable[None]]
"""Tell all nodes, in this life and those to come. Raises StoreError."""
Shown = Callable[[], bool | None]
"""What this life shows to all nodes; None if there is no life."""


class Reaching:
    """See the module. For the event loop; end it with `stop`."""

    def __init__(self, look: Look, tell: Tell, shown: Shown) -> None:
        self._look = look
        self._tell = tell
        self._shown = shown
        self._told = True
        self._background = Background("asking for the object store", None, self._step, retry_s=AGAIN_S)

    def __repr__(self) -> str:
        return f"<Reaching {'the store' if self._told else 'nothing'}>"

    def start(self) -> None:
        """Look from now on."""
        self._background.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._background.stop()

    async def _step(self) -> float:
        is_good = await self._asked()
        has_heard = await self._tells(is_good)
        return LOOK_S if is_good and has_heard else AGAIN_S

    async def _asked(self) -> bool:
        asking = asyncio.ensure_future(self._look())
        try:
            done, _ = await asyncio.wait((asking,), timeout=ANSWER_S)
            if not done:
                await self._tells(False, f"it has not answered within {ANSWER_S:g} s")
            await asking
        except StorageError as error:
            await self._tells(False, str(error)[:REASON_CHARS_MAX])
            return False
        except Exception:  # what is wrong here is not the way to the store
            logger.exception("a defect: it is not known whether the object store is reached. Please report it")
        finally:
            asking.cancel()
        return True

    async def _tells(self, is_good: bool, why: str = "") -> bool:
        """Whether all have heard it."""
        if is_good == self._told and self._shown() in (is_good, None):
            return True
        if not is_good and self._told:
            logger.warning("this node does not reach the object store, and takes no containers", extra={"reason": why})
        try:
            await self._tell(is_good)
        except StoreError as error:
            logger.warning("how the object store is reached is not told", extra={"reason": str(error)})
            return False
        if is_good and not self._told:
            logger.info("this node reaches the object store again")
        self._told = is_good
        return True
