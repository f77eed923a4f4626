"""A node that looks at loads many times a second, and acts on what it sees at once: what takes minutes otherwise can be
waited for.

python -m tests.faults.cluster.hasty_node serve …
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import core.balance
import core.cluster.balancing
import core.cluster.loads
import core.cluster.spreading
import core.spread
from gateway.cli.app import main as serve

LOOK_S: Final = 0.3
WINDOW_S: Final = 2.0


def command() -> Sequence[str]:
    """Of such a node."""
    return sys.executable, "-m", "tests.faults.cluster.hasty_node"


def main() -> None:
    core.balance.LOOK_S = core.balance.TELL_S = core.spread.LOOK_S = LOOK_S  # type: ignore[misc]
    core.cluster.loads.WINDOW_S = WINDOW_S  # type: ignore[misc]
    core.cluster.balancing.APART_S = core.cluster.spreading.APART_S = WINDOW_S  # type: ignore[misc]
    core.cluster.spreading.HOT_S = 2 * LOOK_S  # type: ignore[misc]
    serve()


if __name__ == "__main__":
    main()
