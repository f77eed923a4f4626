"""The store's one clock for everything that expires: the rule of `trusted_time`, at any moment and over restarts.

Its state is a small file beside the store's lock, written every `SAVE_EVERY_S` and at a stop. If the file cannot be
read, the log files give a time that is past.

**Invariant**: a stamp is as late as if `TrustedTime` had looked just now, however long ago it really did.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from core.clock import Clock
from core.log.files import write_durably
from core.trusted_time import JUMP_MS, BadTime, TrustedTime, decode_time, time_at_start

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 10.0
SAVE_EVERY_S: Final = 60.0
COMPLAIN_EVERY_S: Final = 3600.0
STATE_BYTES_MAX: Final = 4096


class TrustedClock:
    """Readings for any thread. A new one believes the wall clock; `load` then goes on from the last run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._monotonic_ms = int(clock.monotonic_s() * 1000)
        self._time = TrustedTime(clock.wall_ms())
        self._stamping = (0, 0)  # the wall clock less the monotonic one, and how far stamps are ahead of it
        self._remember()
        self._path: Path | None = None
        self._task: asyncio.Task[None] | None = None
        self._complained_s: float | None = None

    def __repr__(self) -> str:
        return f"<TrustedClock {self._time}>"

    # Readings

    def timestamps_ms(self) -> int:
        """Now, as the timestamps of records are judged."""
        return self._look().timestamps_ms

    def stamp_ms(self) -> int:
        """Now, to be written down and judged by its age. Cheap."""
        wall_ms, monotonic_ms = self._clock.wall_ms(), int(self._clock.monotonic_s() * 1000)
        apart_ms, ahead_ms = self._stamping
        if -JUMP_MS <= wall_ms - monotonic_ms - apart_ms <= JUMP_MS:
            return wall_ms + ahead_ms
        return self._look().stamp_ms

    def ages_ms(self) -> int:
        """Now, as stamps are judged."""
        return self._look().ages_ms

    def age_ms(self, stamp_ms: int) -> int:
        """The least time that has passed since this stamp."""
        return self._look().age_ms(stamp_ms)

    def now(self) -> TrustedTime:
        """All readings of one moment, for callers that judge many stamps."""
        return self._look()

    @property
    def holds_a_jump(self) -> bool:
        """Whether the wall clock is not believed just now."""
        return bool(self._look().held)

    def _look(self) -> TrustedTime:
        with self._lock:
            wall_ms, monotonic_ms = self._clock.wall_ms(), int(self._clock.monotonic_s() * 1000)
            passed_ms = monotonic_ms - self._monotonic_ms
            gained_ms = wall_ms - self._time.wall_ms - passed_ms
            self._monotonic_ms = monotonic_ms
            self._time = time = self._time.after(passed_ms, wall_ms)
            self._remember()
        if abs(gained_ms) > JUMP_MS:
            logger.warning(
                "the clock jumped, or the machine stood still: what expires waits until it has stood for an hour",
                extra={"jump_ms": gained_ms},
            )
        return time

    def _remember(self) -> None:
        """Refresh the values from which `stamp_ms` reckons without the lock."""
        self._stamping = self._time.wall_ms - self._monotonic_ms, self._time.ahead_ms

    # Over restarts

    def load(self, path: Path, known_ms: Callable[[], int | None]) -> None:
        """Go on from the state that the last run left. Blocks."""
        self._path = path
        saved: TrustedTime | None = None
        try:
            with path.open("rb") as stream:
                saved = decode_time(stream.read(STATE_BYTES_MAX))
        except FileNotFoundError:
            pass
        except (OSError, BadTime) as error:
            logger.warning(
                "the clock's state of the last run cannot be read: ages are counted from the newest log file",
                extra={"file": str(path), "reason": str(error)},
            )
        known = known_ms() if saved is None else None
        with self._lock:
            wall_ms = self._clock.wall_ms()
            self._monotonic_ms = int(self._clock.monotonic_s() * 1000)
            self._time = time_at_start(saved, known, wall_ms)
            self._remember()
        was_ms = known if saved is None else saved.wall_ms
        if was_ms is not None and abs(wall_ms - was_ms) > JUMP_MS:
            logger.warning(
                "this start is long after the last stop, or the clock is wrong: what expires by it waits for an hour",
                extra={"gap_ms": wall_ms - was_ms},
            )

    def save(self) -> None:
        """Write down the clock's state. A failure is logged; the next start takes the time since for a stop. Blocks."""
        if self._path is None:
            return
        try:
            write_durably(self._path, self._look().encode())
        except OSError as error:
            now_s = self._clock.monotonic_s()
            if self._complained_s is None or now_s - self._complained_s >= COMPLAIN_EVERY_S:
                self._complained_s = now_s
                logger.warning("the clock's state cannot be written down", extra={"reason": str(error)})

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="trusted-clock")

    async def stop(self) -> None:
        """End, and write down the clock's state for the next run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            await asyncio.to_thread(self.save)

    async def _run(self) -> None:
        while True:
            await asyncio.to_thread(self.save)
            for _ in range(int(SAVE_EVERY_S / LOOK_EVERY_S)):
                await asyncio.sleep(LOOK_EVERY_S)
                self._look()
