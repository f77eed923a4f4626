"""Plays a demo until it is over or is told to end.

Keeps: all that was started is ended, whichever way the demo ends, unless SIGKILL ends it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

from rich.console import Console

from deploy.demo.servers import CannotStart


def to_the_end(console: Console, play: Callable[[contextlib.ExitStack], None]) -> int:
    """The exit code. What `play` starts is ended by the stack that it is given."""
    # Both signals act as Ctrl-C: the current work stops, and all that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    code = 0
    with contextlib.ExitStack() as ends:
        try:
            play(ends)
        except KeyboardInterrupt:
            pass
        except CannotStart as error:
            console.print(str(error), style="red", soft_wrap=True)
            code = 1
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C leaves no server behind
    console.print("Everything that was started has ended.")
    return code
