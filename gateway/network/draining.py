"""The choice of who reads records of TLS one behind another: the native extension where it is installed, else the loop
in `gateway.network.tls`, which can do it all. Tests ask for the loop by the environment variable
`PYTHON_WALKS_RECORDS`, as for batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol

from gateway.records.walking import PYTHON_VARIABLE


class Drain(Protocol):
    def __call__(
        self, read: Callable[[int, memoryview], int], room: memoryview, wire: memoryview, /
    ) -> tuple[int, Exception | None]:
        """Read records as long as one in `wire`, which OpenSSL has, is whole and the largest one has room. Returns how
        many bytes are in `room`, and what `read` raised in the end, if it did: EOFError if it read none."""


def _native() -> Drain | None:
    if os.environ.get(PYTHON_VARIABLE):
        return None
    try:
        from gateway.network._draining import drain
    except ImportError:
        return None
    return drain


drain: Final = _native()
