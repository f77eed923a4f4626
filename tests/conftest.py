"""Whatever starts the suite, Ctrl-C means the same to the processes that tests start.

A shell starts background jobs with SIGINT ignored. That is inherited, and a Python process that begins so never hears
of the signal that a test sends it.
"""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
