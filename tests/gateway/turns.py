"""`penstock` with a watch on its event loop: the longest turn since clients are served, in ms, is its last line.

Keeps: a turn is measured in CPU time of the loop's own thread, so a busy machine does not lengthen it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Final

import uvloop

from gateway.cli.app import main as penstock

BEAT_S: Final = 0.001
_new_event_loop: Final = uvloop.new_event_loop
longest_s = 0.0


def watched() -> asyncio.AbstractEventLoop:
    loop = _new_event_loop()
    loop.call_soon(_beat, loop, time.thread_time())
    return loop


def _beat(loop: asyncio.AbstractEventLoop, before_s: float) -> None:
    global longest_s
    now_s = time.thread_time()
    if gc.isenabled() and now_s - before_s > longest_s:  # it is off until clients are served
        longest_s = now_s - before_s
        print(f"{longest_s * 1000:.1f}", flush=True)
    loop.call_later(BEAT_S, _beat, loop, now_s)


if __name__ == "__main__":
    uvloop.new_event_loop = watched  # type: ignore[assignment]
    penstock()
