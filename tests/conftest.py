"""What holds for all tests: Ctrl-C is heard, and no property fails for the time that it takes.

A shell starts background jobs with SIGINT ignored. That is inherited, and a Python process that begins so never hears
of the signal that a test sends it. Hypothesis' deadline would fail properties on a machine that does other work.
"""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
